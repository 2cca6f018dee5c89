"""The recorded results: in the form that is written, and each with the command that measured it."""

import json
import re
from pathlib import Path

import pytest
from _report import compact

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
FILES = sorted(path.name for path in RESULTS.glob("*.json"))


@pytest.mark.parametrize("name", FILES)
def test_results__have_a_line_for_each_row(name):
    text = (RESULTS / name).read_text()
    assert compact(json.loads(text)) == text


def test_results__are_listed_with_their_commands_which_exist():
    listed = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", (RESULTS / "README.md").read_text(), re.M))
    assert sorted(listed) == FILES
    for script in re.findall(r"`(\w+\.py)", " ".join(listed.values())):
        assert (RESULTS.parent / script).is_file(), script
