import importlib
from dataclasses import replace

import pytest
import yaml

import camtrain.callbacks
from camtrain.reliance import STICKER, Verdict, advice_for, remedies_of
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
            arguments = entry.get("init_args", {})
            kind = getattr(importlib.import_module(module), name)
            kind(**arguments)
            assert remedy.python == f"{entry['class_path']}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
            assert isinstance(
                eval(remedy.python, {"camtrain": camtrain}), getattr(importlib.import_module(module), name)
            )


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
    row = Verdict(0, "boat", verdict, 0.0, 0.0, 0.0, 0.0, 1.0, 9)
    assert [one.name for one in remedies_of(row)] == names


def test_remedies__lead_to_a_page_that_there_is():
    pages = {one.page for cue in CUES for one in remedies_of(replace(VERDICT, cue=cue))}
    assert all((ROOT / "docs" / page).is_file() for page in pages)


def undecided(name, judged):
    return Verdict(0, name, "undecided", 0.1, 0.0, 0.2, 0.0, 0.2, judged)


def test_advice__of_undecided_classes_names_what_the_validation_data_hold():
    rows = [undecided("cat", 12), undecided("dog", 20), undecided("cow", 8)]
    more, all_judged = advice_for(rows, {"cat": 24, "dog": 40, "cow": 8})
    assert more.class_names == ("cat", "dog")
    assert more.remedies[0].sentence.startswith("Validation holds 24 of cat (12 judged), 40 of dog (20 judged): judge")
    (entry,) = yaml.safe_load(more.remedies[0].yaml)
    assert entry["init_args"] == {"images_per_class": 40, "max_images": 800}
    assert all_judged.class_names == ("cow",)
    assert "Validation holds 8 of cow (8 judged): there are no more to judge" in all_judged.remedies[0].sentence
    assert yaml.safe_load(all_judged.remedies[0].yaml) == {"data": {"init_args": {"val_fraction": 0.4}}}


def test_advice__of_undecided_classes_whose_data_nobody_counted_is_the_notes():
    (advice,) = advice_for([undecided("cat", 12), undecided("dog", 12)])
    assert advice.class_names == ("cat", "dog")
    assert remedies_of(undecided("cat", 12)) == advice.remedies
    assert "24 of cat (12 judged)" in remedies_of(undecided("cat", 12), 24)[0].sentence
