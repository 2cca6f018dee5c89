"""Annotated images exchanged for their twins on their way into the network, which costs no forward pass."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.alignment.batch import as_classes
from camtrain.alignment.network import find_images
from camtrain.cam.hooks import hooked, is_same
from camtrain.data.batches import Batch
from camtrain.swaps import Blend, deal


@dataclass(frozen=True)
class Deal:
    """The images before the exchange and after it, the masks after it; the index of images, and which are twins."""

    originals: Tensor
    mixed: Tensor
    masks: Tensor
    index: Tensor
    counted: Tensor


class Dealer:
    """Deals the backgrounds of a batch anew in every call of a module that is given its images.

    A module that is called more than once in a step (two views of an image) sees the same deal each time, and so does a
    call that activation checkpointing repeats in the backward pass: therefore the hooks stay until that is over.
    `share` and `rows` are those of `deal`. With `own_only` other images of the batch's number and size stay as they
    are: those that are not `batch.images` itself. A copy of the network that is made meanwhile is dealt nothing.

    >>> net = nn.Conv2d(1, 1, 1)
    >>> batch = Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), masks=torch.eye(4).expand(2, 4, 4))
    >>> dealer = Dealer(batch, seed=1)
    >>> with dealer.dealing([net]):
    ...     output = net(batch.images)
    >>> dealer.close().index
    tensor([0, 1])
    """

    def __init__(
        self,
        batch: Batch,
        seed: int,
        share: float = 1.0,
        blend: Blend | None = None,
        *,
        rows: int | None = None,
        own_only: bool = False,
    ) -> None:
        self.batch, self.seed, self.own_only = batch, seed, own_only
        self.share, self.blend, self.rows = share, blend or Blend(), rows
        self._deal: Deal | None = None
        self._own: list[Tensor] = [batch.images]
        self._given: list[Tensor] = []
        self._closed = False

    def __deepcopy__(self, memo: Any) -> "Dealer":
        return _idle()

    def __reduce__(self) -> Any:
        return _idle, ()

    @property
    def own(self) -> Sequence[Tensor]:
        """The batch's images, as they are and as they were exchanged."""
        return self._own

    @contextmanager
    def dealing(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Exchange what these modules are given, for the duration of the block."""
        with hooked(module.register_forward_pre_hook(self._exchange, with_kwargs=True) for module in modules):
            yield

    def close(self) -> Deal | None:
        """From now on exchange only what the backward pass asks for again; what was dealt, if anything."""
        self._closed = True
        return self._deal

    @property
    def deal(self) -> Deal | None:
        """What was dealt, if anything."""
        return self._deal

    def reopen(self) -> None:
        """Exchange again."""
        self._closed = False

    def _exchange(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self.batch.masks is None:
            return None
        images = find_images(args, kwargs, self.batch)
        if images is None or (self._closed and not self._is_repeated(images)):
            return None
        is_own = is_same(images, self.batch.images)
        if self.own_only and not is_own:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        mixed, masks, index, counted = deal(
            images,
            self.batch.masks,
            as_classes(self.batch.labels),
            self.blend,
            share=self.share,
            rows=self.rows,
            generator=generator,
        )
        if not self._closed:
            self._deal = Deal(images, mixed, masks, index, counted)
            self._given.append(images)
            self._own += [mixed] if is_own else []
        if len(index) == 0:
            return None
        given: tuple[Any, Any] = pytree.tree_map_only(Tensor, lambda v: mixed if v is images else v, (args, kwargs))
        return given

    def _is_repeated(self, images: Tensor) -> bool:
        in_backward = torch._C._current_graph_task_id() != -1
        return in_backward and any(is_same(images, given) for given in self._given)


def _idle() -> Dealer:
    """One that deals nothing: what a copy of a network has."""
    return Dealer(Batch(torch.zeros(0)), seed=0)
