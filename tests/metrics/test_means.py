import pytest
import torch
from torchmetrics import MetricCollection

from camtrain.errors import BatchError, ConfigurationError
from camtrain.metrics import (
    BackgroundGap,
    EnergyLift,
    GroupAccuracy,
    HeatmapIoU,
    InsideEnergy,
    LocalizationError,
    MapAveragePrecision,
    NanMean,
    PointingGame,
    RelativeForegroundSensitivity,
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


FIRST = {"no annotation": -torch.ones(4, 4, 4), "two metrics at 1": torch.ones(4, 4, 4)}


@pytest.mark.parametrize("first", FIRST.values(), ids=list(FIRST))
@pytest.mark.parametrize("call", ["update", "forward"])
def test_metrics__in_a_collection_keep_their_own_numbers(first, call):
    mask = torch.zeros(4, 4, 4)
    mask[:, 1:3, 1:3] = 1
    batches = [(torch.rand(4, 4, 4), first), (torch.rand(4, 4, 4), mask)]
    makers = {
        "energy": InsideEnergy,
        "pointing": PointingGame,
        "otsu": HeatmapIoU,
        "middle": lambda: HeatmapIoU(threshold=0.5),
        "high": lambda: HeatmapIoU(threshold=0.9),
        "ap": MapAveragePrecision,
    }
    together = MetricCollection({name: make() for name, make in makers.items()})
    for trial in (together, together.clone()):  # the clone begins anew after a reset
        trial.reset()
        for heat, masks in batches:
            getattr(trial, call)(heat, masks)
        for name, make in makers.items():
            alone = make()
            for heat, masks in batches:
                alone.update(heat, masks)
            assert torch.equal(trial.compute()[name], alone.compute()), name


def test_metrics__of_two_accuracies_keep_their_own_numbers_in_a_collection():
    together = MetricCollection([RelativeForegroundSensitivity(), BackgroundGap()])
    answers = {"foreground": torch.tensor([True, False]), "background": torch.tensor([True, True])}
    for _ in range(2):
        together.update(**answers, same=answers["foreground"], random=answers["background"])
        answers = {name: ~value for name, value in answers.items()}
    alone = BackgroundGap()
    alone.update(torch.tensor([True, False]), torch.tensor([True, True]))
    alone.update(torch.tensor([False, True]), torch.tensor([False, False]))
    assert together.compute()["BackgroundGap"] == alone.compute()


def test_metrics__load_the_states_that_an_earlier_version_kept():
    metric = InsideEnergy()
    metric.persistent(True)
    metric.load_state_dict({"total": torch.tensor(3.0, dtype=torch.float64), "count": torch.tensor(4.0)})
    metric._update_count = 1
    assert metric.compute() == 0.75


def test_metrics__plot_as_those_of_torchmetrics(grounded):
    import matplotlib as mpl

    mpl.use("Agg")
    together = MetricCollection([InsideEnergy(), PointingGame()])
    together.update(*grounded[:2])
    drawn = sorted(float(axis.lines[0].get_ydata()[0]) for _, axis in together.plot())
    assert drawn == pytest.approx(sorted(map(float, together.compute().values())))
    each = GroupAccuracy(num_groups=2)
    each.update(torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert len(each.plot()[1].lines) == 2
