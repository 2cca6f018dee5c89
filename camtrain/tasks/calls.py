"""What a step really asks a network: which module, with which images, and how to ask it the same way again."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.hooks import Hooks, is_step
from camtrain.errors import ConfigurationError

__all__ = ["Question", "Questions", "call_on", "keeps_places", "learned_from", "undo_values"]

ALIKE, RESIZED = 0.98, 0.9  # mean correlation of the brightness of an image with that of what became of it
_REMEDY = "Normalize and augment in the data set or in on_after_batch_transfer, or name the network with model='...'"


@dataclass(frozen=True, eq=False)
class Question:
    """One call that a step made of a module, with images among what it was given, perhaps as a list of them."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    images: Tensor | None
    listed: list[Tensor] | tuple[Tensor, ...] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All that it was given; of listed images the batch of them."""
        leaves = [self.images if self._are_images(leaf) else leaf for leaf in self._leaves()]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def again(self, images: Tensor) -> Any:
        """The module asked in the same way about other images."""
        given = images if self.listed is None else list(images.unbind())
        args, kwargs = pytree.tree_map(
            lambda leaf: given if self._are_images(leaf) else leaf, (self.args, self.kwargs), is_leaf=self._are_images
        )
        return self.module(*args, **kwargs)

    def _leaves(self) -> list[Any]:
        return pytree.tree_leaves((self.args, self.kwargs), is_leaf=self._are_images)

    def _are_images(self, leaf: Any) -> bool:
        return leaf is not None and leaf is (self.images if self.listed is None else self.listed)


class Questions:
    """Hears the calls of modules while a step runs: the outermost ones, and all of one module that is named.

    A step that Lightning runs as the forward of a wrapped module (DDP) is no call.

    >>> net, calls = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Questions()
    >>> calls.listen(net.modules(), net)
    >>> output = net(torch.zeros(3, 1, 2, 2))
    >>> [call.module is net for call in calls.take()], len(net._forward_hooks)
    ([True], 0)
    """

    def __init__(self) -> None:
        self._made: list[Question] = []
        self._open: list[bool] = []  # which of the calls that run now count
        self._hooks = Hooks()
        self._modes = ExitStack()

    @property
    def are_heard(self) -> bool:
        """Whether a step is listened to."""
        return len(self._hooks) > 0

    def listen(self, modules: Iterable[nn.Module], named: nn.Module | None = None, *, compiled: bool = False) -> None:
        """Begin to hear these modules. Those that run ``compiled`` run eagerly meanwhile: compiled code skips hooks."""
        self.stop()
        if compiled:
            self._modes.enter_context(torch.compiler.set_stance("force_eager"))
        heard = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
        self._hooks.add(module.register_forward_pre_hook(self._enter) for module in heard)

        def leave(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            counts = self._open.pop()
            if counts and (module is named or not any(self._open)):
                images, listed = _images_in(args, kwargs)
                self._made.append(Question(module, args, kwargs, output, images, listed))

        self._hooks.add(m.register_forward_hook(leave, with_kwargs=True, always_call=True) for m in heard)

    def take(self) -> list[Question]:
        """What was heard; no hook is left."""
        made = self._made
        self.stop()
        return made

    def stop(self) -> None:
        """Hear nothing more, and forget what was heard."""
        self._hooks.remove()
        self._modes.close()
        self._made, self._open = [], []

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._open.append(not is_step(module))


def call_on(
    calls: Sequence[Question], images: Shaped[Tensor, "B C *S"], network: nn.Module | None, *, alone: bool = True
) -> Question:
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
    own = [call for call in fitting if _is_same(call.images, images)]
    own = own or [call for call in fitting if call.images is not None and keeps_places(images, call.images)]
    if len({id(call.module) for call in own}) > 1:
        kinds = ", ".join(sorted({type(call.module).__name__ for call in own}))
        raise ConfigurationError(f"the step asks several modules about the images ({kinds}): name one with model='...'")
    if not own:
        what = "moves or mixes the images before the network sees them" if fitting else "asks no module about images"
        raise ConfigurationError(f"the step {what}, so that it is not known what their masks belong to. {_REMEDY}")
    call = own[-1]
    others = [tensor for tensor in call.tensors if tensor is not call.images]
    if others and alone:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in others[:3])
        raise ConfigurationError(f"the step gives {type(call.module).__name__} more than images ({shapes}). {_REMEDY}")
    return call


def learned_from(calls: Sequence[Question], images: Tensor) -> bool:
    """Whether a module with parameters was given the batch's own images."""
    return any(_is_same(call.images, images) and any(True for _ in call.module.parameters()) for call in calls)


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


def _images_in(args: Any, kwargs: dict[str, Any]) -> tuple[Tensor | None, Any]:
    """The images that a module is given, and the list that holds them, as detectors take it; of one size."""
    leaves = pytree.tree_leaves((args, kwargs))
    batch = next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim >= 4), None)
    listed = next((each for each in args if batch is None and isinstance(each, (list, tuple)) and each), None)
    pictures = listed is not None and all(isinstance(each, Tensor) and each.ndim == 3 for each in listed)
    if listed is None or not pictures or len({(each.shape, each.dtype) for each in listed}) > 1:
        return batch, None
    return torch.stack(list(listed)), listed


def _is_fed_on(call: Question, calls: Sequence[Question]) -> bool:
    """Whether another call was given what this one answered."""
    answers = {id(leaf) for leaf in pytree.tree_leaves(call.output) if isinstance(leaf, Tensor)}
    return any(id(tensor) in answers for other in calls if other is not call for tensor in other.tensors)


def _is_same(given: Tensor | None, images: Tensor) -> bool:
    """Whether two tensors are one, or views of the same values."""
    if given is None or given is images:
        return given is images
    alike = given.shape == images.shape and given.dtype == images.dtype and given.device == images.device
    return alike and given.data_ptr() == images.data_ptr() and given.stride() == images.stride()
