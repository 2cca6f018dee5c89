import pytest
import torch

from camtrain.errors import BatchError, ConfigurationError
from camtrain.metrics import (
    BackgroundGap,
    RelativeForegroundSensitivity,
    background_gap,
    noise_in_region,
    relative_foreground_sensitivity,
)


@pytest.mark.parametrize(
    ("foreground", "background", "value"),
    [(0.6, 0.8, 1 / 3), (0.8, 0.6, -1 / 3), (0.0, 1.0, 1.0), (0.1, 0.3, 0.5), (0.5, 0.5, 0.0)],
)
def test_sensitivity__is_the_hand_worked_one(foreground, background, value):
    found = relative_foreground_sensitivity(torch.tensor(foreground), torch.tensor(background))
    assert found.item() == pytest.approx(value)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_sensitivity__without_room_is_nan(accuracy):
    assert relative_foreground_sensitivity(torch.tensor(accuracy), torch.tensor(accuracy)).isnan()


def test_metrics__over_batches_and_processes_are_those_of_all_images():
    first, second = torch.rand(20) > 0.6, torch.rand(20) > 0.3
    for kind, function in (
        (RelativeForegroundSensitivity, relative_foreground_sensitivity),
        (BackgroundGap, background_gap),
    ):
        parts = [kind(), kind()]
        parts[0].update(first[:6], second[:6])
        parts[0].update(first[6:9], second[6:9])
        parts[1].update(first[9:], second[9:])
        parts[0].merge_state(parts[1])
        torch.testing.assert_close(parts[0].compute(), function(first.float().mean(), second.float().mean()))


def test_metrics__need_both_answers_for_each_image():
    with pytest.raises(BatchError, match="same images"):
        BackgroundGap().update(torch.ones(3), torch.ones(2))


def test_noise__falls_on_the_region_alone_with_its_deviation():
    images, masks = torch.rand(3, 3, 40, 40), torch.zeros(3, 40, 40)
    masks[:, :20], masks[2] = 1, -1
    inside, outside = (noise_in_region(images, masks, inside=where) - images for where in (True, False))
    assert inside[:2, :, 20:].abs().max() == 0
    assert outside[:2, :, :20].abs().max() == 0
    assert inside[:2, :, :20].std().item() == pytest.approx(0.25, rel=0.05)
    assert outside[:2, :, 20:].std().item() == pytest.approx(0.25, rel=0.05)
    assert inside[2].abs().max() == outside[2].abs().max() == 0


def test_noise__of_a_negative_deviation_is_refused():
    with pytest.raises(ConfigurationError, match="sigma=-1"):
        noise_in_region(torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2), inside=True, sigma=-1.0)
