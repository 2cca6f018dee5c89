"""Do the heatmaps tell the truth about the model: a few forward passes an epoch, logged with an interval."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.callbacks._lightning import (
    Attempt,
    Callback,
    LightningModule,
    Trainer,
    builds_later,
    callable_network,
    everywhere,
    network_of,
    runs_compiled,
    untouched,
)
from camtrain.callbacks._passes import evaluation_loader, go_first, is_due_pass, logged_names
from camtrain.cam import Layer, Ride, find_layers, predicted_class, resolve_layers, true_class
from camtrain.checks import check_arguments
from camtrain.data.batches import Batch, check_images, read_batch
from camtrain.errors import ConfigurationError
from camtrain.explanation import DEFAULT_METHODS, explain, resolve_methods
from camtrain.metrics.suite import Suite, checked_metrics, interval_of
from camtrain.packages import overrides
from camtrain.tasks.calls import Calls, call_on, learned_from


class FaithfulnessMonitor(Callback):
    """How faithful the heatmaps are to the model, measured at the end of each validation on a few fixed images.

    It spends `budget` forward passes of one image an epoch, over all processes: as many images as that buys, spread
    evenly over the validation data and the same in every epoch. Beside `ExplanationMonitor` it says whether that one's
    heatmaps can be believed; it needs no masks.

    Logged as `cam/<metric>/<method>`, with the ends of a confidence interval over images as `cam/<metric>_low/<method>`
    and `cam/<metric>_high/<method>` (Student's; Wilson's for shares); images whose heatmap is empty are left out.
    Metrics: `average_drop` (lower is better) and `confidence_increase`, one forward an image and method each pair;
    `insertion` and `deletion` (lower is better), the areas under both curves, `2 + 2 * (steps - 1) * methods` forwards;
    `road`, 8 forwards a method. All in [0, 1], `road` in [-0.5, 0.5]. See `camtrain.metrics` for the definitions.

    Args:
        methods: names of functions in `camtrain.cam` that need no forward pass of their own.
        metrics: names from above.
        layers: `"auto"`, or a dotted name within the model, or several.
        budget: forward passes of one image in each measured epoch.
        every_n_epochs: measure each n-th validation (mostly one an epoch), the first and the last one always.
        steps: of the insertion and deletion curves.
        of_labels: explain the true class and its probability instead of the predicted one.
        level: of the confidence intervals.
        max_batch: images in one forward pass.
        batch_adapter: reads a batch of another shape: returns (images, labels[, masks]), a mapping or a `Batch`.
        model: the part that maps images to logits, by name or as a module, where the module itself does not.
        dataloader_idx: which validation dataloader to read, where there are several.

    Raises:
        ConfigurationError: at once for unknown metrics, arguments out of range, or a budget that does not buy two
            images; when fitting starts without a validation step.
        MethodError: for an unknown method, at once.
        LayerError: for an unknown layer, when fitting starts.
        BatchError: at the sanity check for a batch that cannot be read, or has no labels with `of_labels`.

    A failure in a later epoch is reported once, and training goes on.

    >>> FaithfulnessMonitor(metrics=["insertion", "deletion"], steps=10, budget=400).images
    10
    """

    def __init__(
        self,
        methods: Sequence[str] = DEFAULT_METHODS,
        metrics: Sequence[str] = ("average_drop", "confidence_increase"),
        layers: str | list[str] = "auto",
        budget: int = 75,
        every_n_epochs: int = 1,
        steps: int = 10,
        of_labels: bool = False,
        level: float = 0.95,
        max_batch: int = 64,
        batch_adapter: Callable[..., Any] | None = None,
        model: str | nn.Module | None = None,
        dataloader_idx: int = 0,
    ) -> None:
        check_arguments(**locals())
        self.methods = resolve_methods(methods)
        self.suite = Suite(checked_metrics(metrics), steps, max_batch)
        self.of_labels = of_labels
        self.forwards = 1 + self.suite.forwards(len(self.methods))  # for one image: to explain it, and to change it
        self.images = budget // self.forwards
        if self.images < 2:
            raise ConfigurationError(
                f"budget={budget} forward passes buy {self.images} images at {self.forwards} each, and an "
                f"interval needs two: give budget={2 * self.forwards} or more, or fewer metrics, methods or steps."
            )
        self.layers = layers
        self.every_n_epochs = every_n_epochs
        self.level = level
        self.batch_adapter = batch_adapter
        self.model = model
        self.dataloader_idx = dataloader_idx
        self._resolved: tuple[Layer, ...] = ()
        self._asked: nn.Module | None = None  # by the step, about the images
        self._calls = Calls()
        self._kept: list[tuple[Tensor, Tensor | None]] = []
        self._wanted: set[int] | None = None
        self._position = self._size = 0  # in the pass, and of its first batch
        self._attempt = Attempt("FaithfulnessMonitor")

    # Lightning's hooks: a guard and one verb each.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before any batch."""
        if stage == "fit" and not overrides(pl_module, "validation_step"):
            raise ConfigurationError(
                f"FaithfulnessMonitor explains validation images; {type(pl_module).__name__} has no validation_step."
            )
        go_first(trainer, self)
        if not builds_later(pl_module):
            self._check_layers(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the layers' names where they were built late."""
        self._check_layers(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to keep images."""
        evaluation_loader(trainer, self.dataloader_idx)  # that there is one
        if not {layer.module for layer in self._resolved} <= set(pl_module.modules()):
            self._resolved = ()  # those of another module
        self._kept, self._wanted, self._position = [], None, 0

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hear what the step gives the network."""
        if dataloader_idx == self.dataloader_idx and (trainer.sanity_checking or self._wants_the_next(trainer)):
            network, compiled = network_of(pl_module, self.model), runs_compiled(pl_module)
            self._calls.listen({*Ride.audible(pl_module), network}, network, compiled=compiled)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images that are wanted."""
        if dataloader_idx != self.dataloader_idx:
            return
        if trainer.sanity_checking:
            self._check(pl_module, batch)
        elif self.should_measure(trainer):
            self._attempt(self._keep, trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what was kept, and log it."""
        if self.should_measure(trainer):
            self._log(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._calls.stop()

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def should_measure(self, trainer: Trainer) -> bool:
        """Whether this pass is measured: each n-th validation of a fit, its last one, and every validate and test."""
        return is_due_pass(trainer, self.every_n_epochs)

    # The verbs.

    def _check_layers(self, pl_module: LightningModule) -> None:
        network = network_of(pl_module, self.model)
        callable_network(network)
        if self.layers != "auto":
            find_layers(network, self.layers)

    def _read(self, batch: Any) -> Batch:
        read = read_batch(batch, self.batch_adapter)
        if self.of_labels and read.labels is None:
            raise ConfigurationError("of_labels=True needs labels in the validation batches, and the batch has none.")
        return read

    def _check(self, pl_module: LightningModule, batch: Any) -> None:
        """That a batch can be read, and is given to the network in floating point, before training starts."""
        read = self._read(batch)
        heard = self._attempt(self._heard, pl_module, read.images)
        if heard is not None:
            check_images(replace(read, images=heard[1]))

    def _wants_the_next(self, trainer: Trainer) -> bool:
        """Whether the next batch may hold a wanted image."""
        places = range(self._position, self._position + self._size)
        return self.should_measure(trainer) and (self._wanted is None or not self._wanted.isdisjoint(places))

    def _keep(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        read = self._read(batch)
        if self._wanted is None:
            self._wanted = self._positions(trainer, len(read))
        rows = [row for row in range(len(read)) if self._position + row in self._wanted]
        self._position, self._size = self._position + len(read), max(self._size, len(read))
        if rows and self._calls.are_heard:
            self._asked, images = self._heard(pl_module, read.images)
            check_images(replace(read, images=images))
            labels = read.labels
            if self.of_labels and isinstance(labels, Tensor):  # unknown ones (-1, -100, NaN) are of no class
                rows = [row for row in rows if bool((labels[row] >= 0).all())]
            self._kept += [(images[row].clone(), None if labels is None else labels[row].clone()) for row in rows]

    def _heard(self, pl_module: LightningModule, images: Tensor) -> tuple[nn.Module, Tensor]:
        """What the step asked, and with which images. A step that calls parts of the network may ask the whole."""
        network, calls = network_of(pl_module, self.model), self._calls.take()
        try:
            call = call_on(calls, images, network)
        except ConfigurationError:
            if not learned_from(calls, images):
                raise
            return callable_network(network), images
        return call.module, images if call.images is None else call.images

    def _positions(self, trainer: Trainer, batch_size: int) -> set[int]:
        """Where the kept images of this process lie in its part of the data."""
        count = math.ceil(self.images / trainer.world_size)
        batches = (trainer.num_test_batches if trainer.testing else trainer.num_val_batches)[self.dataloader_idx]
        if not math.isfinite(batches) or batches * batch_size <= count:
            return set(range(count))
        last = (batches - 1) * batch_size  # the last batch may hold one image only
        return set(torch.linspace(0, last, count).round().long().tolist())

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts = everywhere(trainer, lambda: self._measured(trainer, pl_module), lose=self._lose)
        self._kept = []
        for name, each in _together(parts).items():
            metric, _, method = name.partition("/")
            mean = interval_of(metric, each, level=self.level)
            ends = {"": mean.mean, "_low": mean.low, "_high": mean.high}
            values = {f"cam/{metric}{end}/{method}": value for end, value in ends.items()}
            pl_module.log_dict(logged_names(trainer, values), sync_dist=True)

    def _lose(self, failure: str) -> None:
        self._attempt.report(f"measure ({failure})")

    def _measured(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, list[float]]:
        """The metrics of this process's images, by `<metric>/<method>`."""
        with untouched(trainer, pl_module):
            network = self._asked or callable_network(network_of(pl_module, self.model))
            parts = []
            for images, labels in _stacked(self._kept, self.suite.max_batch):
                self._resolve(pl_module, network, images)
                parts.append(self._answers(network, images, labels if self.of_labels else None))
        return _together(parts)

    def _answers(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> dict[str, list[float]]:
        explained = explain(
            network,
            images,
            layers=list(self._resolved),
            methods=list(self.methods.values()),
            target=true_class if self.of_labels else predicted_class,
            labels=labels,
        )
        measured = self.suite.measure(network, images, explained, labels=labels)
        return {name: each.tolist() for name, each in measured.values.items()}

    def _resolve(self, pl_module: LightningModule, network: nn.Module, images: Tensor) -> None:
        """Choose the layers once: names given are of the model, those found are of what is called."""
        if not self._resolved:
            named = [] if self.layers == "auto" else find_layers(network_of(pl_module, self.model), self.layers)
            self._resolved = resolve_layers(network, images, [layer.module for layer in named] or "auto")


def _stacked(images: Iterable[tuple[Tensor, Tensor | None]], most: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Single images stacked again in batches of one size, at most `most` in each, with their labels.

    >>> [len(batch) for batch, _ in _stacked([(torch.zeros(1, 2, 2), None)] * 5, 2)]
    [2, 2, 1]
    """
    for _, alike in itertools.groupby(images, lambda pair: (pair[0].shape, pair[1] is None)):
        rows = list(alike)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            labels = [label for _, label in part if label is not None]
            yield torch.stack([image for image, _ in part]), torch.stack(labels) if labels else None


def _together(parts: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The values of several batches, or of several processes."""
    values: dict[str, list[float]] = {}
    for part in parts:
        for name, each in part.items():
            values.setdefault(name, []).extend(each)
    return values
