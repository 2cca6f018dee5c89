import math

import cv2
import numpy as np
import pytest
import torch

from camtrain.errors import ConfigurationError
from camtrain.metrics import (
    average_precision,
    binarize,
    box_from_heatmap,
    box_iou,
    box_of_mask,
    energy_lift,
    heatmap_iou,
    loc,
    localization_error,
    otsu_level,
)

MEASURES = [energy_lift, heatmap_iou, localization_error, average_precision, lambda h, m: loc(h, m, 0.5)]
LEFT = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
HEAT = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])


def _full(value):
    return torch.full((1, 2, 2), value)


def _blobs(count, side=24):
    """Smooth maps with several hills, without ties."""
    noise = torch.rand(count, 1, 6, 6)
    return torch.nn.functional.interpolate(noise, size=side, mode="bicubic").clamp_min(0).squeeze(1)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("heat", "mask"),
    [(HEAT, _full(0.0)), (HEAT, _full(-1.0)), (_full(0.0), LEFT), (_full(math.nan), LEFT)],
    ids=["empty mask", "unannotated", "empty map", "nan map"],
)
def test_localization__of_what_has_no_answer_is_nan(measure, heat, mask):
    assert measure(heat, mask).isnan().all()


@pytest.mark.parametrize("measure", MEASURES)
def test_localization__of_an_empty_batch_is_empty(measure):
    assert measure(torch.zeros(0, 2, 2), torch.zeros(0, 4, 4)).shape == (0,)


def test_otsu__splits_where_opencv_does():
    maps = torch.cat([_blobs(6), torch.rand(4, 24, 24), (torch.rand(2, 24, 24) > 0.7).float()])
    maps = (maps - maps.amin((1, 2), keepdim=True)) / (
        maps.amax((1, 2), keepdim=True) - maps.amin((1, 2), keepdim=True)
    )
    levels = (maps * 255).round().to(torch.uint8)
    expected = [cv2.threshold(each.numpy(), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1] for each in levels]
    assert otsu_level(maps).unique().numel() > 4
    torch.testing.assert_close(binarize(maps), torch.from_numpy(np.stack(expected)).bool())


def test_binarize__of_an_empty_map_is_empty_and_does_not_depend_on_scale():
    assert not binarize(_full(0.0)).any()
    heat = _blobs(3)
    assert torch.equal(binarize(heat, 0.3), binarize(1e4 * heat, 0.3))


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_thresholds__outside_their_range_are_refused(threshold):
    with pytest.raises(ConfigurationError, match=str(threshold)):
        binarize(HEAT, threshold)
    with pytest.raises(ConfigurationError, match=str(threshold)):
        box_from_heatmap(HEAT, threshold)


def test_loc__is_the_area_inside_over_the_box_and_the_area_outside():
    heat, box = _blobs(8), torch.zeros(8, 24, 24)
    box[:, 4:15, 6:20] = 1
    for delta in (0.0, 0.25, 0.5):
        scaled = heat - heat.amin((1, 2), keepdim=True)
        hot = scaled / scaled.amax((1, 2), keepdim=True) > delta
        inside, outside = (hot & (box > 0)).sum((1, 2)), (hot & (box == 0)).sum((1, 2))
        torch.testing.assert_close(loc(heat, box, delta), inside / (box.sum((1, 2)) + outside))


def test_heatmap_iou__interpolates_the_map_to_the_mask():
    heat = torch.tensor([[[1.0, 0.0]]])  # 8 columns: 1, 1, .875, .625, .375, .125, 0, 0
    mask = torch.zeros(1, 1, 8)
    mask[..., :2] = 1
    assert heatmap_iou(heat, mask, 0.5).item() == pytest.approx(2 / 4)


def test_box_from_heatmap__surrounds_the_largest_segment_of_opencv():
    for heat in _blobs(8):
        hot = (heat > 0.6 * heat.max()).numpy().astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
        x, y, width, height, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        assert box_from_heatmap(heat[None], 0.6).tolist() == [[x, y, x + width, y + height]]


def test_boxes__of_nothing_are_nan_and_overlap_nothing():
    assert box_from_heatmap(_full(0.0)).isnan().all()
    assert box_of_mask(torch.cat([_full(0.0), _full(-1.0)])).isnan().all()
    assert box_iou(box_of_mask(_full(0.0)), box_of_mask(LEFT)).isnan().all()
    assert box_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 2, 3, 3]])).item() == 0


def test_box_iou__is_that_of_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    corners = torch.rand(9, 2, 2, 2).sort(dim=2).values.flatten(2)
    torch.testing.assert_close(box_iou(corners[:, 0], corners[:, 1]), ops.box_iou(corners[:, 0], corners[:, 1]).diag())


def test_localization_error__is_a_miss_below_the_iou():
    mask = torch.zeros(1, 1, 4)
    mask[..., :2] = 1
    heat = torch.tensor([[[5.0, 5.0, 5.0, 0.0]]])  # overlap 2 / 3
    assert localization_error(heat, mask).item() == 0
    assert localization_error(heat, mask, iou=0.7).item() == 1


def test_average_precision__is_that_of_scikit_learn():
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    heat = torch.cat([_blobs(4), torch.randint(0, 5, (4, 24, 24)).float()])  # the last ones full of ties
    masks = (torch.rand(8, 24, 24) > 0.8).float()
    expected = [score(m.flatten().numpy(), h.flatten().numpy()) for h, m in zip(heat, masks, strict=True)]
    assert average_precision(heat, masks).tolist() == pytest.approx(expected, abs=1e-6)


def test_average_precision__of_a_uniform_map_is_the_objects_area():
    assert average_precision(_full(3.0), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])).item() == pytest.approx(0.25)


def test_energy_lift__is_one_for_a_uniform_map():
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert energy_lift(_full(0.3), mask).item() == pytest.approx(1)
    assert energy_lift(HEAT, mask).item() == pytest.approx(0.5 / 0.25)
