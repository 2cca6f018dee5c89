import json

import pytest
from _runs import Ledger, mean_and_deviation


def test_ledger__writes_each_run_at_once_with_what_is_made_of_all(tmp_path):
    file = tmp_path / "out" / "runs.json"
    ledger = Ledger(file, lambda runs: {"count": len(runs)})
    ledger.once({"seed": 0}, lambda: {"accuracy": 1.0})
    written = json.loads(file.read_text())
    assert written["count"] == 1
    assert written["runs"][0]["setting"] == {"seed": 0}
    assert written["runs"][0]["accuracy"] == 1.0


def test_ledger__keeps_what_was_finished_before_a_run_that_fails(tmp_path):
    file = tmp_path / "runs.json"
    ledger = Ledger(file, lambda runs: {})
    ledger.once({"seed": 0}, lambda: {"accuracy": 1.0})
    with pytest.raises(ZeroDivisionError):
        ledger.once({"seed": 1}, lambda: {"accuracy": 1 / 0})
    again = Ledger(file, lambda runs: {})
    assert again.once({"seed": 0}, lambda: {"accuracy": 2.0})["accuracy"] == 1.0
    assert again.once({"seed": 1}, lambda: {"accuracy": 3.0})["accuracy"] == 3.0


def test_ledger__repeats_a_run_whose_setting_has_changed():
    ledger = Ledger(None, lambda runs: {})
    ledger.once({"seed": 0, "epochs": 1}, lambda: {"accuracy": 1.0})
    assert ledger.once({"seed": 0, "epochs": 2}, lambda: {"accuracy": 2.0})["accuracy"] == 2.0


def test_mean_and_deviation__is_that_of_a_sample():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_deviation([4.0]) == (4.0, None)
