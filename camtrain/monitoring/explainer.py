"""Explains the batches of a pass: from the forward pass that somebody makes where it can, else from one of its own."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, cast

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
from camtrain.cam.capture import capture_each
from camtrain.cam.hooks import Hooks
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import Method
from camtrain.cam.ownership import call, evaluating, isolated
from camtrain.cam.targets import Target
from camtrain.data.batches import Batch
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.monitoring.table import Explained, explain_batch
from camtrain.tasks import Binary, MultiLabel, SingleLabel, Task, Units, resolve_task
from camtrain.tasks.calls import Call, Calls, moves_images

_TWO_PATHS = "the model has torch's own attention modules, whose results differ with gradients on"
_PARTS = "the step calls parts of the model, none of which answers from the images alone"
_COMPILED = "it runs compiled, where hooks see nothing"
_NOTHING_TO_RIDE_ON = "the step's own pass went through no hooked module that returns logits"
_OTHER_IMAGES = "the step asks it about more or fewer images than the batch holds"


class FirstPass:
    """What the step calls of a network, with the first batch."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.error: Exception | None = None  # of a dry forward
        self._calls, self._hooks = Calls(), Hooks()

    def listen(self) -> None:
        """Note the outermost calls of its parts from now on."""
        self.stop()
        self._calls = Calls()
        parts = Ride.audible(self.network)
        self._hooks.add(self._calls.handles({name: m for name, m in self.network.named_modules() if m in parts}))

    def stop(self) -> None:
        """Leave no hook behind."""
        self._hooks.remove()

    def answer(self, batch: Batch) -> Call | None:
        """The call that maps images to logits; None where there is none, or more than one.

        Not one whose answer another is given, as a head is a backbone's. Of several calls of one module that on the
        batch's own images.
        """
        made = self._answering(len(batch))
        heads = [call for call in made if not any(_feeds(call, other) for other in made)]
        own = [call for call in heads if call.took([batch.images])] or heads
        single = len({call.module for call in own}) == 1
        return own[0] if single and any(tensor.ndim > 2 for tensor in own[0].tensors) else None

    def feeds(self, module: nn.Module | None, batch: Batch) -> bool:
        """Whether the answer of a part is given to another one, as features are."""
        made = self._answering(len(batch))
        return any(_feeds(call, other) for call in made if call.module is module for other in made)

    def _answering(self, count: int) -> list[Call]:
        learned = [call for call in self._calls.made if any(True for _ in call.module.parameters())]
        return [call for call in learned if any(len(answer) == count for answer in call.answers)]


def _feeds(call: Call, other: Call) -> bool:
    given = {tensor.shape for tensor in other.tensors}
    return other.module is not call.module and any(answer.shape in given for answer in call.answers)


class Explainer:
    """One network's layers, task and ride: `arm` before a pass, `explain` after it, `disarm` whatever happened.

    The first batch finds the layers: a dry forward of its images does, else one of what the step gives the network.
    `settle` says after the first pass whether that worked.

    Args:
        network: the module whose forward pass is ridden on; the names of layers are those in it.
        called: the module that is called where the step calls none: the network, or a part of it; None for neither.
        layers: "auto", or names.
        methods: by name.
        target: a function of (logits, labels); `predicted_class` is the task's own answer.
        task: "auto", a name, or a task.
        autocast: entered around every forward pass.
        compiled: the network runs compiled, where hooks see nothing. Its first pass is made eagerly, and all of them
            where the step gives it other images than the batch's own.

    Attributes:
        tells_truth: whether a wrong answer has a heatmap for the true class: where units are choices between classes.
    """

    tells_truth = True

    def __init__(
        self,
        network: nn.Module,
        called: nn.Module | None,
        layers: str | list[str],
        methods: Mapping[str, Method],
        *,
        target: Callable[..., Any] = predicted_class,
        task: str | Task = "auto",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        compiled: bool = False,
    ) -> None:
        self.network, self.called, self.methods = network, called, methods
        self.target, self.autocast = target, autocast
        self.spec: LayerSpec = layers if layers == "auto" else [each.module for each in find_layers(network, layers)]
        self.layers: tuple[Layer, ...] = ()
        self.why_own_pass = "" if can_ride(network) else _TWO_PATHS
        self.compiled = compiled
        self.moved = False  # the step crops, mirrors or mixes the images that it gives the network
        self.one_hot = False  # labels that are read as several an image may be one class each
        self.batch: Batch | None = None  # between `arm` and `disarm`
        self.num_classes = 0
        self._task = task
        self._ride: Ride | None = None
        self._late = False  # found after the pass that would have been ridden on
        self._first: FirstPass | None = FirstPass(network)
        self._modes = ExitStack()

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
        # to hear what the step gives the network, and to have no pass of our own compiled
        if self.compiled and self.why_own_pass != _COMPILED:
            self._modes.enter_context(torch.compiler.set_stance("force_eager"))
        if self._first is not None and self._ride is None and self.called is not None:
            try:
                self._find(self.called, batch.images)
            except Exception as error:  # whatever a foreign forward raises of images as they are in the batch
                self._first.error = error
        if self.why_own_pass == _COMPILED:
            return
        if self._first is not None:
            self._first.listen()
        if self._ride is not None:
            self._ride.arm(batch.images, listen=bool(self.why_own_pass))

    def disarm(self) -> None:
        """Leave no hook behind."""
        self._modes.close()
        if self._first is not None:
            self._first.stop()
        if self._ride is not None:
            self._ride.disarm()
            self._ride.forget()
        self.batch, self._late = None, False

    def find_layers_and_task(self, batch: Batch) -> None:
        """After the first pass: know the layers, which call answers, and which task it is.

        Raises LayerError for layers without a map, ConfigurationError where no call answers or a target of one's own
        meets a task of several units an image, and BatchError where the task cannot be told. Later it does nothing.
        """
        if self._first is None:
            return
        self._first.stop()
        answer = self._first.answer(batch)
        if self._ride is None:
            if answer is None:
                error = self._first.error
                if isinstance(error, CamtrainError):
                    raise error
                why = "has no forward method" if error is None else f"does not take them as they are ({error})"
                raise ConfigurationError(
                    f"{type(self.network).__name__} {why}, and its step calls no single part that maps the batch's "
                    "images to logits: pass model='name' of the one to explain; it has "
                    f"{', '.join(name for name, _ in self.network.named_children())}."
                ) from error
            self.called, self._late = answer.module, True
            ride = self._find(answer.module, _inputs(answer.args, answer.kwargs))
            ride.root, ride.given = answer.module, (answer.args, answer.kwargs)
        elif self._first.feeds(self._ride.root, batch):
            self.why_own_pass = _PARTS
        if self.compiled and self._asked(batch)[1] is batch.images:
            self.why_own_pass = _COMPILED
        task = resolve_task(self._task, self._output(batch), batch)
        if self.target is not predicted_class and not task.one_unit:
            raise ConfigurationError(
                f"A target explains one score an image; {task!r} has several units in it. Leave target out, or write a "
                "Task of your own."
            )
        self.one_hot = self._task == "auto" and may_be_one_hot(task, batch.labels)
        self._task, self._first, self.tells_truth = task, None, isinstance(task, SingleLabel)

    def _find(self, called: nn.Module, inputs: Any) -> Ride:
        with self.autocast():
            self.layers = resolve_layers(called, inputs, self.spec)
        self._ride = Ride(self.network, self.layers)
        return self._ride

    def _output(self, batch: Batch) -> Any:
        ride = cast(Ride, self._ride)
        if ride.output is not None and (ride.logits is None or len(ride.logits) == len(batch)):
            return ride.output
        called, inputs = self._asked(batch)
        with self.autocast(), isolated(called, inputs), evaluating(called), torch.no_grad():
            return call(called, inputs)

    def explain(self, batch: Batch, samples: list[str], grounded_above: float) -> list[Explained]:
        """The batch's units with their heatmaps in rounds, from the pass that was made since `arm`."""
        self.find_layers_and_task(batch)
        task = cast(Task, self._task)
        self.called, inputs = self._asked(batch)
        if moves_images(batch.images, inputs):  # shown where the network saw them; what the masks mark lies elsewhere
            self.moved = True
            batch = replace(batch, images=inputs.detach(), masks=None)
        captures, rounds = self._captured(batch, task, self.called, inputs)
        self.num_classes = max(self.num_classes, task.count(captures[0].logits))
        return [
            explain_batch(
                batch,
                captured,
                task=task,
                units=units,
                methods=self.methods,
                samples=samples,
                inputs=inputs if isinstance(inputs, Tensor) else None,
                grounded_above=grounded_above,
            )
            for captured, units in zip(captures, rounds, strict=True)
            if task.one_unit or bool(units.asked.any())
        ]

    def naming(self, classes: Sequence[str]) -> list[str]:
        """What the task's units are about, in words."""
        return self._task.names(classes) if isinstance(self._task, Task) else list(classes)

    def true_heatmaps(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The first method's heatmaps `(B, *S)` for the true classes, from a forward pass of its own."""
        target = _truth if isinstance(self._task, Binary) else true_class
        with self.autocast():
            captured = capture(cast(nn.Module, self.called), inputs, self.layers, target, labels=labels)
        method = next(iter(self.methods.values()))
        return method(captured.activations[0], captured.gradients[0])

    def _asked(self, batch: Batch) -> tuple[nn.Module, Any]:
        """The module that the step called, and what it gave it; what it may be where the step called none."""
        ride, called = cast(Ride, self._ride), cast(nn.Module, self.called)
        args, kwargs = ride.given
        if ride.root is None or self.why_own_pass == _PARTS or (args and kwargs):
            return called, batch.images
        inputs = _inputs(args, kwargs)
        if not isinstance(inputs, Tensor) or len(inputs) == len(batch):
            return ride.root, inputs
        rows = min(len(inputs), len(batch))
        if inputs.shape[1:] == batch.images.shape[1:] and torch.equal(inputs[:rows], batch.images[:rows]):
            return called, batch.images  # halves of the batch, or other views behind it
        raise ConfigurationError(
            f"The step asks {type(ride.root).__name__} about {len(inputs)} images at a time, of a batch of {len(batch)}"
            ", not the batch's own: which answer belongs to which image is not known. Normalize and augment "
            "in the data set or in on_after_batch_transfer."
        )

    def _captured(
        self, batch: Batch, task: Task, called: nn.Module, inputs: Any
    ) -> tuple[tuple[Capture, ...], list[Units]]:
        """The batch's rounds of units, each with what its scores hang on."""
        asked: list[Units] = []  # of maps of many pixels they are dear: made once, where the scores are

        def rounds(output: Any) -> list[Target]:
            asked[:] = task.units(output, batch)
            if self.target is not predicted_class:
                return [self.target]
            return [_scoring(units.scores, task.whole_output) for units in asked]

        labels = batch.labels if isinstance(batch.labels, Tensor) else None
        if not self.why_own_pass and not self._late:
            ride = cast(Ride, self._ride)
            own = ride.logits is None or ride.logits.ndim < 2 or len(ride.logits) == len(batch)
            captures = ride.captured_each(rounds, labels) if own else None
            if not own:
                ride.reason = _OTHER_IMAGES
            if captures is not None and len(captures[0].scores) == len(batch):
                return captures, [units.detached() for units in asked]
            self.why_own_pass = ride.reason or _NOTHING_TO_RIDE_ON
        with self.autocast():
            captures = capture_each(called, inputs, self.layers, rounds, labels=labels)
        return captures, [units.detached() for units in asked]


def may_be_one_hot(task: Task, labels: Any) -> bool:
    """Whether labels that are read as several an image could be one class each: every image has exactly one.

    >>> import torch
    >>> may_be_one_hot(MultiLabel(), torch.eye(3)), may_be_one_hot(MultiLabel(), torch.tensor([[1, 1], [0, 1]]))
    (True, False)
    """
    if not isinstance(task, MultiLabel) or not isinstance(labels, Tensor) or len(labels) < 2:
        return False
    return labels.ndim == 2 and labels.shape[1] > 1 and bool(((labels == 1).sum(dim=1) == 1).all())


def _inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `capture` takes them."""
    return kwargs or (args[0] if len(args) == 1 else args)


def _scoring(scores: Tensor, whole: bool) -> Target:
    """A target of scores that are there already."""

    def target(output: Any, labels: Tensor | None) -> Tensor:
        return scores

    target.wants_output = whole  # type: ignore[attr-defined]
    return target


def _truth(logits: Tensor, labels: Tensor | None) -> Tensor:
    """What speaks for the label, of a single logit."""
    logit = logits.reshape(-1)
    return logit if labels is None else torch.where(labels == 1, logit, -logit)
