"""Which arguments alignment takes, told before anything is trained."""

import inspect

import numpy as np
import pytest
from jaxtyping import config
from torch import nn

from camtrain import callbacks
from camtrain.cam import true_class
from camtrain.checks import check_arguments
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.losses import AlignmentLoss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": None}, r"0 switches it off.*got None"),
        ({"weight": "Auto"}, "got 'Auto'"),
        ({"gradient_ratio": 0}, "above 0; got 0"),
        ({"twins_share": 1.5}, r"in \(0, 1\]; got 1.5"),
        ({"reuse": float("nan")}, "above 0; got nan"),
        ({"accumulate": 0}, "at least 1; got 0"),
        ({"stop_when": 1.5}, "stop_when is an epoch from 1 on.*got 1.5"),
        ({"loss": "outside_l1"}, "an instance.*got 'outside_l1'"),
        ({"schedule": "linear"}, "of the progress.*got 'linear'"),
        ({"target": None}, "target is a function"),
        ({"layers": 3}, "layers are 'auto'.*got 3"),
        ({"layers": []}, r"layers are 'auto'.*got \[\]"),
        ({"model": 3}, "model is the name of a part.*got 3"),
        ({"seed": "a"}, "seed is a whole number.*got 'a'"),
        ({"second_order": "no"}, "second_order is True or False; got 'no'"),
        ({"memory": True}, "memory counts images.*got True"),
        ({"weight": True}, "weight is 'auto' or.*got True"),
        ({"method": 3}, "method is a name.*got 3"),
        ({"infill": "blur"}, "infill is one of.*got 'blur'"),
        ({"jitter": -0.1}, "jitter is a fraction.*got -0.1"),
        ({"jitter": "a"}, "jitter is a fraction.*got 'a'"),
        ({"stop_when": "val/accuracy =>"}, "stop_when is an epoch.*got 'val/accuracy =>'"),
        ({"twins_place": "both"}, "'exchange', 'add'; got 'both'"),
    ],
)
def test_check_arguments__name_the_value_and_the_remedy(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        check_arguments(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": np.float32(2.0), "seed": np.int64(3), "memory": np.int32(4), "start_when": np.int64(1)},
        {"reuse": float("inf"), "twins": 0, "twins_share": 1},
        {"layers": ["net.0", nn.Conv2d(1, 1, 1)], "model": nn.Identity()},
        {"loss": AlignmentLoss(), "target": true_class, "schedule": None},
    ],
)
def test_check_arguments__take_what_can_be_meant(arguments):
    check_arguments(**arguments)


_WRONG = {
    "ExplanationMonitor": {
        "methods": [3, []],
        "layers": [3, []],
        "every_n_epochs": [0, 1.5, "1", None, True],
        "num_probes": [-1, 2.5, "8"],
        "num_failures": [-1, None],
        "grounded_above": [float("nan"), "0.2", 2],
        "target": [None, "predicted_class"],
        "batch_adapter": ["images"],
        "model": [3],
        "dataloader_idx": [-1, "0"],
        "pictures": ["gif", None],
        "task": [3, "clasification"],
    },
    "RelianceDetector": {
        "every_n_epochs": [0, 0.5],
        "start_epoch": [-1, None],
        "images_per_class": [1, "60"],
        "max_images": [0, 1.5],
        "lend_from_training": ["yes"],
        "classes": [[1], [1, 1], [0, -1], "01", 3],
        "donor_classes": [1, 2.5],
        "looks": ["tint", ["hue"], [3]],
        "stickers": [1],
        "alpha": [0, 1, float("nan"), "0.05"],
        "tau": [float("nan"), None],
        "limit": ["0.1", 2],
        "spend_alpha": [None],
        "num_examples": [-1],
        "regions": [3, -4, 12.5],
        "segmenter": ["grabcut"],
        "judgement": [3],
        "batch_adapter": [3],
        "model": [0],
        "dataloader_idx": [-1],
        "seed": [-1, "a"],
        "task": [object],
    },
    "FaithfulnessMonitor": {
        "methods": [[]],
        "metrics": ["average_drop", ["average"]],
        "layers": [None],
        "budget": [0, 10.5, "75"],
        "every_n_epochs": [0],
        "steps": [0, None],
        "of_labels": ["no"],
        "level": [1, 0, float("nan")],
        "max_batch": [0],
        "batch_adapter": [3],
        "model": [3],
        "dataloader_idx": [-1],
    },
    "LastLayerRetraining": {
        "when": ["reliance/flagged =>", 3],
        "cues": [[], ["hue"], "background"],
        "images_per_class": [1],
        "max_images": [1],
        "donor_classes": [1],
        "head": [3],
        "model": [3],
        "batch_adapter": [3],
        "seed": [-1],
    },
    "CueRandomization": {
        "cue": ["hue", None],
        "p": [-0.1, 1.1, float("nan"), None],
        "start_when": ["", -1, 1.5],
        "batch_adapter": ["a"],
    },
}


@pytest.fixture
def unchecked_types():
    """As a user calls it: annotations are checked in tests alone."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("callback", "name", "value"),
    [
        pytest.param(callback, name, value, id=f"{callback}-{name}-{value!r:.12}")
        for callback, wrong in _WRONG.items()
        for name, values in wrong.items()
        for value in values
    ],
)
def test_callbacks__refuse_at_construction_what_cannot_be_meant(callback, name, value):
    with pytest.raises(CamtrainError) as error:
        getattr(callbacks, callback)(**{name: value})
    assert name in str(error.value).lower()
    assert "got" in str(error.value) or repr(value) in str(error.value)


@pytest.mark.parametrize("callback", _WRONG)
def test_callbacks__have_wrong_values_of_every_argument_above(callback):
    assert set(inspect.signature(getattr(callbacks, callback)).parameters) == set(_WRONG[callback])
