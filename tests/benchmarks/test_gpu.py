import json

import gpu
import pytest
import torch
from _waits import Waits


@pytest.mark.filterwarnings("ignore")
def test_main__runs_through_in_miniature(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["gpu.py", "--quick", "--device", "cpu", "--json", str(tmp_path / "gpu.json")])
    gpu.main()
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["summary"]["exact"] == written["summary"]["compared"] == 6
    assert not [row for row in written["rows"] if row["what"] == "left out"]
    assert {row["table"] for row in written["rows"]} == {"exact", "waits", "time", "encoding"}


def test_waits__counts_what_reads_values_back():
    values = torch.arange(4.0)
    with Waits() as waits:
        values[values > 1]
        values[torch.tensor([0, 1])]
        values.sum().item()
        torch.where(values > 1, values, 0)
    assert waits.counts == {"index": 1, "_local_scalar_dense": 1}
