"""What the README shows runs as it stands."""

import re

from tests.layout import ROOT

README = (ROOT / "README.md").read_text()


def test_python_blocks__run_one_after_another(tmp_path, monkeypatch, make_trainer):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    names = {"__name__": "readme", "quiet_trainer": make_trainer}
    for block in blocks:
        exec(block.replace("pl.Trainer(", "quiet_trainer("), names)
    assert names["explanation"].heatmaps["grad_cam"].shape == (4, 30, 30)
    assert (tmp_path / "camtrain_logs" / "report.html").is_file()


def test_commands__name_files_that_exist():
    named = set(re.findall(r"(?:configs|scripts)/[\w/.]+", README))
    assert named >= {"scripts/demo", "scripts/test", "configs/demo.yaml"}
    assert all((ROOT / name).is_file() for name in named)
