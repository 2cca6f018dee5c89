"""Which arguments alignment takes, told before anything is trained."""

import numpy as np
import pytest
from torch import nn

from camtrain.cam import true_class
from camtrain.checks import check_arguments
from camtrain.errors import ConfigurationError
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
