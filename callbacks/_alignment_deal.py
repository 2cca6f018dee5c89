"""Annotated images exchanged for their twins on their way into the network, which costs no forward pass."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from camtrain.data.batches import Batch
from camtrain.losses import deal_backgrounds
from camtrain.losses.blending import Blend


@dataclass(frozen=True)
class Deal:
    """What the network saw: the images before the exchange, the masks after it, and the index of the twins."""

    originals: Tensor
    masks: Tensor
    index: Tensor


class Dealer:
    """Deals the backgrounds of a batch anew in every call of a module that is given its images.

    A module that is called more than once in a step (two views of an image) sees the same deal each time, and so does a
    call that activation checkpointing repeats in the backward pass: therefore the hooks stay until that is over.
    `share` is that of `deal_backgrounds`.

    >>> net = nn.Conv2d(1, 1, 1)
    >>> batch = Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), masks=torch.eye(4).expand(2, 4, 4))
    >>> dealer = Dealer(batch, seed=1)
    >>> with dealer.dealing([net]):
    ...     output = net(batch.images)
    >>> dealer.close().index
    tensor([0, 1])
    """

    def __init__(self, batch: Batch, seed: int, share: float = 1.0, blend: Blend | None = None) -> None:
        self.batch, self.seed = batch, seed
        self.how = {"share": share, **asdict(blend or Blend())}
        self._deal: Deal | None = None
        self._given: list[Tensor] = []
        self._closed = False
        self._hooks: list[RemovableHandle] = []

    @contextmanager
    def dealing(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """`start`, then `stop`."""
        self.start(modules)
        try:
            yield
        finally:
            self.stop()

    def start(self, modules: Iterable[nn.Module]) -> None:
        """Exchange what these modules are given."""
        self._hooks += [module.register_forward_pre_hook(self._exchange, with_kwargs=True) for module in modules]

    def close(self) -> Deal | None:
        """Exchange nothing from now on but what was exchanged before: what was dealt, if anything."""
        self._closed = True
        return self._deal

    def stop(self) -> None:
        """Leave the modules as they were."""
        while self._hooks:
            self._hooks.pop().remove()

    def _exchange(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        images = find_images(args, kwargs, self.batch)
        if images is None or self.batch.masks is None or (self._closed and not self._was_given(images)):
            return None
        generator = torch.Generator().manual_seed(self.seed)
        mixed, masks, index = deal_backgrounds(
            images, self.batch.masks, self.batch.labels, generator=generator, **self.how
        )
        if not self._closed:
            self._deal = Deal(images, masks, index)
            self._given.append(images)
        if len(index) == 0:
            return None
        given: tuple[Any, Any] = pytree.tree_map_only(Tensor, lambda v: mixed if v is images else v, (args, kwargs))
        return given

    def _was_given(self, images: Tensor) -> bool:
        return any(images.data_ptr() == given.data_ptr() and images.shape == given.shape for given in self._given)


def find_images(args: Any, kwargs: Any, batch: Batch) -> Tensor | None:
    """The images among what a module is given: the first tensor of the batch's number and size of images, or None."""
    given = (v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor))
    return next((value for value in given if _could_be(value, batch.images)), None)


def _could_be(value: Tensor, images: Tensor) -> bool:
    """Whether these are the images, as the module took them: gray may have become RGB, a feature map is no image."""
    if value.ndim != 4 or not value.is_floating_point():
        return False
    same_size = (len(value), *value.shape[2:]) == (len(images), *images.shape[2:])
    return same_size and value.shape[1] in (1, 3, images.shape[1])
