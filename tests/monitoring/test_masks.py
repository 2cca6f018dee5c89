import torch

from camtrain.data.batches import Batch
from camtrain.monitoring.panels import MaskLook, Naming
from camtrain.render.overlays import FOG, LINE

NAMING = Naming(["cat"])


def looked(*masks, size=16):
    look = MaskLook()
    batch = Batch(torch.zeros(len(masks), 3, size, size), masks=torch.stack(masks))
    look.update(batch, [f"s{row}" for row in range(len(masks))])
    return look


def square(side, size=16):
    mask = torch.zeros(size, size)
    mask[4 : 4 + side, 4 : 4 + side] = 1
    return mask


def test_mask_look__counts_what_is_odd():
    border = square(8).roll((-4, 0), (0, 1))
    unknown = square(8)
    unknown[0] = -1
    facts = looked(
        square(8), square(0), torch.ones(16, 16), border, unknown, square(8) / 2 + 0.1, -torch.ones(16, 16)
    ).facts()
    assert (facts["images"], facts["annotated"]) == (7, 6)
    kinds = ("empty", "full", "at the border", "unknown pixels", "degrees")
    assert [facts[kind] for kind in kinds] == [1, 1, 2, 1, 1]  # what is full reaches the border, too
    assert facts["covered"] == [0, 0.25, 1]


def test_mask_look__shows_the_odd_ones_first_with_their_outlines():
    plain = [square(8)] * 20
    look = looked(*plain, square(0), square(8))
    assert [sample for _, sample, *_ in look._odd][:1] == ["s20"]
    assert len(look._odd) == 12
    unknown = square(8)
    unknown[0] = -1
    sheet = looked(unknown).sheet(NAMING)
    colors = {tuple(color) for color in sheet.permute(1, 2, 0).reshape(-1, 3).tolist()}
    assert LINE in colors
    assert tuple(int(0.6 * value) for value in FOG) in colors


def test_mask_look__of_volumes_counts_and_draws_nothing():
    look = MaskLook()
    masks = torch.zeros(2, 4, 8, 8)
    masks[:, 1, 2:6, 2:6] = 1
    look.update(Batch(torch.zeros(2, 1, 4, 8, 8), masks=masks), ["a", "b"])
    assert look.facts()["covered"] == [0.0625] * 3
    assert look.sheet(NAMING) is None
    look.update(Batch(torch.zeros(2, 1, 8, 8)), ["c", "d"])
    assert (look.facts()["images"], look.facts()["annotated"]) == (4, 2)
