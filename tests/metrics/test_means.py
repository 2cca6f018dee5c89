import pytest
import torch

from camtrain.errors import BatchError, ConfigurationError
from camtrain.metrics import (
    EnergyLift,
    HeatmapIoU,
    InsideEnergy,
    LocalizationError,
    MapAveragePrecision,
    NanMean,
    PointingGame,
    average_precision,
    energy_lift,
    heatmap_iou,
    inside_energy,
    localization_error,
    pointing_game,
)

GROUNDED = {
    EnergyLift: energy_lift,
    HeatmapIoU: heatmap_iou,
    InsideEnergy: inside_energy,
    LocalizationError: localization_error,
    MapAveragePrecision: average_precision,
    PointingGame: pointing_game,
}


@pytest.fixture
def grounded():
    heat, masks = torch.rand(12, 4, 4), (torch.rand(12, 8, 8) > 0.5).float()
    masks[3] = -1
    heat[5] = 0
    return heat, masks, torch.randint(0, 3, (12,))


def test_nan_mean__leaves_out_and_counts_what_is_undefined():
    metric = NanMean()
    metric.update(torch.tensor([1.0, torch.nan]))
    metric.update(torch.tensor([4.0]))
    assert metric.compute().item() == 2.5
    assert metric.undefined.item() == 1


def test_nan_mean__of_nothing_is_nan():
    metric = NanMean()
    metric.update(torch.tensor([torch.nan]))
    assert metric.compute().isnan()


def test_nan_mean__of_each_class_leaves_out_images_without_one():
    metric = NanMean(num_classes=3)
    metric.update(torch.tensor([1.0, torch.nan, 5.0]), torch.tensor([0, 1, -1]))
    metric.update(torch.tensor([3.0]), torch.tensor([0]))
    torch.testing.assert_close(metric.compute(), torch.tensor([2.0, torch.nan, torch.nan]), equal_nan=True)
    assert metric.undefined.tolist() == [0, 1, 0]


def test_nan_mean__of_each_class_needs_labels_it_knows():
    with pytest.raises(BatchError, match="needs labels"):
        NanMean(num_classes=2).update(torch.ones(1))
    with pytest.raises(BatchError, match="Label 2 is outside the 2 classes"):
        NanMean(num_classes=2).update(torch.ones(1), torch.tensor([2]))
    with pytest.raises(ConfigurationError, match="got 0"):
        NanMean(num_classes=0)


@pytest.mark.parametrize(("kind", "function"), GROUNDED.items(), ids=[kind.__name__ for kind in GROUNDED])
def test_metrics__over_batches_equal_the_function_over_all(grounded, kind, function):
    metric, each, (heat, masks, labels) = kind(), kind(num_classes=3), grounded
    for part in range(0, 12, 5):
        metric.update(heat[part : part + 5], masks[part : part + 5])
        each.update(heat[part : part + 5], masks[part : part + 5], labels[part : part + 5])
    values = function(heat, masks)
    torch.testing.assert_close(metric.compute(), values.nanmean())
    torch.testing.assert_close(each.compute(), torch.stack([values[labels == c].nanmean() for c in range(3)]))
    assert metric.undefined.item() == 2


def test_metrics__merge_the_states_of_processes(grounded):
    heat, masks, labels = grounded
    parts = [InsideEnergy(num_classes=3), InsideEnergy(num_classes=3)]
    parts[0].update(heat[:2], masks[:2], labels[:2])
    parts[1].update(heat[2:], masks[2:], labels[2:])
    parts[0].merge_state(parts[1])
    values = inside_energy(heat, masks)
    torch.testing.assert_close(parts[0].compute(), torch.stack([values[labels == c].nanmean() for c in range(3)]))
