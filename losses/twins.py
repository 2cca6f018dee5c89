"""Counterfactual twins: the annotated object on another image's background, to be answered alike."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.cam import annotated
from camtrain.compositing import composite, dilate, fill_objects


def make_twins(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    labels: Int[Tensor, " B"] | None = None,
    *,
    generator: torch.Generator | None = None,
    feather: int = 1,
    grow: int = 1,
    limit: int | None = None,
) -> tuple[Float[Tensor, "N C H W"], Int[Tensor, " N"]]:
    """Each annotated object on the background of another image of the batch, made on the images' device.

    The background comes from `choose_donors`; where the donor is annotated, its own object is grown by `grow` pixels
    and filled in from its surroundings first. Images without an annotation, with an empty or a full mask, or without
    anybody to lend a background get no twin.

    Args:
        images: as the network takes them; a twin lies within the range of the two images it is made of.
        masks: 1 on the object, all -1 without an annotation.
        labels: with them, a background from another class is preferred.
        generator: on the CPU; the global one if None.
        feather: half width in pixels of the ramp between object and background.
        grow: pixels around a donor's object that are filled in with it.
        limit: at most this many twins, chosen at random.

    Returns:
        The twins, and the index of the image that each was made of, in order. Both may be empty.

    >>> twins, index = make_twins(torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8))
    >>> twins.shape, index.tolist()
    (torch.Size([2, 3, 8, 8]), [0, 1])
    """
    index = _chosen(can_have_twin(masks), limit, generator)
    donors = choose_donors(masks, labels, generator=generator)[index] if len(images) > 1 else index[:0]
    index = index[: len(donors)]
    backgrounds = fill_objects(images[donors], dilate(masks[donors], grow))
    return composite(images[index], masks[index], backgrounds, feather=feather), index


def can_have_twin(masks: Float[Tensor, "B H W"]) -> Bool[Tensor, " B"]:
    """Which images have an object and a background: annotated, neither empty nor full.

    >>> can_have_twin(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[-1.0, -1.0]]]))
    tensor([ True, False, False, False])
    """
    flat = masks.flatten(1)
    return annotated(masks) & (flat.amax(dim=1) > 0) & (flat.amin(dim=1) < 1)


def choose_donors(
    masks: Float[Tensor, "B H W"], labels: Int[Tensor, " B"] | None = None, *, generator: torch.Generator | None = None
) -> Int[Tensor, " B"]:
    """For each image, whose background it gets: another image, at random among the best there are.

    An image of another class comes before one of the same (its background may be the very shortcut), and then one whose
    object can be removed before one without an annotation; one that is all object comes last. A single image: itself.

    >>> choose_donors(torch.eye(4).expand(3, 4, 4), torch.tensor([0, 0, 1]))[:2].tolist()
    [2, 2]
    """
    count = len(masks)
    score = torch.rand(count, count, generator=generator).to(masks.device)
    score = score + can_have_twin(masks).float()
    if labels is not None:
        score = score + 2 * (labels.unsqueeze(0) != labels.unsqueeze(1)).float()
    score = score - 3 * (masks.flatten(1).amin(dim=1) == 1).float()  # all object: no background to lend
    return score.fill_diagonal_(-torch.inf).argmax(dim=1)


def _chosen(candidates: Tensor, limit: int | None, generator: torch.Generator | None) -> Tensor:
    """The indices of the candidates, in order; a random choice of them where there are more than the limit."""
    index = candidates.nonzero().flatten()
    if limit is None or len(index) <= limit:
        return index
    kept = torch.randperm(len(index), generator=generator)[:limit].sort().values
    return index[kept.to(index.device)]
