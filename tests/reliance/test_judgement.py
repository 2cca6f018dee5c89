import json

import pytest

from camtrain.errors import ConfigurationError
from camtrain.reliance import Verdict
from camtrain.reliance.history import accepted, fair_cues, read_judgements


def write(path, *rows):
    names = ("class_name", "cue", "judgement")
    path.write_text(json.dumps({"judgements": [dict(zip(names, row, strict=True)) for row in rows]}))
    return path


def test_fair_cues__are_those_of_the_file(tmp_path):
    path = write(tmp_path / "j.json", ("boat", "background", "fair"), ("car", "tint", "spurious"))
    assert fair_cues(path) == {("boat", "background")}
    assert fair_cues(None) == frozenset()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no file"), ("{}", "no file of judgements"), ("[1]", "no file of judgements")],
)
def test_judgements__of_another_file_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "j.json").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_judgements(tmp_path / "j.json")


def test_judgements__are_fair_or_spurious(tmp_path):
    with pytest.raises(ConfigurationError, match="'fair' or 'spurious', got 'maybe'"):
        read_judgements(write(tmp_path / "j.json", ("boat", "background", "maybe")))


def test_accepted__changes_flags_of_the_same_class_and_cue_only():
    verdicts = [
        Verdict(0, name, verdict, 0.3, 0.2, 0.4, 0.0, 0.001, 30, cue, "")
        for name, verdict, cue in (
            ("boat", "reliant", "background"),
            ("boat", "reliant", "sharpness"),
            ("car", "reliant", "background"),
            ("hen", "undecided", "background"),
        )
    ]
    fair = {("boat", "background"), ("hen", "background")}
    assert [each.verdict for each in accepted(verdicts, fair)] == ["fair", "reliant", "reliant", "undecided"]
