import pytest

from camtrain.monitoring.drift import Reading, troubles

NAN = float("nan")
START = Reading(0.6, 0.5, 0.0)


@pytest.mark.parametrize(
    ("now", "kinds"),
    [
        (Reading(0.7, 0.3, 0.0), ["cheating"]),
        (Reading(0.5, 0.7, 0.0), ["forgetting"]),
        (Reading(0.6, 0.5, 0.6), ["dead"]),
        (Reading(0.9, NAN, 1.0), ["dead"]),
        (Reading(0.7, 0.6, 0.0), []),
        (Reading(0.64, 0.3, 0.0), []),
        (Reading(NAN, NAN, NAN), []),
    ],
)
def test_troubles__name_what_went_wrong(now, kinds):
    assert list(troubles([START], now)) == kinds


def test_troubles__of_the_first_epoch_are_none():
    assert troubles([], Reading(0.7, 0.1, 1.0)) == {}


def test_troubles__of_a_network_that_never_had_maps_are_none():
    assert troubles([Reading(0.5, NAN, 1.0)], Reading(0.5, NAN, 1.0)) == {}


def test_reading__takes_held_out_accuracy_and_the_first_method():
    scalars = {
        "train/accuracy": 0.1,
        "val/worst_group_accuracy": 0.2,
        "val/accuracy": 0.3,
        "cam/inside_energy/grad_cam": NAN,
        "cam/inside_energy/hires_cam": 0.4,
        "cam/empty_maps/grad_cam": 0.0,
    }
    assert Reading.of(scalars) == Reading(0.3, 0.4, 0.0)
