import torch

from camtrain.segmenters import Outlines


def bright(images):
    return (images[:, 0] > 0.5).float()


def test_outlines__of_a_mirrored_image_are_mirrored_and_not_made_again():
    outlines, images = Outlines(bright), torch.rand(3, 3, 6, 8)
    first = outlines.of(images)
    assert torch.equal(first, bright(images))
    assert torch.equal(outlines.of(images.flip(3)[[2, 0]]), first.flip(2)[[2, 0]])
    assert outlines.asked == 3


def test_outlines__keep_soft_values_and_what_cannot_be_told():
    soft = torch.tensor([0.0, 0.25, 1.0, -1.0]).view(1, 1, 4)
    outlines = Outlines(lambda images: soft)
    images = torch.rand(1, 1, 1, 4)
    assert [outlines.of(images).tolist() for _ in range(2)] == [soft.tolist()] * 2


def test_outlines__beyond_their_budget_are_made_anew():
    outlines, images = Outlines(bright, budget=0), torch.rand(2, 3, 4, 4)
    assert torch.equal(outlines.of(images), outlines.of(images))
    assert outlines.asked == 4
