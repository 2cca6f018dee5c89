"""Unknown pixels (-1 in a mask of other values) count neither inside nor outside, wherever a mask is read."""

import pytest
import torch

from camtrain.alignment.batch import count
from camtrain.cam import pool_masks
from camtrain.data.batches import Batch, check_masks
from camtrain.data.transforms import TwinBackgrounds
from camtrain.losses import AlignmentLoss, HINTLoss, InputGradientLoss
from camtrain.losses.alignment import KNOWN
from camtrain.metrics.functional.accuracy import noise_in_region
from camtrain.metrics.functional.evidence import (
    energy_lift,
    grounding,
    inside_energy,
    mask_area,
    pointing_game,
    reason_cells,
)
from camtrain.metrics.functional.localization import average_precision, heatmap_iou
from camtrain.reliance.pool import Collector
from camtrain.swaps.twins import can_have_twin, deal_backgrounds, make_masked_twins

MASK = torch.zeros(1, 6, 8)
MASK[:, 2:4, 2:5] = 1  # 6 pixels
MASK[:, 1, 2:5] = -1  # 3 pixels of a border
UNKNOWN = MASK < 0
HEAT = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0)) + 0.1


def elsewhere(heat):
    """The heat with other values where nothing is known, not above its highest."""
    return torch.where(UNKNOWN, heat.amax() * 0.9 - heat / 2, heat)


def test_pool_masks__is_the_mean_of_what_is_known():
    pooled = pool_masks(MASK, (3, 4))
    assert pooled[0, 0, 1].item() == 0  # two known pixels of the background, two unknown
    assert pooled[0, 1].tolist() == [0, 1, 0.5, 0]
    assert pool_masks(torch.full((1, 2, 2), -1.0), (1, 1)).item() == -1


@pytest.mark.parametrize(
    "metric", [inside_energy, energy_lift, grounding, pointing_game, heatmap_iou, average_precision]
)
def test_metrics__do_not_look_at_unknown_pixels(metric):
    assert metric(HEAT, MASK).item() == metric(elsewhere(HEAT), MASK).item()
    assert metric(HEAT, MASK).isfinite()


def test_metrics__of_the_known_pixels_by_hand():
    known = ~UNKNOWN[0]
    assert inside_energy(HEAT, MASK).item() == pytest.approx(
        (HEAT[0][MASK[0] == 1].sum() / HEAT[0][known].sum()).item()
    )
    assert mask_area(MASK).item() == pytest.approx(6 / 45)
    hottest = HEAT.clone()
    hottest[0, 1, 3], hottest[0, 2, 3] = 9, 5
    assert pointing_game(hottest, MASK).item() == 1
    assert heatmap_iou(hottest, MASK, threshold=0.5).item() == pytest.approx(1 / 6)
    assert reason_cells(torch.tensor([True]), HEAT, MASK.abs() * torch.where(UNKNOWN, -1, 1)).item() in (0, 1)
    assert reason_cells(torch.tensor([True]), HEAT, torch.where(MASK == 0, -1, MASK)).item() == -1


@pytest.mark.parametrize("penalty", KNOWN)
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_alignment_loss__asks_nothing_of_unknown_cells(penalty, tolerance):
    heat = HEAT.clone().requires_grad_()
    loss = AlignmentLoss(penalty, tolerance)(heat, MASK)
    assert loss.item() == pytest.approx(AlignmentLoss(penalty, tolerance)(elsewhere(HEAT), MASK).item())
    loss.backward()
    assert heat.grad[UNKNOWN].abs().max() == 0
    assert HEAT[~UNKNOWN].isfinite().all()


def test_hint_and_input_gradients__ask_nothing_of_unknown_pixels():
    assert HINTLoss()(HEAT, MASK).item() == pytest.approx(HINTLoss()(elsewhere(HEAT), MASK).item())
    images = torch.rand(1, 1, 6, 8, requires_grad=True)
    only_unknown = (images * UNKNOWN).sum().view(1, 1) * torch.tensor([[1.0, -1.0]])
    assert InputGradientLoss()(images, only_unknown, MASK).item() == 0


def batch_of_two():
    images = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    return images, torch.cat([MASK, MASK.flip(2)]), torch.tensor([0, 1])


def test_twins__keep_unknown_pixels_with_the_object_and_unknown():
    images, masks, labels = batch_of_two()
    check_masks(Batch(images, masks=masks))
    changed, _, moved = TwinBackgrounds(p=1.0)(images, labels, masks)
    assert torch.equal(moved, masks)
    kept = (masks != 0).unsqueeze(1).expand_as(images)
    assert torch.allclose(changed[kept], images[kept])
    assert not torch.allclose(changed, images)
    dealt, moved, _ = deal_backgrounds(images, masks, labels)
    assert torch.equal(moved, masks)
    assert torch.allclose(dealt[kept], images[kept])


def test_twins__of_a_donor_show_nothing_of_its_unknown_pixels():
    images, masks, labels = batch_of_two()
    marked = images.clone()
    marked[1][:, masks[1] != 0] = 1000.0
    blend = TwinBackgrounds(p=1.0)._blend
    twins, _, index = make_masked_twins(marked, masks, labels, blend)
    assert index.tolist() == [0, 1]
    assert twins[0].max() < 10


def test_can_have_twin__needs_a_background_that_is_known():
    assert can_have_twin(MASK).item()
    assert not can_have_twin(torch.where(MASK == 0, -1, MASK)).item()


def test_alignment__counts_partly_unknown_masks_as_annotations():
    images, masks, _ = batch_of_two()
    census = count(Batch(images, masks=masks), limit=2)
    assert (census.number("annotated"), census.number("twinned")) == (2, 2)


def test_detector__keeps_unknown_pixels_with_the_object():
    images, masks, labels = batch_of_two()
    collector = Collector(per_class=2, most=4)
    collector.add(images, labels, masks)
    assert torch.equal(collector.pool().masks, (masks != 0).float())


def test_noise__leaves_unknown_pixels_as_they_are():
    images, masks, _ = batch_of_two()
    for inside in (False, True):
        noisy = noise_in_region(images, masks, inside=inside)
        assert torch.equal(noisy[0][:, UNKNOWN[0]], images[0][:, UNKNOWN[0]])
        assert not torch.equal(noisy, images)
