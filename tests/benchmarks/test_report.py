import json

import pytest

from benchmarks._report import median_and_spread, parser, report


def test_median_and_spread__are_those_of_the_quartiles():
    assert median_and_spread([2.0, 3.0, 4.0, 5.0, 1.0]) == (3.0, 2.0)


def test_median_and_spread__of_one_value_is_that_value():
    assert median_and_spread([1.5]) == (1.5, 0.0)


def test_report__prints_and_writes_rows_summary_and_environment(tmp_path, capsys):
    file = tmp_path / "out" / "x.json"
    options = parser("What it measures.").parse_args(["--device=cpu", f"--json={file}"])
    report([{"model": "resnet18", "ratio": 1.0234567}], {"validation_ratio": 1.02}, options, "Overhead")
    assert "1.023" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert written["rows"] == [{"model": "resnet18", "ratio": 1.0234567}]
    assert written["summary"] == {"validation_ratio": 1.02}
    assert {"torch", "threads", "cores", "command"} <= set(written["environment"])
    assert '\n{"model": "resnet18", "ratio": 1.0234567}\n' in file.read_text()  # a line for each row


def test_parser__has_the_options_of_every_benchmark(tmp_path):
    options = parser("What it measures.").parse_args(["--quick", "--seeds=3", "--device=cpu", "--json=x.json"])
    assert (options.quick, options.seeds, options.device, options.json.name) == (True, 3, "cpu", "x.json")


def test_parser__names_a_data_folder_that_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parser("What it measures.", data=True).parse_args(["--data", str(tmp_path / "nowhere")])
    assert "nowhere" in capsys.readouterr().err
