import torch

from camtrain.metrics import InsideEnergy, NanMean, PointingGame, inside_energy, pointing_game


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


def test_metrics__over_batches_equal_the_function_over_all():
    heat, masks = torch.rand(12, 4, 4), (torch.rand(12, 8, 8) > 0.5).float()
    masks[3] = -1
    for metric, function in ((InsideEnergy(), inside_energy), (PointingGame(), pointing_game)):
        for part in range(0, 12, 5):
            metric.update(heat[part : part + 5], masks[part : part + 5])
        torch.testing.assert_close(metric.compute(), function(heat, masks).nanmean())


def test_metrics__merge_the_states_of_processes():
    parts = [InsideEnergy(), InsideEnergy()]
    heat, masks = torch.rand(6, 4, 4), (torch.rand(6, 4, 4) > 0.5).float()
    parts[0].update(heat[:2], masks[:2])
    parts[1].update(heat[2:], masks[2:])
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(parts[0].compute(), inside_energy(heat, masks).nanmean())
