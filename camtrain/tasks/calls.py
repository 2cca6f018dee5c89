"""What a step really asks a network: which module, with which images, and how to ask it the same way again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam import Activations
from camtrain.cam.hooks import Hooks, is_same, is_step
from camtrain.errors import ConfigurationError
from camtrain.tasks.answers import as_rows, find_answers, first_answer

__all__ = ["Call", "Calls", "call_on", "keeps_places", "learned_from", "moves_images", "undo_values"]

ALIKE, RESIZED = 0.98, 0.9  # mean correlation of the brightness of an image with that of what became of it
_REMEDY = "Normalize and augment in the data set or in on_after_batch_transfer, or name the network with model='...'"


@dataclass(frozen=True, eq=False)
class Call:
    """One call that a step made: the module, what went in and came out, and the activations known by then."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    activations: tuple[Tensor, ...] = ()

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All that the module was given."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @cached_property
    def images(self) -> Tensor | None:
        """The first of them that may be images or clips; or the batch of those that are listed."""
        batch = next((tensor for tensor in self.tensors if tensor.ndim >= 4), None)
        return batch if batch is not None or self.listed is None else torch.stack(list(self.listed))

    @cached_property
    def listed(self) -> list[Tensor] | tuple[Tensor, ...] | None:
        """The list of images of one size that the module was given in place of a batch, as detectors take it."""
        listed = next((each for each in self.args if isinstance(each, (list, tuple)) and each), None)
        if listed is None or any(tensor.ndim >= 4 for tensor in self.tensors):
            return None
        pictures = all(isinstance(each, Tensor) and each.ndim == 3 for each in listed)
        return listed if pictures and len({(each.shape, each.dtype) for each in listed}) == 1 else None

    @property
    def beside(self) -> list[Tensor]:
        """What the module was given beside the images."""
        leaves = pytree.tree_leaves((self.args, self.kwargs), is_leaf=self._are_images)
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and not self._are_images(leaf)]

    @cached_property
    def answers(self) -> list[Tensor]:
        """The tensors in the output that may hold logits, as they are: see `find_answers`."""
        return find_answers(self.output)

    @property
    def answer(self) -> Tensor:
        """The first of them, which is a node of the graph. BatchError if there is none."""
        return self.answers[0] if self.answers else first_answer(self.output)

    @property
    def logits(self) -> Tensor:
        """The answer as `(B, C)`."""
        return as_rows(self.answer)

    def took(self, tensors: Sequence[Tensor], *, all_of_them: bool = False) -> bool:
        """Whether the module was given any of these; or all of them."""
        given = [any(is_same(mine, tensor) for mine in self.tensors) for tensor in tensors]
        return all(given) if all_of_them else any(given)

    def again(self, images: Tensor) -> Any:
        """The module asked in the same way about other images."""
        given = images if self.listed is None else list(images.unbind())
        args, kwargs = pytree.tree_map(
            lambda leaf: given if self._are_images(leaf) else leaf, (self.args, self.kwargs), is_leaf=self._are_images
        )
        return self.module(*args, **kwargs)

    def _are_images(self, leaf: Any) -> bool:
        return leaf is not None and leaf is (self.images if self.listed is None else self.listed)


class Calls:
    """Hears the calls of modules while a step runs: the outermost ones, and all of one module that is named.

    A step that Lightning runs as the forward of a wrapped module (DDP) is no call. A copy of a network that is made
    meanwhile (a moving average of it) has hooks too; they do nothing.

    >>> net, calls = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Calls()
    >>> calls.listen(net.modules(), net)
    >>> output = net(torch.zeros(3, 1, 2, 2))
    >>> [call.module is net for call in calls.take()], len(net._forward_hooks)
    ([True], 0)
    """

    def __init__(self, activations: Any = None) -> None:  # a run-time check of `Activations` would index it unfilled
        self.activations: Activations = Activations([]) if activations is None else activations
        self.made: list[Call] = []
        self.named: nn.Module | None = None
        self.open: list[bool] = []  # which of the calls that run now count
        self._hooks = Hooks()
        self._modes = ExitStack()

    @property
    def are_heard(self) -> bool:
        """Whether a step is listened to."""
        return len(self._hooks) > 0

    def handles(self, modules: Mapping[str, nn.Module]) -> Iterator[Any]:
        """Register the hooks, one after the other; none on what is scripted."""
        for name, module in modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                yield module.register_forward_pre_hook(_Entering(self))
                yield module.register_forward_hook(_Leaving(self, name), with_kwargs=True, always_call=True)

    def listen(self, modules: Iterable[nn.Module], named: nn.Module | None = None, *, compiled: bool = False) -> None:
        """Begin to hear these modules. Those that run ``compiled`` run eagerly meanwhile: compiled code skips hooks."""
        self.stop()
        self.named = named
        if compiled:
            self._modes.enter_context(torch.compiler.set_stance("force_eager"))
        self._hooks.add(self.handles({str(place): module for place, module in enumerate(modules)}))

    def take(self) -> list[Call]:
        """What was heard; no hook is left."""
        made = self.made
        self.stop()
        return made

    def stop(self) -> None:
        """Hear nothing more, and forget what was heard."""
        self._hooks.remove()
        self._modes.close()
        self.made, self.open = [], []


class _Entering:
    """A forward pre-hook."""

    def __init__(self, calls: Calls | None) -> None:
        self.calls = calls

    def __deepcopy__(self, memo: Any) -> "_Entering":
        return _Entering(None)

    def __reduce__(self) -> Any:
        return _Entering, (None,)

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.calls is not None:
            self.calls.open.append(not is_step(module))


class _Leaving:
    """A forward hook for the module of that name; also after a forward that raised."""

    def __init__(self, calls: Calls | None, name: str) -> None:
        self.calls, self.name = calls, name

    def __deepcopy__(self, memo: Any) -> "_Leaving":
        return _Leaving(None, self.name)

    def __reduce__(self) -> Any:
        return _Leaving, (None, self.name)

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls = self.calls
        if calls is None or not calls.open:  # not one that was under way when the hooks came
            return
        counts = calls.open.pop()
        if counts and (module is calls.named or not any(calls.open)) and calls.activations.complete:
            calls.made.append(Call(self.name, module, args, kwargs, output, tuple(calls.activations)))


def call_on(
    calls: Sequence[Call], images: Shaped[Tensor, "B C *S"], network: nn.Module | None, *, alone: bool = True
) -> Call:
    """The call that asked the network about a batch's images: about these, or about what the step made of them.

    Values may be changed, as from bytes or by a normalization, and the size; not places: of an image that was cropped
    or mirrored the mask would not be that of the batch. ``network`` is preferred, and where the step does not call it,
    the one module that was given images and whose answer went into no other. It may be given more than images where
    they need not be `alone`.

    Raises:
        ConfigurationError: where no call, or calls of several modules, asked about the batch's images.
    """
    about = [call for call in calls if call.images is not None and len(call.images) == len(images)]
    of_network = [call for call in about if call.module is network]
    fitting = of_network or [call for call in about if not _is_fed_on(call, calls)]
    own = [call for call in fitting if is_same(call.images, images)]
    own = own or [call for call in fitting if call.images is not None and keeps_places(images, call.images)]
    if len({id(call.module) for call in own}) > 1:
        kinds = ", ".join(sorted({type(call.module).__name__ for call in own}))
        raise ConfigurationError(f"the step asks several modules about the images ({kinds}): name one with model='...'")
    if not own:
        what = "moves or mixes the images before the network sees them" if fitting else "asks no module about images"
        raise ConfigurationError(f"the step {what}, so that it is not known what their masks belong to. {_REMEDY}")
    call = own[-1]
    if call.beside and alone:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in call.beside[:3])
        raise ConfigurationError(f"the step gives {type(call.module).__name__} more than images ({shapes}). {_REMEDY}")
    return call


def learned_from(calls: Sequence[Call], images: Tensor) -> bool:
    """Whether a module with parameters was given the batch's own images."""
    return any(is_same(call.images, images) and any(True for _ in call.module.parameters()) for call in calls)


def keeps_places(images: Shaped[Tensor, "B C *S"], given: Shaped[Tensor, "B D *T"]) -> bool:
    """Whether what was given to a network shows the images as they lie: with other values or of another size.

    >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> keeps_places(images, (images - 0.5) / 0.2), keeps_places(images, images.flip(-1))
    (True, False)
    """
    if images.ndim != given.ndim or len(images) != len(given) or not given.is_floating_point():
        return False
    before, after = (part.detach().float().mean(dim=1, keepdim=True) for part in (images, given))
    resized = before.shape != after.shape
    if resized and before.ndim == 4:
        before = F.interpolate(before, after.shape[2:], mode="bilinear", antialias=True, align_corners=False)
    if before.shape != after.shape:
        return False
    flat = [part.flatten(1) - part.flatten(1).mean(dim=1, keepdim=True) for part in (before, after)]
    norms = [part.norm(dim=1) for part in flat]
    even = (norms[0] < 1e-6) & (norms[1] < 1e-6)  # a plain image stays plain
    alike = (flat[0] * flat[1]).sum(dim=1) / (norms[0] * norms[1]).clamp(min=1e-12)
    return bool(torch.where(even, 1.0, alike).mean() >= (RESIZED if resized else ALIKE))


def moves_images(images: Shaped[Tensor, "..."], given: Any) -> bool:
    """Whether what was given to a network is images in which a batch's lie elsewhere: cropped, mirrored or mixed.

    Of what is no images of as many axes (tokens, frames in another order) it cannot be said, and is not.

    >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> moves_images(images, images.flip(-1)), moves_images(images, 2 * images), moves_images(images, images.flatten(1))
    (True, False, False)
    """
    if not isinstance(given, Tensor) or is_same(given, images) or not given.is_floating_point():
        return False
    comparable = images.ndim in (4, 5) and given.ndim == images.ndim and len(given) == len(images)
    if not comparable or given.shape[1] not in (1, 3, images.shape[1]):
        return False
    return (given.ndim == 4 or given.shape[2:] == images.shape[2:]) and not keeps_places(images, given)


def undo_values(
    images: Float[Tensor, "B C *S"], given: Float[Tensor, "B C *S"]
) -> Callable[[Float[Tensor, "N C *S"]], Float[Tensor, "N C *S"]]:
    """From what the network is given back to the batch's values: by channel the line that fits best.

    >>> images = torch.rand(4, 3, 8, 8)
    >>> torch.allclose(undo_values(images, 2 * images - 1)(2 * images - 1), images, atol=1e-5)
    True
    """
    x, y = (part.detach().double().transpose(0, 1).flatten(1) for part in (given, images))
    x0, y0 = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
    slope = ((x - x0) * (y - y0)).sum(dim=1) / (x - x0).square().sum(dim=1).clamp(min=1e-12)
    shape = (1, -1, *[1] * (images.ndim - 2))
    slope, offset = slope.float().view(shape), (y0[:, 0] - slope * x0[:, 0]).float().view(shape)
    return lambda shown: shown * slope.to(shown) + offset.to(shown)


def _is_fed_on(call: Call, calls: Sequence[Call]) -> bool:
    """Whether another call was given what this one answered."""
    answers = {id(leaf) for leaf in pytree.tree_leaves(call.output) if isinstance(leaf, Tensor)}
    return any(id(tensor) in answers for other in calls if other is not call for tensor in other.tensors)
