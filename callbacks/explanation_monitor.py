"""See what the model looks at, at every validation, without a change to its module and without slowing it down."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from camtrain.callbacks._lightning import (
    Attempt,
    Callback,
    LightningModule,
    SayOnce,
    Trainer,
    builds_later,
    called_network,
    everywhere,
    key_of,
    network_of,
    runs_compiled,
    tell_of_cut_checkpoint,
)
from camtrain.callbacks._passes import (
    denormalizer_of,
    evaluation_loader,
    expected_images,
    go_first,
    group_names_of,
    is_due_pass,
    keeps_its_order,
    logged_names,
    names_of,
    samples_of,
    stage_of,
)
from camtrain.cam import find_layers, predicted_class
from camtrain.checks import check_arguments
from camtrain.data.batches import Batch, check_masks, read_batch
from camtrain.explanation import DEFAULT_METHODS, resolve_methods
from camtrain.monitoring.drift import Alarms, drift_scalars
from camtrain.monitoring.explainer import Explainer
from camtrain.monitoring.gallery import Tile, Tiles
from camtrain.monitoring.panels import MaskLook, Naming
from camtrain.monitoring.table import Table, joined, scalars, unanswered
from camtrain.monitoring.validation_pass import Followed, Offer, ValidationPass, records_of
from camtrain.records import Panel, Setup
from camtrain.records.folder import versions
from camtrain.sinks.base import PictureFormat
from camtrain.sinks.run import Run
from camtrain.tasks import Task, check_task

_MOVED = (
    "leaves masks out, and what they tell: the step moves or mixes the images before the network sees them, so that it "
    "is not known where their objects then lie. Normalize and augment in the data set or in on_after_batch_transfer"
)
_ONE_HOT = "reads labels (B, C) as several an image; if each is one-hot, give labels.argmax(1) by a batch_adapter"
_UNANSWERED = (
    "counts {count} of {total} answers as neither right nor wrong and of no class: they are NaN or infinite, see "
    "cam/not_finite"
)


class ExplanationMonitor(Callback):
    """Heatmaps, grounding metrics and failure cases of every validation image, from the module's own forward pass.

    The callback rides on the forward pass that `validation_step` (or `test_step`) makes: metrics stay bit-identical.
    `benchmarks/overhead.py` measures what that costs. Where it cannot ride (the module has torch's own attention
    modules, is compiled, or returns no logits from its model) it makes a forward pass of its own and says so once.

    Logged at each explained epoch, as means over the images that have an answer: `cam/empty_maps/<method>`, and with
    masks in the batch `cam/inside_energy/<method>`, `cam/pointing_game/<method>` and the shares of the four cells
    `cam/right_grounded`, `cam/right_ungrounded`, `cam/wrong_grounded`, `cam/wrong_ungrounded`, judged by the first
    method, of images whose heatmap holds something; `cam/not_finite`, once an answer was NaN or infinite; over the
    probes, how far heatmaps moved since the last and the first pass: `cam/drift/...`. Pictures (the
    fixed probes, the failure cases), histograms and tables go to Weights & Biases and TensorBoard where they are
    loggers, and to `report.html` in the run's folder always; they are encoded in the background. An alert is raised
    once where heatmaps die, or where accuracy and inside energy part ways.

    Args:
        methods: names of functions in `camtrain.cam`; all come from one pass.
        layers: `"auto"`, or a dotted name within the model, or several.
        every_n_epochs: explain each n-th validation (mostly one an epoch), the first and the last one always.
        num_probes: how many fixed images to follow over epochs, spread evenly over the data.
        num_failures: how many failure cases of each kind to show: confidently wrong, right for the wrong reason, worse
            than in the last pass. They are spread over classes and heatmaps.
        grounded_above: an answer is grounded where its evidence on the object, corrected for chance, exceeds this.
        target: what is explained, a function of (logits, labels); by default the network's own answer.
        batch_adapter: reads a batch of another shape: returns (images, labels[, masks]), a mapping or a `Batch`.
        model: the part that maps images to logits, by name or as a module, where the module itself does not.
        dataloader_idx: which validation dataloader to explain, where there are several.
        pictures: "jpg", or "png" for pictures without loss at many times the cost and size.
        task: what the network answers, by name ("single_label", "binary", "multi_label", "regression", "segmentation",
            "detection", "captioning", "question_answering") or as a `camtrain.tasks.Task`; "auto" decides it by the
            first batch. `docs/tasks.md` says what is explained and counted in each.

    Raises:
        MethodError: for an unknown method, at once.
        LayerError: for an unknown layer, when fitting starts; for one without a map, at the first batch.
        BatchError, MaskError: at the first batch (that is the sanity check) for one that cannot be read, or whose task
            cannot be told.

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
        model: str | nn.Module | None = None,
        dataloader_idx: int = 0,
        pictures: PictureFormat = "jpg",
        task: str | Task = "auto",
    ) -> None:
        check_arguments(**locals())
        check_task(task)
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
        self.task = task
        self.images: Table | None = None
        self._explainer: Explainer | None = None
        self._pass: ValidationPass | None = None  # while one runs
        self._passes = 0
        self._followed: dict[str, Followed] = {}  # by stage
        self._alarms = Alarms()
        self._attempt = Attempt("ExplanationMonitor", undo=self._dismount)
        self._say = SayOnce("ExplanationMonitor")

    # Lightning's hooks: a guard and one verb each.

    @property
    def state_key(self) -> str:
        """Distinguishes monitors of other methods or layers in one checkpoint."""
        return self._generate_state_key(methods=list(self.methods), layers=str(self.layers), model=key_of(self.model))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the layers' names where the modules exist already."""
        run = Run.of(trainer)
        run.pictures = self.pictures
        run.guard_loggers()
        go_first(trainer, self)
        if stage == "fit" and self._explainer is not None and self._explainer.network not in pl_module.modules():
            self._begin_anew()
        if not builds_later(pl_module):
            self._check_layers(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the layers' names."""
        self._check_layers(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass."""
        evaluation_loader(trainer, self.dataloader_idx)  # that there is one
        self._pass = self._begin(trainer, pl_module) if self.should_explain(trainer) else None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Arm the ride."""
        if dataloader_idx == self.dataloader_idx and (trainer.sanity_checking or self._pass is not None):
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
        if self._explainer is not None and self._explainer.batch is not None:
            self._explain(trainer, self._explainer.batch, self._explainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the pass."""
        if self._pass is not None:
            self._finish(trainer, pl_module, self._pass)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's scalars, those of the module too, in the local files."""
        if not trainer.sanity_checking:
            Run.of(trainer).end_validation()
            if self._passes:
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
        tell_of_cut_checkpoint(trainer)
        if self._passes:
            self._attempt(Run.of(trainer).conclude)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no hook behind, on loggers neither, and say what became of the run."""
        self._dismount()
        run = Run.of(trainer)
        run.release_loggers()
        if self._passes:
            self._attempt(run.conclude)

    def state_dict(self) -> dict[str, Any]:
        """The identities of the probes and how they looked, so that a resumed run follows the same images."""
        return {
            "seen": {stage: followed.state_dict() for stage, followed in self._followed.items()},
            "reporter": self._alarms.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the probes of the run that is resumed."""
        self._followed = {stage: Followed.restored(state) for stage, state in state_dict["seen"].items()}
        self._alarms.load_state_dict(state_dict["reporter"])

    def should_explain(self, trainer: Trainer) -> bool:
        """Whether this pass is explained: each n-th validation of a fit, its last one, and every validate and test."""
        return is_due_pass(trainer, self.every_n_epochs)

    # The verbs, in the order of a pass.

    def _check_layers(self, pl_module: LightningModule) -> None:
        network = network_of(pl_module, self.model)
        if self.layers != "auto":
            find_layers(network, self.layers)

    def _begin_anew(self) -> None:
        """Another module is fitted: what is known is of the last one."""
        self.images, self._explainer, self._passes = None, None, 0
        self._followed, self._alarms = {}, Alarms()

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> ValidationPass:
        if self._explainer is not None and not self._explainer.fits(network_of(pl_module, self.model)):
            self._explainer = None
        if not keeps_its_order(trainer, self.dataloader_idx):
            self._say(
                "knows an image by its content where batches have no 'id': the dataloader may shuffle, or deal images "
                "to processes in a way of its own",
                key="order",
            )
        return ValidationPass(
            self._followed.setdefault(stage_of(trainer), Followed()),
            num_probes=self.num_probes if trainer.is_global_zero else 0,
            num_failures=self.num_failures,
            expected=expected_images(trainer, self.dataloader_idx),
            tiles=None if trainer.state.fn == "fit" else self._tiles(trainer),
            masks=self._mask_look(trainer, pl_module),
        )

    def _mask_look(self, trainer: Trainer, pl_module: LightningModule) -> MaskLook | None:
        """In the process that writes, while the folder of the stage that runs has no description of its masks."""
        run = Run.of(trainer)
        return None if not run.writes or run.has_begun(self._setup_key(pl_module)) else MaskLook()

    def _setup_key(self, pl_module: LightningModule) -> str:
        return f"{self.state_key} of {id(pl_module)}"

    def _tiles(self, trainer: Trainer) -> Tiles:
        return Tiles(expected_images(trainer, self.dataloader_idx), denormalizer_of(trainer))

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Read the batch and arm the ride; what is wrong with the very first batch is an error, later a warning."""
        self._dismount()
        if self._explainer is None:
            self._arm(trainer, pl_module, batch)
        else:
            self._attempt(self._arm, trainer, pl_module, batch)

    def _arm(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        read = read_batch(batch, self.batch_adapter)
        if self._passes == 0:
            check_masks(read)
        if self._explainer is None:
            self._explainer = self._made(trainer, pl_module)
        self._explainer.arm(read)

    def _made(self, trainer: Trainer, pl_module: LightningModule) -> Explainer:
        network = network_of(pl_module, self.model)
        return Explainer(
            network,
            called_network(network),
            self.layers,
            self.methods,
            target=self.target,
            task=self.task,
            autocast=trainer.precision_plugin.forward_context,
            compiled=runs_compiled(pl_module),
        )

    def _explain(self, trainer: Trainer, batch: Batch, explainer: Explainer) -> None:
        """Add the batch to the pass; the layers and the task have to be clear from the first one."""
        try:
            explainer.find_layers_and_task(batch)
            for layer in explainer.layers:
                self._say(f"explains layer {layer.name!r}: {layer.reason}")
            if self._pass is not None:
                samples = samples_of(trainer, batch, self._pass.images, self.dataloader_idx)
                explained = self._attempt(explainer.explain, batch, samples, self.grounded_above)
                if explained is not None:
                    self._attempt(self._pass.update, explained, samples)
        finally:
            self._dismount()
        if explainer.compiled and not explainer.why_own_pass:
            self._say("runs validation steps eagerly: what a step makes of images for compiled code cannot be heard")
        if explainer.moved:
            self._say(_MOVED, warn=True)
        if explainer.one_hot:
            self._say(_ONE_HOT)
        if explainer.why_own_pass:
            self._say(f"makes a forward pass of its own for each batch: {explainer.why_own_pass}")

    def _finish(self, trainer: Trainer, pl_module: LightningModule, seen: ValidationPass) -> None:
        """Log the means of all processes; the first one writes the pictures and tables.

        A process that fails loses its share: it takes part in both exchanges all the same.
        """
        self._pass = None
        self.images = joined(everywhere(trainer, seen.table, lose=self._lose))
        offers = everywhere(trainer, lambda: self._offers(trainer, seen), lose=self._lose)
        failures = self._attempt(seen.failures, offers) or []
        tiles: dict[str, Tile] = {}
        if (own := seen.tiles) is not None:
            for share in everywhere(trainer, lambda: own.by_sample, lose=self._lose):
                tiles |= share
        self._attempt(seen.remember, self.images)
        names = list(self.images.starting("empty/")) or (self._explainer.names if self._explainer else [])
        if names:
            values = scalars(self.images, names) | self._unanswered(trainer, self.images)
            pl_module.log_dict(logged_names(trainer, values), sync_dist=True)
            self._passes += 1
            if trainer.is_global_zero:
                self._attempt(self._record, trainer, pl_module, seen, failures, tiles)

    def _unanswered(self, trainer: Trainer, images: Table) -> dict[str, float]:
        """The share of answers that are not finite, once there was one."""
        count, total, name = unanswered(images), len(images.samples), "cam/not_finite"
        if count:
            self._say(_UNANSWERED.format(count=count, total=total), key="unanswered", warn=True)
        before = logged_names(trainer, {name: 0}).keys() & set(trainer.callback_metrics)
        return {name: count / max(total, 1)} if count or before else {}

    def _offers(self, trainer: Trainer, seen: ValidationPass) -> list[list[Offer]]:
        explainer = self._explainer
        return [] if explainer is None else seen.offers(explainer, self._naming(trainer, explainer))

    def _record(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        seen: ValidationPass,
        failures: list[Panel],
        tiles: dict[str, Tile],
    ) -> None:
        """Write the pictures and tables of the pass."""
        if self._explainer is None or self.images is None:
            return
        epoch, step = trainer.current_epoch, trainer.global_step
        naming = self._naming(trainer, self._explainer)
        probes = seen.probe_panels(naming)
        pl_module.log_dict(logged_names(trainer, drift_scalars(probes)), rank_zero_only=True, sync_dist=True)
        records = records_of(self.images, probes, failures, tiles, naming, epoch, step, seen.form)
        layers = {layer.name: layer.reason for layer in self._explainer.layers}
        described = {"layers": layers, "methods": list(self.methods), "versions": versions()}
        described["stage"] = str(getattr(trainer.state.fn, "value", ""))
        run, looks = Run.of(trainer), seen.masks
        if run.is_first_time(self._setup_key(pl_module)):
            masks = {"masks": looks.facts() | {"processes": trainer.world_size}} if looks is not None else {}
            sheet = looks.sheet(naming) if looks is not None else None
            records.append(Setup(described | masks, epoch, step, sheet))
        run.write(*records)

    def _naming(self, trainer: Trainer, explainer: Explainer) -> Naming:
        names = names_of(trainer, explainer.num_classes, self.dataloader_idx)
        return Naming(explainer.naming(names), group_names_of(trainer), denormalizer_of(trainer))

    def _tell(self, trainer: Trainer) -> None:
        """Keep the numbers of the pass; in a fit raise what is wrong with them, else write the report."""
        run = Run.of(trainer)
        values = run.write_scalars()
        if trainer.state.fn == "fit":
            run.write(*self._alarms.hear(values, epoch=trainer.current_epoch, step=trainer.global_step))
        else:
            run.publish()

    def _lose(self, failure: str) -> None:
        self._attempt.report(f"record ({failure})")

    def _dismount(self) -> None:
        if self._explainer is not None:
            self._explainer.disarm()
