"""Explains the batches of a pass: from the forward pass that somebody makes where it can, else from one of its own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import (
    Capture,
    Layer,
    Ride,
    can_ride,
    capture,
    find_layers,
    predicted_class,
    resolve_layers,
    true_class,
)
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import Method
from camtrain.data.batches import Batch
from camtrain.errors import BatchError
from camtrain.monitoring.explained import Explained, explain_batch
from camtrain.tasks import Binary, SingleLabel, Task, resolve_task

_TWO_PATHS = "the model has torch's own attention modules, whose results differ with gradients on"
_NOTHING_TO_RIDE_ON = "the step's own pass went through no hooked module that returns logits, or is compiled"


class Explainer:
    """One network's layers, task and ride: `arm` before a pass, `explain` after it, `disarm` whatever happened.

    Args:
        network: the module whose forward pass is ridden on; the names of layers are those in it.
        called: the module that is called where the step called none: the network, or a part of it.
        images: of the first batch: a dry forward of them finds the layers.
        layers: "auto", or names.
        methods: by name.
        target: a function of (logits, labels); `predicted_class` is the task's own answer.
        task: "auto", a name, or a task.
        autocast: entered around every forward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        called: nn.Module,
        images: Tensor,
        layers: str | list[str],
        methods: Mapping[str, Method],
        *,
        target: Callable[..., Any] = predicted_class,
        task: str | Task = "auto",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.network, self.called, self.methods = network, called, methods
        self.target, self.autocast = target, autocast
        spec: LayerSpec = layers if layers == "auto" else [layer.module for layer in find_layers(network, layers)]
        with autocast():
            self.layers: tuple[Layer, ...] = resolve_layers(called, images, spec)
        self.walks = "" if can_ride(network) else _TWO_PATHS
        self.batch: Batch | None = None  # between `arm` and `disarm`
        self.num_classes = 0
        self._task, self._ride = task, Ride(network, self.layers)

    @property
    def names(self) -> list[str]:
        """Of the heatmaps: a method's, or `method@layer` where there are several layers."""
        layers = [layer.name for layer in self.layers]
        return [m if len(layers) == 1 else f"{m}@{layer}" for m in self.methods for layer in layers]

    def fits(self, network: nn.Module) -> bool:
        """Whether this is the network still, and holds the layers still."""
        return network is self.network and {layer.module for layer in self.layers} <= set(network.modules())

    def arm(self, batch: Batch) -> None:
        """Be ready for the forward pass of a batch."""
        self.batch = batch
        self._ride.arm(batch.images, listen=bool(self.walks))

    def disarm(self) -> None:
        """Leave no hook behind."""
        self._ride.disarm()
        self._ride.forget()
        self.batch = None

    def task(self, batch: Batch) -> Task:
        """The task, decided by the first batch, from the pass that was made since `arm`.

        Raises BatchError where it cannot be told, or is one that is not read here.
        """
        if not isinstance(self._task, Task):
            logits = self._ride.logits
            if logits is None or len(logits) != len(batch):
                called, inputs = self._asked(batch)
                with self.autocast():
                    logits = capture(called, inputs, self.layers).logits
            self._task = resolve_task(self._task, logits, batch)
        if not isinstance(self._task, SingleLabel):
            raise BatchError(f"One label an image is explained, by one logit or by several; this is {self._task}.")
        return self._task

    def explain(self, batch: Batch, samples: list[str], grounded_above: float) -> Explained:
        """The batch with its heatmaps, from the pass that was made since `arm`."""
        task = self.task(batch)
        called, inputs = self._asked(batch)
        captured = self._captured(batch, task, called, inputs)
        self.called = called
        self.num_classes = 2 if isinstance(task, Binary) else captured.logits.shape[1]
        return explain_batch(
            batch,
            captured,
            task=task,
            methods=self.methods,
            samples=samples,
            inputs=inputs if isinstance(inputs, Tensor) else None,
            grounded_above=grounded_above,
        )

    def true_heatmaps(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The first method's heatmaps `(B, *S)` for the true classes, from a forward pass of its own."""
        target = _truth if isinstance(self._task, Binary) else true_class
        with self.autocast():
            captured = capture(self.called, inputs, self.layers, target, labels=labels)
        method = next(iter(self.methods.values()))
        return method(captured.activations[0], captured.gradients[0])

    def _asked(self, batch: Batch) -> tuple[nn.Module, Any]:
        """The module that the step called, and what it gave it; what it may be where the step called none."""
        args, kwargs = self._ride.given
        if self._ride.root is None or (args and kwargs):
            return self.called, batch.images
        inputs = kwargs or (args[0] if len(args) == 1 else args)
        fits = not isinstance(inputs, Tensor) or len(inputs) == len(batch)
        return (self._ride.root, inputs) if fits else (self.called, batch.images)

    def _captured(self, batch: Batch, task: Task, called: nn.Module, inputs: Any) -> Capture:
        def answer(logits: Tensor, labels: Tensor | None) -> Tensor:
            own = self.target is predicted_class
            scores: Tensor = task.units(logits, batch)[0].scores if own else self.target(logits, labels)
            return scores

        if not self.walks:
            captured = self._ride.captured(answer, batch.labels)
            if captured is not None and len(captured.logits) == len(batch):
                return captured
            self.walks = self._ride.reason or _NOTHING_TO_RIDE_ON
        with self.autocast():
            return capture(called, inputs, self.layers, answer, labels=batch.labels)


def _truth(logits: Tensor, labels: Tensor | None) -> Tensor:
    """What speaks for the label, of a single logit."""
    logit = logits.reshape(-1)
    return logit if labels is None else torch.where(labels == 1, logit, -logit)
