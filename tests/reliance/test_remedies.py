import importlib
from dataclasses import replace

import pytest
import yaml

from camtrain.reliance import STICKER, Verdict, remedies_of
from camtrain.sinks import VerdictRow
from camtrain.swaps.looks import LOOKS
from tests.layout import ROOT

VERDICT = Verdict(0, "boat", "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "background", "")
CUES = ["background", *(look.name for look in LOOKS.values()), "frame", STICKER, "region at the lower right"]


@pytest.mark.parametrize("cue", CUES)
def test_remedies__are_configurations_that_build(cue):
    found = remedies_of(replace(VERDICT, cue=cue))
    assert len(found) >= 2
    for remedy in found:
        for entry in yaml.safe_load(remedy.yaml):
            module, _, name = entry["class_path"].rpartition(".")
            getattr(importlib.import_module(module), name)(**entry.get("init_args", {}))


@pytest.mark.parametrize(
    ("cue", "first"),
    [
        ("background", "align attention"),
        ("background tint", "randomize the cue"),
        ("background brightness", "randomize the cue"),
        ("sharpness", "randomize the cue"),
        ("frame", "align attention"),
        (STICKER, "align attention"),
    ],
)
def test_remedies__begin_with_what_reaches_the_cue(cue, first):
    assert remedies_of(replace(VERDICT, cue=cue))[0].name == first


def test_remedies__of_sharpness_do_not_promise_what_masks_cannot_do():
    assert not any("AttentionAlignment" in one.yaml for one in remedies_of(replace(VERDICT, cue="sharpness")))


@pytest.mark.parametrize(
    ("verdict", "names"),
    [
        ("not reliant", []),
        ("no evidence", []),
        ("undecided", ["judge more images"]),
        ("suspect", ["look, and annotate"]),
    ],
)
def test_remedies__of_other_verdicts(verdict, names):
    row = VerdictRow(0, "boat", verdict, 0.0, 0.0, 0.0, 0.0, 1.0, 9)
    assert [one.name for one in remedies_of(row)] == names


def test_remedies__lead_to_a_page_that_there_is():
    pages = {one.page for cue in CUES for one in remedies_of(replace(VERDICT, cue=cue))}
    assert all((ROOT / "docs" / page).is_file() for page in pages)
