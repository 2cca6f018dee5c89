import re
import warnings

import numpy as np
import pytest
import torch

from camtrain.data import attention_to_masks, boxes_to_masks, check_masks, points_to_masks, read_batch
from camtrain.errors import MaskError

SIZE = (6, 8)


def test_boxes_to_masks__is_the_union_of_an_images_boxes():
    boxes = [torch.tensor([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 4.0, 2.0]])]
    (mask,) = boxes_to_masks(boxes, SIZE)
    assert mask.sum() == 2 * 3 + 2  # the second box adds two pixels of a row
    assert mask[2, 1] == 1
    assert mask[2, 2] == 0


def test_boxes_to_masks__agrees_with_torchvision():
    from torchvision.ops import masks_to_boxes

    masks = boxes_to_masks(torch.tensor([[[2.0, 1.0, 7.0, 4.0]]]), SIZE)
    assert masks_to_boxes(masks).tolist() == [[2, 1, 6, 3]]  # torchvision's right and bottom are the last pixels


@pytest.mark.parametrize("box", [[9.0, 0.0, 12.0, 3.0], [3.0, 3.0, 1.0, 4.0]])
def test_boxes_to_masks__refuses_a_box_without_a_pixel(box):
    with pytest.raises(MaskError, match="covers no pixel of an image of size"):
        boxes_to_masks(torch.tensor([[box]]), SIZE)


ROWS = [[1.0, 2.0, 4.0, 5.0], [0.0, 0.0, 8.0, 2.0]]


@pytest.mark.parametrize(
    "boxes",
    [
        torch.tensor(ROWS),
        np.array(ROWS),
        ROWS,
        [tuple(map(int, row)) for row in ROWS],
        [[row] for row in ROWS],
        [np.array([row]) for row in ROWS],
        [torch.tensor(ROWS[0]), [torch.tensor(ROWS[1])]],
        [[np.array(ROWS[0], np.float32)], np.array(ROWS[1], np.int64)],
    ],
    ids=["tensor", "array", "lists", "tuples of int", "nested", "arrays", "tensor and list", "mixed arrays"],
)
def test_boxes_to_masks__takes_one_box_an_image_and_any_container(boxes):
    expected = boxes_to_masks(torch.tensor(ROWS).unsqueeze(1), SIZE)
    assert torch.equal(boxes_to_masks(boxes, SIZE), expected)
    assert expected.sum(dim=(1, 2)).tolist() == [9, 16]


@pytest.mark.parametrize(
    "boxes", [[[1.0, 2.0, 3.0]], [["left"] * 4], [[[[1.0, 2.0, 3.0, 4.0]]]], [1.0, 2.0, 3.0, 4.0], [None]]
)
def test_boxes_to_masks__refuses_what_is_no_list_of_boxes(boxes):
    with pytest.raises(MaskError, match="Image 0 is annotated by rows of left, top, right, bottom; got"):
        boxes_to_masks(boxes, SIZE)


def test_boxes_to_masks__warns_of_shares_of_the_image():
    with pytest.warns(UserWarning, match=r"No left/top/right/bottom is above 1.*multiply"):
        boxes_to_masks([[0.1, 0.2, 0.9, 1.0], []], SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes_to_masks([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 8.0, 6.0]], SIZE)  # one pixel, beside a larger box


@pytest.mark.parametrize("annotate", [boxes_to_masks, points_to_masks])
def test_size__is_height_and_width_or_one_side(annotate):
    assert annotate([[]], 4).shape == annotate([[]], [4, 4]).shape == (1, 4, 4)
    assert annotate([[]], torch.Size((3, 5))).shape == (1, 3, 5)
    for size in ((2, 3, 6, 8), (6,), (0, 4)):
        with pytest.raises(MaskError, match=r"size is the height and width.*images\.shape\[-2:\]"):
            annotate([[]], size)


@pytest.mark.parametrize(
    "points", [torch.tensor([[2.5, 2.5]]), np.array([[2.5, 2.5]]), [[2.5, 2.5]], [[[2.5, 2.5]]], [np.array([2.5, 2.5])]]
)
def test_points_to_masks__takes_one_point_an_image_and_any_container(points):
    assert points_to_masks(points, SIZE, radius=1.0).sum() == 5


def test_points_to_masks__warns_of_shares_of_the_image():
    with pytest.warns(UserWarning, match=r"No x/y is above 1"):
        points_to_masks([[0.5, 0.5]], SIZE)


def test_points_to_masks__draws_a_disc_around_every_point():
    (mask,) = points_to_masks([torch.tensor([[2.5, 2.5], [7.5, 5.5]])], SIZE, radius=1.0)
    assert mask.sum() == 5 + 3  # in the corner two of five pixels are outside
    assert mask[2, 1:4].tolist() == [1, 1, 1]


def test_points_to_masks__marks_the_pixel_of_a_point_however_small_the_radius():
    (mask,) = points_to_masks([torch.tensor([[3.0, 4.0]])], SIZE, radius=0.01)
    assert mask.sum() == 4  # the point is where four pixels meet
    assert mask[3:5, 2:4].all()


def test_points_to_masks__refuses_points_of_another_scale():
    with pytest.raises(MaskError, match="outside an image"):
        points_to_masks(torch.tensor([[[20.0, 3.0]]]), SIZE)
    with pytest.raises(MaskError, match=r"above 0 pixels; got 0\.0"):
        points_to_masks(torch.tensor([[[2.0, 3.0]]]), SIZE, radius=0.0)


def test_attention_to_masks__has_a_maximum_of_one():
    masks = attention_to_masks(7 * torch.rand(2, *SIZE))
    assert masks.flatten(1).amax(dim=1).tolist() == [1, 1]
    assert masks.min() >= 0


def test_attention_to_masks__is_rescaled_by_image_not_by_column():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 8.0]]])
    expected = torch.tensor([[[0.125, 0.25], [0.375, 1.0]]])
    assert torch.equal(attention_to_masks(maps.unsqueeze(1)), expected)
    assert torch.equal(attention_to_masks(maps.numpy()), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_attention_to_masks__of_any_type_are_in_single_precision(dtype):
    masks = attention_to_masks(torch.tensor([[[0, 1, 1]], [[0, 0, 0]]]).to(dtype))
    assert masks.dtype == torch.float32
    assert masks.tolist() == [[[0, 1, 1]], [[-1, -1, -1]]]
    assert attention_to_masks(torch.ones(1, 2, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [((2, 3, 4, 4), "Merge the channels"), ((4, 4), "for each image"), ((1, 0, 4), "for each image")],
)
def test_attention_to_masks__refuses_other_shapes(shape, remedy):
    with pytest.raises(MaskError, match=re.escape(f"(B, 1, H, W); got {shape}. ") + f".*{remedy}"):
        attention_to_masks(torch.ones(shape))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_attention_to_masks__refuses_what_is_no_density(value):
    with pytest.raises(MaskError, match="finite values of at least 0"):
        attention_to_masks(torch.full((1, *SIZE), value))


@pytest.mark.parametrize(
    "masks", [boxes_to_masks([torch.zeros(0, 4)], SIZE), points_to_masks([torch.zeros(0, 2)], SIZE)]
)
def test_unannotated_images__are_known_as_such(masks):
    check_masks(read_batch((torch.zeros(1, 3, *SIZE), torch.tensor([0]), masks)))
    assert (masks == -1).all()
