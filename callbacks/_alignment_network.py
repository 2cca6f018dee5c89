"""The part of a module that answers the batch's images: named, or found in a step, and how it is called."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.callbacks._alignment_recording import Call, Calls, holds_logits, holds_own, logits_call, named_module


class Network:
    """What is known of the network: its name (which a checkpoint keeps), and whether it takes the batch's own images.

    >>> network = Network()
    >>> network.begin(nn.Sequential(nn.Linear(1, 1)), "0")
    >>> list(network.root)
    ['0']
    """

    def __init__(self) -> None:
        self.root: dict[str, nn.Module] | None = None
        self.takes_own: bool | None = None
        self._name: str | None = None
        self._seen = False

    def begin(self, pl_module: nn.Module, model: str | nn.Module | None) -> None:
        """A fit begins: the part that `model` names, else the one that a checkpoint named, if it is there still."""
        self._seen = False
        if model is not None:
            self.root = named_module(pl_module, model)
        else:
            self.root = {name: part for name, part in pl_module.named_modules() if name == self._name} or None

    def end(self) -> None:
        """A fit is over: hold no module."""
        self.root = None

    def modules(self, pl_module: nn.Module) -> dict[str, nn.Module]:
        """Whose calls are to be recorded."""
        hooked = ((n, m) for n, m in pl_module.named_modules() if not isinstance(m, torch.jit.ScriptModule))
        return self.root or dict(hooked)

    def read(self, calls: Calls, own: Sequence[Tensor], images: int, loss: Tensor | None = None) -> Call | None:
        """The call to teach, and from now on its module alone.

        `own` are tensors that are the batch's images. None where a step, or a backward pass of it, has no answer to
        these: not before one had. Raises as `logits_call` does.
        """
        if self._seen and self._is_left_out(calls, own):
            return None
        call = logits_call(calls, own, images, loss=loss)
        if not self._seen:
            self._seen, self.takes_own = True, call.took(own)
        self.root, self._name = {call.name: call.module}, call.name
        return call

    def _is_left_out(self, calls: Calls, own: Sequence[Tensor]) -> bool:
        if not calls.activations.complete or not any(map(holds_logits, calls.made)):
            return True
        return bool(self.takes_own) and not holds_own(calls, own)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"network": self._name, "takes_own": self.takes_own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint; an older one may lack either."""
        self._name, self.takes_own = state.get("network"), state.get("takes_own")
