"""How layers were chosen and read before: the same network on images of the same size is not looked at again."""

from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.layouts import Layout

Choice = tuple[str, str, Layout, int]  # name, reason, layout, which of the tensors that the module returns


class Choices:
    """Choices by model, which is not kept alive, and by its modules and the shapes of its inputs.

    A network that has gained, lost or exchanged a module is another one, and so is the same one on images of another
    size.

    >>> from camtrain.cam.layouts import channels_first
    >>> choices, net = Choices(), nn.Conv2d(1, 1, 1)
    >>> choices.remember(net, net.weight, ("layer", "the last map", channels_first((2, 1, 4, 4)), 0))
    >>> choices.recall(net, net.weight)[0], choices.recall(nn.Conv2d(1, 1, 1), net.weight)
    ('layer', None)
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, dict[Hashable, Choice]] = WeakKeyDictionary()

    def recall(self, model: nn.Module, images: Any, asked: str = "auto") -> Choice | None:
        """What was chosen for this model on such images when asked for this layer, if anything was."""
        return self._known.get(model, {}).get((_signature(model, images), asked))

    def remember(self, model: nn.Module, images: Any, choice: Choice, asked: str = "auto") -> None:
        """Keep it; of one model on several sizes of images the last few."""
        known = self._known.setdefault(model, {})
        known[_signature(model, images), asked] = choice
        while len(known) > _KEPT:
            del known[next(iter(known))]

    def forget(self, model: nn.Module, images: Any, asked: str = "auto") -> bool:
        """Drop it; whether there was anything."""
        return self._known.get(model, {}).pop((_signature(model, images), asked), None) is not None


_KEPT = 32


def _signature(model: nn.Module, images: Any) -> Hashable:
    leaves, structure = pytree.tree_flatten(images)
    shapes = tuple((leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves)
    return tuple(map(id, model.modules())), shapes, str(structure)
