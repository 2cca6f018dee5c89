"""AttentionAlignment: any LightningModule, taught to look at the object."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn

from camtrain.callbacks._alignment_auto import last_map
from camtrain.callbacks._alignment_batch import Census, count, require_masks
from camtrain.callbacks._alignment_patch import is_compiled, patch
from camtrain.callbacks._alignment_recording import Calls, logits_call, named_module
from camtrain.callbacks._alignment_start import check_arguments, factor, is_due, position, progress
from camtrain.callbacks._alignment_step import AlignedStep, Recipe, Terms, compute_terms, scalars
from camtrain.callbacks._alignment_terms import penalize, require_gradient
from camtrain.cam import Layer, find_layers, log_probability, resolve_method
from camtrain.data.batches import Batch, check_masks, read_batch
from camtrain.errors import ConfigurationError
from camtrain.losses import AlignmentLoss


class AttentionAlignment(Callback):
    """Adds an alignment penalty to the training loss of any LightningModule, without a change to it.

    During the module's own `training_step` the activations of a layer are recorded; the evidence for the label is
    differentiated once more (`create_graph`), its part outside the mask is the penalty, and `loss + weight * penalty`
    is what Lightning trains on. There is no second forward pass, except for `twins`. Images without a mask take no
    part; a batch without any, or whose masks cover everything, trains bit for bit as without the callback, and so does
    `weight=0`. A step whose penalty is not finite trains without it and is counted.

    Args:
        weight: of the penalty, at least 0.
        schedule: a function from progress since the start, in [0, 1], to a factor on `weight` and `twins`.
        method: the map, by name or as a function of activations and gradients.
        target: what is explained, a function `(logits, labels) -> scores`.
        layers: "auto" (the last map), a dotted name in the LightningModule, a module, or a list of these.
        loss: `(heatmaps (B, *S), masks (B, H, W)) -> scalar`; `AlignmentLoss()` if None.
        second_order: differentiate through the gradient as well; False treats the gradient as a constant.
        twins: weight of the cross-entropy on counterfactual twins: each annotated object on the background of another
            image of the batch, asked for its label. Costs a forward pass for as many images; BatchNorm statistics and
            dropout's random state see it.
        twins_share: at most this share of a batch gets twins, in (0, 1].
        start_when: the epoch to begin at, or the name of a logged metric to begin after once it is above 0 (as
            "reliance/flagged"). Once begun it stays on. A metric that the first validation does not log: a warning.
        batch_adapter: for batches of an unusual shape, see `camtrain.data.batches.read_batch`.
        model: the part that returns the logits, by name or as a module; if None, found in the first active step.
        accumulate: manual optimization only: how many `manual_backward` calls make one optimizer step. The penalty is
            divided by it; in automatic optimization Lightning does that.
        seed: of the twins' own random generator; the global one is not used.

    Logged each epoch: `alignment/weight` (0 before the start), and from then on `alignment/penalty` (mean over
    annotated images), `alignment/dead_maps` (fraction of them whose map is empty), `alignment/skipped` (fraction of
    steps whose penalty was left out), `alignment/twins` (their cross-entropy). NaN in an epoch without annotations.

    Raises ConfigurationError, LayerError or MethodError for arguments that cannot be meant; in the first training step
    MaskError and ConfigurationError for data without masks or with bad ones, and, once it is on, GradientError where
    the penalty depends on no trainable parameter.

    >>> AttentionAlignment(weight=10.0, start_when="reliance/flagged").state_dict()
    {'started_at': None, 'steps': 0, 'skipped': 0}
    """

    def __init__(
        self,
        weight: float = 1.0,
        schedule: Callable[..., Any] | None = None,
        method: str | Callable[..., Any] = "contribution_cam",
        target: Callable[..., Any] = log_probability,
        layers: str | list[str] | nn.Module | list[nn.Module] = "auto",
        loss: Callable[..., Any] | None = None,
        second_order: bool = True,
        twins: float = 0.0,
        twins_share: float = 1.0,
        start_when: int | str = 0,
        batch_adapter: Callable[..., Any] | None = None,
        model: str | nn.Module | None = None,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_arguments(weight, twins, twins_share, start_when, accumulate)
        self.weight, self.schedule, self.twins, self.twins_share = weight, schedule, twins, twins_share
        self.start_when, self.batch_adapter, self.accumulate, self.seed = start_when, batch_adapter, accumulate, seed
        self.layers, self.model = layers, model
        self._penalize = partial(
            penalize,
            method=resolve_method(method),
            target=target,
            loss=loss or AlignmentLoss(),
            second_order=second_order,
        )
        self.started_at: float | None = None  # the position in the training, in [0, 1]
        self.steps = self.skipped = 0
        self._layers: tuple[Layer, ...] | None = None
        self._root: dict[str, nn.Module] | None = None
        self._first_batch_seen = self._gradient_seen = self._compiled = self._metric_missed = False
        self._restore: Callable[[], None] | None = None

    @property
    def state_key(self) -> str:
        """The name of its entry in a checkpoint."""
        return "AttentionAlignment"

    def state_dict(self) -> dict[str, Any]:
        """Whether it has started and where, how many steps it took and left out."""
        return {"started_at": self.started_at, "steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.started_at, self.steps, self.skipped = (state_dict[key] for key in ("started_at", "steps", "skipped"))

    # Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if stage == "fit" and sum(isinstance(c, AttentionAlignment) for c in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise ConfigurationError("One Trainer takes one AttentionAlignment: give it several layers instead.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what was named, and put the penalty around `training_step`."""
        self._layers = None if self.layers == "auto" else find_layers(pl_module, self.layers)
        self._root = None if self.model is None else named_module(pl_module, self.model)
        self._first_batch_seen = self._gradient_seen = self._metric_missed = False
        self._compiled = is_compiled(pl_module)
        if self._compiled:
            warnings.warn("AttentionAlignment runs the compiled training step eagerly while it is on.", stacklevel=2)
        self._restore = patch(pl_module, "training_step", partial(self._training_step, trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, if the epoch or the metric says so."""
        if self.should_start(trainer):
            self.started_at = position(trainer, new_epoch=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, if the metric that was just logged says so."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or isinstance(self.start_when, int):
            return
        if self.should_start(trainer):
            self.started_at = position(trainer)
        elif self.start_when not in trainer.callback_metrics and not self._metric_missed:
            self._metric_missed = True
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            warnings.warn(
                f"AttentionAlignment waits for {self.start_when!r}, which the validation did not log; known: {known}.",
                stacklevel=2,
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        self._unpatch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unpatch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._unpatch()

    def _unpatch(self) -> None:
        if self._restore is not None:
            self._restore()
        self._restore = self._layers = self._root = None

    def should_start(self, trainer: Trainer) -> bool:
        """Whether to begin now; the one decision to override. All processes decide alike."""
        if self.started_at is not None:
            return False
        due = is_due(self.start_when, trainer.current_epoch, trainer.callback_metrics)
        return due if isinstance(self.start_when, int) else trainer.strategy.reduce_boolean_decision(due, all=False)

    # The training step

    def _training_step(
        self, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        scale = self._scale(trainer)
        log = partial(pl_module.log, on_step=False, on_epoch=True)
        log("alignment/weight", self.weight * scale, batch_size=1)
        batch = self._read(args[0] if args else next(iter(kwargs.values())))
        if scale == 0 or batch is None:
            return original(*args, **kwargs)
        limit = math.ceil(self.twins_share * len(batch))
        census = count(batch, limit, trainer.strategy, trainer.world_size)
        step = self._step(trainer, pl_module, batch, scale, census, limit) if census.guiding else None
        output = step.run(original, *args, **kwargs) if step else original(*args, **kwargs)
        terms = step.terms if step else None
        for scalar in scalars(terms, census, penalty=self.weight > 0, twins=self.twins > 0):
            log(scalar.name, scalar.value, batch_size=scalar.images, sync_dist=True)
        self.steps += 1
        return output

    def _scale(self, trainer: Trainer) -> float:
        if self.started_at is None or self.weight == self.twins == 0:
            return 0.0
        return factor(self.schedule, progress(position(trainer), self.started_at))

    def _read(self, raw: Any) -> Batch | None:
        """The batch, where there is something to do; the first one is looked at before the start, too."""
        if self.weight == self.twins == 0 or (self.started_at is None and self._first_batch_seen):
            return None
        batch = read_batch(raw, self.batch_adapter)
        if not self._first_batch_seen:
            require_masks(batch, raw, twins=self.twins > 0)
            check_masks(batch)
            self._first_batch_seen = True
        return batch

    def _step(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, scale: float, census: Census, limit: int
    ) -> AlignedStep:
        layers = self._layers = self._layers or (last_map(pl_module, batch.images, self._root),)
        seed = (self.seed * 1_000_003 + self.steps) * 1_009 + trainer.global_rank
        recipe = Recipe(
            weight=self.weight * scale * census.penalty_share,
            twins=self.twins * scale * census.twins_share,
            limit=limit,
            generator=torch.Generator().manual_seed(seed % 2**63),
            penalize=self._penalize,
        )
        modules = self._root or dict(pl_module.named_modules())
        compute = partial(self._terms, pl_module, batch, recipe, layers)
        return AlignedStep(pl_module, modules, layers, compute, divide_by=self.accumulate, compiled=self._compiled)

    def _terms(
        self, pl_module: LightningModule, batch: Batch, recipe: Recipe, layers: tuple[Layer, ...], calls: Calls
    ) -> Terms | None:
        if self._gradient_seen and not calls.activations.complete:
            return None  # a step that leaves this network out
        call = logits_call(calls)
        self._root = {call.name: call.module}
        terms = compute_terms(recipe, call, layers, batch)
        if terms.penalty is not None and not self._gradient_seen:
            self._gradient_seen = True
            if not require_gradient(terms.penalty.value, pl_module):
                warnings.warn(_NO_EFFECT, stacklevel=2)
        if terms.added is None:
            self.skipped += 1
            if self.skipped == 1:
                warnings.warn(_NOT_FINITE, stacklevel=2)
        return terms


_NO_EFFECT = (
    "The alignment penalty of the first step has a gradient of 0 for every parameter: every map is empty, or the layer "
    "does not matter to the target. Watch alignment/dead_maps, or name an earlier layer."
)
_NOT_FINITE = "An alignment penalty was not finite: such a step trains without it, and alignment/skipped counts it."
