"""What a heatmap is, before anyone looks at it: evidence, or one of the reasons why there is none."""

from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.cam.spatial import is_empty


class State(IntEnum):
    """The state of one heatmap.

    `OK`: it holds evidence. `EMPTY`: all evidence is negative. `ZERO_GRADIENT`: the score does not depend on the layer.
    `SATURATED`: the score no longer moves with the logits (the probability of a class rounds to 1), so that what is
    left of the gradient is rounding. `NOT_FINITE`: the map, the activations or the gradients have a NaN or an infinity.
    """

    OK = 0
    EMPTY = 1
    ZERO_GRADIENT = 2
    SATURATED = 3
    NOT_FINITE = 4


def states_of(
    heatmaps: Float[Tensor, "B *S"],
    activations: Float[Tensor, "B K *s"] | None = None,
    gradients: Float[Tensor, "B K *s"] | None = None,
    saturated: Bool[Tensor, " B"] | None = None,
) -> Int[Tensor, " B"]:
    """The `State` of each raw heatmap, as a number.

    A method that does not use the gradient leaves it out. An empty batch gives an empty result.

    >>> maps = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [float("nan"), 1.0]])
    >>> gradients = torch.tensor([[[1.0, 1.0]], [[-1.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    >>> [State(code).name for code in states_of(maps, gradients=gradients).tolist()]
    ['OK', 'EMPTY', 'ZERO_GRADIENT', 'NOT_FINITE']
    """
    empty = is_empty(heatmaps)
    codes = torch.where(empty, State.EMPTY, State.OK)
    if gradients is not None:
        codes = torch.where(empty & ~(gradients != 0).flatten(1).any(dim=1), State.ZERO_GRADIENT, codes)
    if saturated is not None:
        codes = torch.where(saturated, State.SATURATED, codes)
    for tensor in (heatmaps, activations, gradients):
        if tensor is not None:
            codes = torch.where(torch.isfinite(tensor).flatten(1).all(dim=1), codes, State.NOT_FINITE)
    return codes
