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
