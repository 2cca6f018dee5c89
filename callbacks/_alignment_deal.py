"""Annotated images exchanged for their twins on their way into the network, which costs no forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.data.batches import Batch
from camtrain.losses import deal_backgrounds


@dataclass(frozen=True)
class Deal:
    """What the network saw: the images before the exchange, the masks after it, and the index of the twins."""

    originals: Tensor
    masks: Tensor
    index: Tensor


class Dealer:
    """Deals the backgrounds of a batch anew in every call of a module that is given its images.

    A module that is called more than once in a step (two views of an image) sees the same deal each time. `how` goes to
    `deal_backgrounds`.

    >>> net = nn.Conv2d(1, 1, 1)
    >>> batch = Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), masks=torch.eye(4).expand(2, 4, 4))
    >>> dealer = Dealer(batch, seed=1)
    >>> with dealer.dealing(net):
    ...     output = net(batch.images)
    >>> dealer.close().index
    tensor([0, 1])
    """

    def __init__(self, batch: Batch, seed: int, **how: Any) -> None:
        self.batch, self.seed, self.how = batch, seed, how
        self._deal: Deal | None = None
        self._closed = False

    @contextmanager
    def dealing(self, module: nn.Module) -> Iterator[None]:
        """Exchange what this module is given, until the end or until it is closed."""
        handle = module.register_forward_pre_hook(self._exchange, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def close(self) -> Deal | None:
        """Exchange nothing from now on: what was dealt, if anything."""
        self._closed = True
        return self._deal

    def _exchange(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        images = None if self._closed else find_images(args, kwargs, self.batch)
        if images is None or self.batch.masks is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        mixed, masks, index = deal_backgrounds(
            images, self.batch.masks, self.batch.labels, generator=generator, **self.how
        )
        self._deal = Deal(images, masks, index)
        if len(index) == 0:
            return None
        given: tuple[Any, Any] = pytree.tree_map_only(Tensor, lambda v: mixed if v is images else v, (args, kwargs))
        return given


def find_images(args: Any, kwargs: Any, batch: Batch) -> Tensor | None:
    """The images among what a module is given: the first tensor of the batch's number and size of images, or None."""
    given = (v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor))
    return next((value for value in given if _could_be(value, batch.images)), None)


def _could_be(value: Tensor, images: Tensor) -> bool:
    """Whether these are the images, as the module took them: gray may have become RGB, a feature map is no image."""
    same_size = value.ndim == 4 and (len(value), *value.shape[2:]) == (len(images), *images.shape[2:])
    return same_size and value.shape[1] in (1, 3, images.shape[1])
