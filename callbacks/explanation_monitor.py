"""See what the model looks at, at every validation, without a change to its module and without slowing it down."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from camtrain.callbacks._explained import explained_batch
from camtrain.callbacks._ledger import Table
from camtrain.callbacks._lightning import (
    Attempt,
    Callback,
    LightningModule,
    Trainer,
    builds_later,
    callable_network,
    denormalizer_of,
    expected_images,
    gathered,
    group_names_of,
    is_due_pass,
    names_of,
    network_of,
    rank_zero_info,
    stage_of,
)
from camtrain.callbacks._observations import Observations, records_of
from camtrain.callbacks._pictures import Naming
from camtrain.callbacks._tally import GroundingTally
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
from camtrain.data.batches import Batch, check_masks, read_batch
from camtrain.errors import ConfigurationError
from camtrain.explanation import DEFAULT_METHODS, resolve_methods
from camtrain.records import FourCells, Setup
from camtrain.records.run_info import versions
from camtrain.sinks.loggers import PictureFormat
from camtrain.sinks.run import Run
from camtrain.sinks.watch import Alarms


class ExplanationMonitor(Callback):
    """Heatmaps, grounding metrics and failure cases of every validation image, from the module's own forward pass.

    The callback rides on the forward pass that `validation_step` (or `test_step`) makes: metrics stay bit-identical.
    `benchmarks/overhead.py` measures what that costs. Where it cannot ride (the module has torch's own attention
    modules, is compiled, or returns no logits from its model) it makes a forward pass of its own and says so once.

    Logged at each explained epoch, as means over the images that have an answer: `cam/empty_maps/<method>`, and with
    masks in the batch `cam/inside_energy/<method>`, `cam/pointing_game/<method>` and the shares of the four cells
    `cam/right_grounded`, `cam/right_ungrounded`, `cam/wrong_grounded`, `cam/wrong_ungrounded`, judged by the first
    method; over the probes, how far heatmaps moved since the last and the first pass: `cam/drift/...`. Pictures (the
    fixed probes, the failure cases), histograms and tables go to Weights & Biases and TensorBoard where they are
    loggers, and to `report.html` in the run's folder always; they are encoded in the background. An alert is raised
    once where heatmaps die, or where accuracy and inside energy part ways.

    Args:
        methods: names of functions in `camtrain.cam`; all come from one pass.
        layers: `"auto"`, or a dotted name within the model, or several.
        every_n_epochs: explain each n-th epoch, the first and the last one always.
        num_probes: how many fixed images to follow over epochs, spread evenly over the data.
        num_failures: how many failure cases of each kind to show: confidently wrong, right for the wrong reason, worse
            than in the last pass. They are spread over classes and heatmaps.
        grounded_above: an answer is grounded where its evidence on the object, corrected for chance, exceeds this.
        target: what is explained, a function of (logits, labels); the predicted class by default.
        batch_adapter: reads a batch of another shape: returns (images, labels[, masks]), a mapping or a `Batch`.
        model: dotted name of the submodule that maps images to logits, where the module itself does not.
        dataloader_idx: which validation dataloader to explain, where there are several.
        pictures: "jpg", or "png" for pictures without loss at many times the cost and size.

    Raises:
        MethodError: for an unknown method, at once.
        LayerError: for an unknown layer, when fitting starts; for one without a map, at the first batch.
        BatchError, MaskError: at the first batch (that is the sanity check) for one that cannot be read.

    >>> ExplanationMonitor(methods=["grad_cam"], every_n_epochs=2).every_n_epochs
    2
    """

    def __init__(
        self,
        methods: Sequence[str] = DEFAULT_METHODS,
        layers: str | list[str] = "auto",
        every_n_epochs: int = 1,
        num_probes: int = 8,
        num_failures: int = 8,
        grounded_above: float = 0.2,
        target: Callable[..., Any] = predicted_class,
        batch_adapter: Callable[..., Any] | None = None,
        model: str | None = None,
        dataloader_idx: int = 0,
        pictures: PictureFormat = "jpg",
    ) -> None:
        if pictures not in ("jpg", "png"):
            raise ConfigurationError(f"pictures is 'jpg' or 'png', got {pictures!r}.")
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("num_probes", num_probes, 0),
            ("num_failures", num_failures, 0),
        ):
            if value < least:
                raise ConfigurationError(f"{name} must be at least {least}, got {value}.")
        self.methods = resolve_methods(methods)
        self.layers = layers
        self.every_n_epochs = every_n_epochs
        self.num_probes = num_probes
        self.num_failures = num_failures
        self.pictures: PictureFormat = pictures
        self.grounded_above = grounded_above
        self.target = target
        self.batch_adapter = batch_adapter
        self.model = model
        self.dataloader_idx = dataloader_idx
        self._seen: dict[str, Observations] = {}
        self._alarms = Alarms()
        self._tally: GroundingTally | None = None
        self._resolved: tuple[Layer, ...] = ()
        self._ride: Ride | None = None
        self._batch: Batch | None = None
        self._rides = True
        self._position = 0
        self._passes = 0
        self._num_classes = 0
        self._images: Table | None = None
        self._attempt = Attempt("ExplanationMonitor", undo=self._dismount)

    # Lightning's hooks: a guard and one verb each.

    @property
    def state_key(self) -> str:
        """Distinguishes monitors of other methods or layers in one checkpoint."""
        return self._generate_state_key(methods=list(self.methods), layers=str(self.layers), model=self.model)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the layers' names where the modules exist already."""
        run = Run.of(trainer)
        run.pictures = self.pictures
        run.guard_loggers()
        if not builds_later(pl_module):
            self._check_layers(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the layers' names."""
        self._check_layers(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass."""
        if self.should_explain(trainer):
            self._begin(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Arm the ride."""
        if dataloader_idx == self.dataloader_idx and (trainer.sanity_checking or self.should_explain(trainer)):
            self._prepare(trainer, pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the batch."""
        if self._batch is not None:
            self._attempt(self._explain, trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the pass."""
        if self.should_explain(trainer) and self._tally is not None:
            self._finish(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's scalars, those of the module too, in the local files."""
        if not trainer.sanity_checking:
            Run.of(trainer).end_validation()
            if self._tally is not None:
                self._attempt(self._tell, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's training scalars, which are known only now."""
        if self._passes:
            self._attempt(Run.of(trainer).write_scalars)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        if self._passes:
            self._attempt(Run.of(trainer).publish)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind, and write what there is of the report."""
        self._dismount()
        if self._passes:
            self._attempt(Run.of(trainer).publish)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no hook behind, on loggers neither."""
        self._dismount()
        Run.of(trainer).release_loggers()

    def state_dict(self) -> dict[str, Any]:
        """The identities of the probes and how they looked, so that a resumed run follows the same images."""
        return {
            "seen": {stage: seen.state_dict() for stage, seen in self._seen.items()},
            "reporter": self._alarms.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the probes of the run that is resumed."""
        for stage, seen in state_dict["seen"].items():
            self._seen_in(stage).load_state_dict(seen)
        self._alarms.load_state_dict(state_dict["reporter"])

    @property
    def images(self) -> Table | None:
        """Every image of the last pass as a row of numbers, those of all processes; None before the first pass."""
        return self._images

    def should_explain(self, trainer: Trainer) -> bool:
        """Whether this pass is explained: each n-th epoch of a fit, its last one, and every validate and test."""
        return is_due_pass(trainer, self.every_n_epochs)

    # The verbs.

    def _check_layers(self, pl_module: LightningModule) -> None:
        network = network_of(pl_module, self.model)
        if self.layers != "auto":
            find_layers(network, self.layers)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._position = 0
        if self._tally is not None:
            self._tally.reset(pl_module.device)
        self._seen_in(stage_of(trainer)).reset(expected_images(trainer))

    def _seen_in(self, stage: str) -> Observations:
        return self._seen.setdefault(stage, Observations(self.num_probes, self.num_failures))

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Read the batch and arm the ride; what is wrong with the very first batch is an error, later a warning."""
        self._dismount()
        if not self._resolved:
            self._arm(trainer, pl_module, batch)
        else:
            self._attempt(self._arm, trainer, pl_module, batch)

    def _arm(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        read = read_batch(batch, self.batch_adapter)
        if self._passes == 0:
            check_masks(read)
        if not self._resolved:
            self._resolve(trainer, pl_module, read)
        if trainer.sanity_checking:
            return
        if self._tally is None:
            self._tally = GroundingTally(self._names())
            self._tally.reset(pl_module.device)
        self._batch = read
        if self._rides and self._ride is not None:
            self._ride.arm()

    def _resolve(self, trainer: Trainer, pl_module: LightningModule, batch: Batch) -> None:
        network = network_of(pl_module, self.model)
        layers = self.layers if self.layers == "auto" else [found.module for found in find_layers(network, self.layers)]
        with trainer.precision_plugin.forward_context():
            self._resolved = resolve_layers(callable_network(network), batch.images, layers)
        self._ride = Ride(network, self._resolved)
        self._announce(network)

    def _names(self) -> list[str]:
        layers = [layer.name for layer in self._resolved]
        return [m if len(layers) == 1 else f"{m}@{layer}" for m in self.methods for layer in layers]

    def _announce(self, network: nn.Module) -> None:
        for layer in self._resolved:
            rank_zero_info(f"ExplanationMonitor explains layer {layer.name!r}: {layer.reason}.")
        if not can_ride(network):
            self._walk("the model has torch's own attention modules, whose results differ with gradients on")

    def _walk(self, reason: str) -> None:
        self._rides = False
        rank_zero_info(f"ExplanationMonitor makes a forward pass of its own for each batch: {reason}.")

    def _explain(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batch, ride = self._batch, self._ride
        self._dismount()
        if batch is None or self._tally is None:
            return
        captured = ride.captured(self.target, batch.labels) if ride is not None and self._rides else None
        if captured is None or len(captured.logits) != len(batch):
            captured = self._own_forward(trainer, pl_module, batch)
        explained = explained_batch(batch, captured, self.methods, self._samples(trainer, batch), self.grounded_above)
        self._num_classes = captured.logits.shape[1]
        self._tally.update(explained)
        seen = self._seen_in(stage_of(trainer))
        seen.update(explained, self._position, with_probes=trainer.is_global_zero)
        self._position += len(batch)

    def _own_forward(self, trainer: Trainer, pl_module: LightningModule, batch: Batch) -> Capture:
        if self._rides:
            self._walk("the step's own pass went through no hooked module that returns logits, or is compiled")
        network = callable_network(network_of(pl_module, self.model))
        with trainer.precision_plugin.forward_context():
            return capture(network, batch.images, self._resolved, self.target, labels=batch.labels)

    def _samples(self, trainer: Trainer, batch: Batch) -> list[str]:
        if batch.ids is not None:
            return batch.ids
        local = range(self._position, self._position + len(batch))
        return [f"{stage_of(trainer)}-{index * trainer.world_size + trainer.global_rank}" for index in local]

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._tally is None:
            return
        scalars, counts = self._tally.compute()
        pl_module.log_dict(scalars, sync_dist=True)
        self._passes += 1
        self._attempt(self._record, trainer, pl_module, counts)

    def _record(self, trainer: Trainer, pl_module: LightningModule, counts: dict[str, int]) -> None:
        """Write the pictures and tables of the pass; all processes gather, the first one writes."""
        seen, epoch, step = self._seen_in(stage_of(trainer)), trainer.current_epoch, trainer.global_step
        naming = Naming(names_of(trainer, self._num_classes), group_names_of(trainer), denormalizer_of(trainer))

        def gather(items: list[Any]) -> list[Any]:
            return gathered(trainer, items)

        failed = seen.failure_panels(naming, lambda x, y: self._true_heatmaps(trainer, pl_module, x, y), gather)
        self._images = seen.numbers(gather)
        if not trainer.is_global_zero:
            return
        probes = seen.probe_panels(naming)
        pl_module.log_dict(seen.drift(probes), rank_zero_only=True)
        records = records_of(self._images, probes, failed, naming.classes, epoch, step)
        cells = [FourCells(counts, epoch, step)] if counts else []
        setup = [Setup(self._setup(), epoch, step)] if self._passes == 1 else []
        Run.of(trainer).write(*records, *cells, *setup)

    def _tell(self, trainer: Trainer) -> None:
        """Keep the numbers of the pass; in a fit raise what is wrong with them, else write the report."""
        run = Run.of(trainer)
        values = run.write_scalars()
        if trainer.state.fn == "fit":
            run.write(*self._alarms.hear(values, epoch=trainer.current_epoch, step=trainer.global_step))
        else:
            run.publish()

    def _true_heatmaps(self, trainer: Trainer, pl_module: LightningModule, images: Tensor, labels: Tensor) -> Tensor:
        network = callable_network(network_of(pl_module, self.model))
        with trainer.precision_plugin.forward_context():
            captured = capture(network, images, self._resolved, true_class, labels=labels)
        method = next(iter(self.methods.values()))
        return method(captured.activations[0], captured.gradients[0])

    def _setup(self) -> dict[str, Any]:
        layers = {layer.name: layer.reason for layer in self._resolved}
        return {"layers": layers, "methods": list(self.methods), "versions": versions()}

    def _dismount(self) -> None:
        if self._ride is not None:
            self._ride.disarm()
        self._batch = None
