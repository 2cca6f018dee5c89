"""AttentionAlignment: any LightningModule, taught to look at the object."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camtrain.callbacks._alignment_arguments import check_arguments
from camtrain.callbacks._alignment_auto import Maps
from camtrain.callbacks._alignment_balance import Balance
from camtrain.callbacks._alignment_batch import (
    Census,
    as_classes,
    can_ask_twins,
    count,
    have_soft_labels,
    outline_objects,
    require_masks,
    with_object_masks,
)
from camtrain.callbacks._alignment_deal import Dealer
from camtrain.callbacks._alignment_dose import Dose, Plan
from camtrain.callbacks._alignment_leaves import Leaves
from camtrain.callbacks._alignment_memory import Memory
from camtrain.callbacks._alignment_network import Network
from camtrain.callbacks._alignment_notes import Notes
from camtrain.callbacks._alignment_patch import DifferentiableAttention, patch
from camtrain.callbacks._alignment_recording import Call, Calls, other_answers
from camtrain.callbacks._alignment_start import factor, is_due, position, progress
from camtrain.callbacks._alignment_step import AlignedStep, Recipe, Terms, compute_terms, scalars
from camtrain.callbacks._alignment_terms import answer_twins, answers_again, images_among, penalize, require_gradient
from camtrain.callbacks._lightning import Callback, LightningModule, Trainer, mean_over_processes, runs_compiled
from camtrain.cam import Layer, find_layers, log_probability, resolve_method
from camtrain.data.batches import Batch, check_masks, read_batch
from camtrain.errors import ConfigurationError
from camtrain.losses import AlignmentLoss, same_class_share
from camtrain.swaps import Blend, Infill


class AttentionAlignment(Callback):
    """Teaches any LightningModule to look at the annotated object, without a change to it.

    Two things change what Lightning trains on. *The penalty*: during the module's own `training_step` the
    activations of a layer are recorded; the evidence for the label is differentiated once more (`create_graph`), and
    its part outside the mask is penalized. *The twins*: annotated objects in front of other images' backgrounds, asked
    for their labels, in place of their images or beside them. They cure what deep networks mix into the object's cells;
    the penalty is the cheaper of the two and adds to it.

    Where the network is called several times in a step, the call on the batch's own images is read. In manual
    optimization the terms go into `manual_backward`. While the penalty is on, `scaled_dot_product_attention` runs as
    plain operations: its fused kernels cannot be differentiated twice.

    Images without a mask take part in neither; where few have one, twins are also made of annotated images of earlier
    batches. Masks that cover everything train bit for bit as without the callback, and so do weights of 0. A step
    whose terms are not finite trains without them and is counted.

    Args:
        weight: of the penalty, at least 0; "auto" keeps the penalty's gradient for an annotated image at
            `gradient_ratio` of the task's for an image, both measured at the layer, as running means. The first step
            then only measures.
        gradient_ratio: see `weight`.
        schedule: a function from progress since the start, in [0, 1], to a factor on the weights of both terms.
        method: the map, by name or as a function of activations and gradients.
        target: what is explained, a function `(logits, labels) -> scores`. Of multi-hot labels `(B, C)` the default
            draws one class present in each image, in every step anew; a single logit is that of the second of two
            classes, with labels 0 and 1.
        layers: "auto" (the last map), a dotted name in the LightningModule, a module, or a list of these.
        loss: `(heatmaps (B, *S), masks (B, H, W)) -> scalar`. If None, `AlignmentLoss()`, which tolerates some evidence
            outside where the backgrounds of more than half of a batch are dealt anew.
        second_order: differentiate through the gradient as well; False treats the gradient as a constant.
        twins: weight of a twin's cross-entropy, where that of an image of the batch is 1; at least 0. "auto" is what
            makes backgrounds tell nothing: 1 where all images are annotated, more the fewer are, up to 4 where batches
            have as many annotated images as twins to add, down to 2 where the same few are used over and over; 0, and
            says so, unless the module takes images `(B, C, H, W)`, the batch has a class per image, and its first masks
            outline objects: soft ones do not. BatchNorm and dropout's random state see twins.
        twins_place: "exchange": the backgrounds of a batch's annotated images are dealt anew among them
            (`deal_backgrounds`) on their way into the network, so that the module's own loss, and what it logs of it,
            is that of twins for all but those that are dealt a background of their own class. That takes no forward
            pass; twins are added as well to make up for images without an annotation. An exchanged one weighs 1 or
            more. A network that is given the batch's own tensor is dealt that alone: other images that it answers
            (generated, unlabeled) stay. "add": every image stays, and all twins are added, for modules that use images
            beside the network. The first step, in which the network is found, adds them always, as does
            `twins_loss="consistency"`; beside SyncBatchNorm in several processes none are added.
        twins_share: at most this share of a batch is added as twins, in (0, 1]: what they cost.
        reuse: on average at most so many twins are added of an annotated image in an epoch: of few, many more would be
            learnt by heart. Where `twins` is "auto", fewer are added the better they are answered than images are.
        memory: so many annotated images of earlier batches are kept, on their device, to make added twins of where a
            batch has fewer than twice as many annotated images as twins to add; 0 for none.
        twins_loss: "cross_entropy" of the label (binary where labels are multi-hot), or "consistency": the divergence
            of a twin's answer from its image's, as the network gives it now; such twins are made of the batch alone.
        infill: the background of a twin, `"swap"`, `"inpaint"`, `"noise"` or `"shuffle"`, see `make_twins`.
        jitter: a twin's object is scaled by up to this fraction, and moved by up to this fraction of the free space.
        mask_kind: "object": masks are 1 where the evidence should be. "forbidden": 1 where it must not be (as on a
            watermark; 0 all over an image without), and twins have another image's content in both images' regions.
        start_when: the epoch to begin at, or a condition on a logged metric to begin after: "reliance/flagged" (above
            0), "val/accuracy > 0.8". Once begun it stays on, until `stop_when`. A metric that the first validation does
            not log: a warning.
        stop_when: the epoch, or the condition, that ends it for good; None for never.
        batch_adapter: for batches of an unusual shape, see `camtrain.data.batches.read_batch`.
        model: the part that returns the logits, by name or as a module; if None, found in the first active step.
        accumulate: manual optimization only: how many `manual_backward` calls make one optimizer step. The terms are
            divided by it; in automatic optimization Lightning does that.
        seed: of the twins' own random generator; the global one is not used.

    Logged each epoch: `alignment/active` and `alignment/weight` (0 before the start), and from then on
    `alignment/penalty` (mean over annotated images, less what is tolerated), `alignment/dead_maps` (fraction of them
    whose map is empty), `alignment/skipped` (fraction of steps whose terms were left out), `alignment/twins` (their
    loss). NaN in an epoch without annotations, or whose steps leave the network out.

    Raises ConfigurationError, LayerError or MethodError for arguments that cannot be meant; in the first training step
    MaskError and ConfigurationError for data without masks or with bad ones, and, once it is on, GradientError where
    the penalty depends on no trainable parameter.

    >>> AttentionAlignment(start_when="reliance/flagged").state_dict()["started_at"] is None
    True
    """

    def __init__(
        self,
        weight: float | Literal["auto"] = "auto",
        gradient_ratio: float = 1.0,
        schedule: Callable[..., Any] | None = None,
        method: str | Callable[..., Any] = "contribution_cam",
        target: Callable[..., Any] = log_probability,
        layers: str | list[str] | nn.Module | list[nn.Module] = "auto",
        loss: Callable[..., Any] | None = None,
        second_order: bool = True,
        twins: float | Literal["auto"] = "auto",
        twins_share: float = 0.5,
        twins_place: Literal["exchange", "add"] = "exchange",
        reuse: float = 10.0,
        memory: int = 256,
        twins_loss: Literal["cross_entropy", "consistency"] = "cross_entropy",
        infill: Infill = "swap",
        jitter: float = 0.0,
        mask_kind: Literal["object", "forbidden"] = "object",
        start_when: int | str = 0,
        stop_when: int | str | None = None,
        batch_adapter: Callable[..., Any] | None = None,
        model: str | nn.Module | None = None,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_arguments(
            weight=weight,
            gradient_ratio=gradient_ratio,
            twins=twins,
            twins_share=twins_share,
            twins_place=twins_place,
            reuse=reuse,
            memory=memory,
            twins_loss=twins_loss,
            mask_kind=mask_kind,
            start_when=start_when,
            stop_when=stop_when,
            accumulate=accumulate,
            loss=loss,
            target=target,
            schedule=schedule,
            batch_adapter=batch_adapter,
            layers=layers,
            model=model,
            second_order=second_order,
            seed=seed,
        )
        self.weight, self.schedule, self.twins = weight, schedule, twins
        self.twins_share, self.reuse = twins_share, reuse
        self.start_when, self.stop_when, self.mask_kind = start_when, stop_when, mask_kind
        self.batch_adapter, self.accumulate, self.seed = batch_adapter, accumulate, seed
        self.layers, self.model = layers, model
        self._penalize = partial(
            penalize,
            method=resolve_method(method),
            target=target,
            second_order=second_order,
        )
        self._loss, self._second_order = loss, second_order
        self._consistent = twins_loss == "consistency"
        self._blend = Blend(infill, jitter=jitter, fill_donors=mask_kind == "object")
        self._answer_twins = partial(answer_twins, blend=self._blend, consistent=self._consistent)
        self._exchanges = twins_place == "exchange" and not self._consistent
        self._needs_labels = twins not in (0, "auto") and not self._consistent
        self._make_state = partial(Memory, memory, self._blend.fill_donors), partial(Balance, gradient_ratio)
        self._attention = DifferentiableAttention()
        self._leaves = Leaves()
        self._maps = Maps()
        self._compiled = self._loaded = False
        self._restore: Callable[[], None] | None = None
        self._dealer: Dealer | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """As if nothing had been trained yet."""
        make_memory, make_balance = self._make_state
        self._memory, self._balance = make_memory(), make_balance()
        self._dose = Dose(self.twins, self.twins_share, self.reuse)
        self.started_at: float | None = None  # the position in the training, in [0, 1]
        self.stopped = False
        self.steps = self.skipped = 0
        self._network = Network()
        self._twins_refused = self._refuses = False
        self._plan = Plan(1.0, 0)
        self._begin_fit()

    def _begin_fit(self) -> None:
        """What is found out in each fit."""
        self._first_batch_seen = self._gradient_seen = self._in_batch = False
        self._notes = Notes()

    @property
    def state_key(self) -> str:
        """The name of its entry in a checkpoint."""
        return "AttentionAlignment"

    def state_dict(self) -> dict[str, Any]:
        """Whether it has started and where, its steps, what the automatic weights measured, the network's name.

        Not the memory of annotated images: a run that goes on collects them anew.
        """
        return {
            "started_at": self.started_at,
            "stopped": self.stopped,
            "steps": self.steps,
            "skipped": self.skipped,
            "balance": self._balance.state(),
            "seen": self._dose.state(),
            **self._network.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.started_at, self.steps, self.skipped = (state_dict[key] for key in ("started_at", "steps", "skipped"))
        self.stopped = state_dict.get("stopped", False)
        self._balance.restore(state_dict.get("balance", (0.0, 0.0, 0.0, 0.0)))
        self._dose.restore(state_dict.get("seen", (0, 0)))
        self._network.restore(state_dict)
        self._loaded = True

    # Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work; begin anew in another training, unless a state was loaded."""
        if stage == "fit" and trainer.global_step == 0 and not self._loaded:
            self._begin_anew()
        if stage == "fit" and sum(isinstance(c, AttentionAlignment) for c in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise ConfigurationError("One Trainer takes one AttentionAlignment: give it several layers instead.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what was named, and put the penalty around `training_step`."""
        self._maps = Maps(None if self.layers == "auto" else find_layers(pl_module, self.layers))
        self._network.begin(pl_module, self.model)
        self._begin_fit()
        self._compiled = runs_compiled(pl_module)
        if self._compiled:
            warnings.warn("AttentionAlignment runs the compiled training step eagerly while it is on.", stacklevel=2)
        self._notes.look_ahead(trainer, self.start_when)
        self._restore = patch(pl_module, "training_step", partial(self._training_step, trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin or end, if the epoch or the metric says so."""
        self._begin_or_end(trainer, new_epoch=True)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let the network have its images as they are: the backward pass, which may ask for them again, is over."""
        self._stop_dealing()
        self._memory.settle()
        self.steps += self._in_batch
        self._in_batch = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where an epoch had nothing to align with."""
        self._notes.end_epoch()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin or end, if the metric that was just logged says so."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        waits = [w for w in (self.start_when, self.stop_when) if isinstance(w, str)]
        if waits:
            self._begin_or_end(trainer, new_epoch=False)
        self._notes.after_validation(trainer, waits)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        if self.started_at is None:
            self._notes.after_fit(trainer, self.start_when)
        self._loaded = False
        self._unpatch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unpatch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._unpatch()

    def _stop_dealing(self) -> None:
        if self._dealer is not None:
            self._dealer.stop()
        self._dealer = None
        self._attention.off()
        self._leaves.stop()

    def _unpatch(self) -> None:
        self._stop_dealing()
        if self._restore is not None:
            self._restore()
        self._restore = None
        self._network.end()

    def should_start(self, trainer: Trainer) -> bool:
        """Whether to begin now; with `should_stop`, the decisions to override. All processes decide alike."""
        return self.started_at is None and self._is_due(trainer, self.start_when)

    def should_stop(self, trainer: Trainer) -> bool:
        """Whether to end now."""
        started = self.started_at is not None and not self.stopped
        return started and self.stop_when is not None and self._is_due(trainer, self.stop_when)

    def _begin_or_end(self, trainer: Trainer, *, new_epoch: bool) -> None:
        if self.should_stop(trainer):
            self.stopped = True
        if self.should_start(trainer):
            self.started_at = position(trainer, new_epoch=new_epoch)

    @staticmethod
    def _is_due(trainer: Trainer, when: int | str) -> bool:
        due = is_due(when, trainer.current_epoch, trainer.callback_metrics)
        return trainer.strategy.reduce_boolean_decision(due, all=False) if isinstance(when, str) else due

    # The training step

    def _training_step(
        self, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self._stop_dealing()
        if not trainer.training:  # a validation step that calls it
            return original(*args, **kwargs)
        scale = self._scale(trainer)
        log = partial(pl_module.log, on_step=False, on_epoch=True)
        log("alignment/active", float(scale > 0), batch_size=1)
        log("alignment/weight", self._weight * scale, batch_size=1)
        batch = self._read(args[0] if args else next(iter(kwargs.values())))
        if scale == 0 or batch is None:
            return original(*args, **kwargs)
        again, self._in_batch = self._in_batch, True  # an optimizer may ask for a batch's loss several times
        plan = self._plan if again else self._dose.plan(len(batch), self._kin(batch))
        self._plan = plan
        limit = plan.added if plan.dealt is None else len(batch)
        census = count(
            batch,
            limit,
            trainer.strategy,
            trainer.world_size,
            remembered=len(self._memory) if plan.added else 0,
            fill_donors=self._blend.fill_donors,
            refused=self._refuses,
        )
        self._twins_refused |= census.refused  # alike in all processes, which log and reduce alike
        if not again:
            self._dose.see(len(batch) * trainer.world_size, census.all_eligible)
            self._notes.count(len(batch) * trainer.world_size, census)
        wanted = census.guiding or (self._wants_twins and census.twinned)
        step = self._step(trainer, pl_module, batch, scale, census, plan) if wanted else None
        output = step.run(original, *args, **kwargs) if step else original(*args, **kwargs)
        terms = step.terms if step else None
        if step and step.missed:
            self._notes.tell(
                "added nothing to a manual step: it acts in self.manual_backward(loss), with a loss of the network's "
                "answers to the batch's images"
            )
        for scalar in scalars(terms, census, penalty=self.weight != 0, twins=self._wants_twins):
            log(scalar.name, scalar.value, batch_size=scalar.images, sync_dist=True)
        if not again:
            self._measure(trainer, terms)
        return output

    @property
    def _weight(self) -> float:
        return self._balance.weight if isinstance(self.weight, str) else self.weight

    @property
    def _wants_twins(self) -> bool:
        return self.twins != 0 and not self._twins_refused

    @property
    def _off(self) -> bool:
        return self.weight == 0 and not self._wants_twins

    def _measure(self, trainer: Trainer, terms: Terms | None) -> None:
        """Take what this step measured into the automatic weights, alike in all processes."""
        if not self._balance.is_due(self.steps):
            return
        if self.weight == "auto":
            norms = mean_over_processes(trainer, terms.norms if terms is not None else None)
            if norms is not None:
                self._balance.add(*norms)
        if self._compares:
            losses = mean_over_processes(trainer, terms.losses if terms is not None else None)
            if losses is not None:
                self._dose.compare(*losses)

    @property
    def _compares(self) -> bool:
        return self.twins == "auto" and self._wants_twins and not self._consistent

    def _scale(self, trainer: Trainer) -> float:
        if self.started_at is None or self.stopped or self._off:
            return 0.0
        return factor(self.schedule, progress(position(trainer), self.started_at))

    def _read(self, raw: Any) -> Batch | None:
        """The batch, where there is something to do; the first one is looked at before the start, too."""
        if self._off or (self.started_at is None and self._first_batch_seen):
            return None
        batch = read_batch(raw, self.batch_adapter)
        if not self._first_batch_seen:
            require_masks(batch, raw, twins=self._needs_labels)
            check_masks(batch)
            self._first_batch_seen = True
            if have_soft_labels(batch):
                self._notes.tell(
                    "reads labels (B, C) as several classes an image, each present or not, and these lie between 0 and "
                    "1. For smoothed or mixed labels of one class give its index, in a batch_adapter, and twins=0"
                )
            if self.twins == "auto" and not outline_objects(batch):
                self._refuse_twins("the masks are soft, and outline no object to cut out; twins=1 asks for them")
        batch = with_object_masks(batch, forbidden=self.mask_kind == "forbidden")
        if self.twins == "auto" and self._wants_twins:
            problem = can_ask_twins(batch)
            if problem:
                self._refuse_twins(problem)
        return batch

    def _refuse_twins(self, reason: str) -> None:
        """From the next count on, which all processes make together."""
        self._refuses = True
        self._notes.tell(f"makes no twins: {reason}")

    def _kin(self, batch: Batch) -> float | None:
        """The share of the batch's images that are of one class, where its backgrounds are to be dealt anew."""
        classes = as_classes(batch.labels)
        if not (self._exchanges and self._wants_twins and self._network.root and classes is not None):
            return None
        return float(same_class_share(classes))

    def _step(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Batch,
        scale: float,
        census: Census,
        plan: Plan,
    ) -> AlignedStep:
        layers = self._maps.find(pl_module, batch.images, self._network.root) if self.weight != 0 else ()
        if self.weight != 0 and self._second_order:
            self._attention.on()
        seed = (self.seed * 1_000_003 + self.steps) * 1_009 + trainer.global_rank
        generator = torch.Generator().manual_seed(seed % 2**63)
        loss = self._loss or AlignmentLoss(tolerance=plan.tolerance if self.steps else 0.0)
        recipe = Recipe(
            weight=self._weight * scale * census.penalty_share,
            twins=plan.weight * self._wants_twins,
            scale=scale,
            limit=plan.added if self._can_add(trainer, pl_module) else 0,
            generator=generator,
            memory=self._memory,
            penalize=None if self.weight == 0 else partial(self._penalize, loss=loss, generator=generator),
            answer_twins=self._answer_twins,
            measure=self.weight == "auto" and self._balance.is_due(self.steps),
            compare=self._compares and self._balance.is_due(self.steps),
            dealer=self._make_dealer(batch, plan, scale, seed % 2**63),
        )
        modules = self._network.modules(pl_module)
        compute = partial(self._terms, pl_module, batch, recipe, layers)
        if recipe.dealer is not None:
            self._dealer = recipe.dealer
            self._dealer.start(modules.values())
        return AlignedStep(
            pl_module,
            modules,
            layers,
            compute,
            dealer=recipe.dealer,
            divide_by=self.accumulate,
            compiled=self._compiled,
            repeats=bool(self._network.takes_own),
        )

    def _make_dealer(self, batch: Batch, plan: Plan, scale: float, seed: int) -> Dealer | None:
        if plan.dealt is None or not self._wants_twins:
            return None
        return Dealer(batch, seed, min(scale, 1.0), self._blend, own_only=bool(self._network.takes_own))

    def _can_add(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Not where a forward pass of one process waits for the others, which may add no twin in this step."""
        synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in pl_module.modules())
        if trainer.world_size > 1 and synchronized and self._wants_twins:
            self._notes.tell("adds no twins beside SyncBatchNorm, whose processes wait for each other")
            return False
        return True

    def _terms(
        self,
        pl_module: LightningModule,
        batch: Batch,
        recipe: Recipe,
        layers: tuple[Layer, ...],
        calls: Calls,
        task: Tensor | None,
    ) -> Terms | None:
        if recipe.dealer is not None:
            recipe.dealer.close()
        own = recipe.dealer.own if recipe.dealer is not None else [batch.images]
        call = self._network.read(calls, own, len(batch), task)
        if call is None:
            return None
        if self.steps == 0 and (said := other_answers(call)):
            self._notes.tell(said)
        if self.steps == 0 and self._exchanges and self._wants_twins and answers_again(calls.made, call, batch):
            self._notes.tell(_COMPARED)
        if recipe.twins > 0 and (self.twins == "auto" or recipe.dealer is not None):
            recipe = self._with_possible_twins(recipe, call, batch, own)
        if recipe.penalize is not None and not layers:  # the next step has them
            self._maps.find_in(call.name, call.module, call.args, call.kwargs)
            recipe = dataclasses.replace(recipe, penalize=None)
        if recipe.penalize is not None:
            self._leaves.start(layers, call.activations)
            layers = self._maps.read(pl_module, batch.images, call.activations, self._network.root)
        terms = compute_terms(recipe, call, layers, batch, task)
        self._look_at(terms, pl_module)
        return terms

    def _with_possible_twins(self, recipe: Recipe, call: Call, batch: Batch, own: Sequence[Tensor]) -> Recipe:
        """Without twins where the network was not given the images; an error where they were asked for."""
        try:
            images_among(call, batch, own)
        except ConfigurationError:
            if self.twins != "auto":
                raise
            self._refuse_twins(_NOT_GIVEN.format(part=call.name or "the module"))
            return dataclasses.replace(recipe, twins=0.0)
        return recipe

    def _look_at(self, terms: Terms, pl_module: LightningModule) -> None:
        """Refuse a penalty without a gradient, once; count terms that are not finite."""
        if terms.penalty is not None and not self._gradient_seen:
            self._gradient_seen = True
            if not require_gradient(terms.penalty.value, pl_module) and self.steps == 0:
                warnings.warn(_NO_EFFECT, stacklevel=2)
        if terms.added is None:
            self.skipped += 1
            if self.skipped == 1:
                warnings.warn(_NOT_FINITE, stacklevel=2)


_NO_EFFECT = (
    "The alignment penalty of the first step has a gradient of 0 for every parameter: every map is empty, or the layer "
    "does not matter to the target. Watch alignment/dead_maps, or name an earlier layer."
)
_NOT_FINITE = (
    "An alignment term, penalty or twins, was not finite: such a step trains without it, and alignment/skipped counts "
    "it."
)
_COMPARED = (
    "exchanges the batch's own images alone, and the step asks for answers to others as well. A loss that compares "
    "both, image by image (consistency, distillation), wants twins_place='add'"
)
_NOT_GIVEN = (
    "{part!r}, which returns the logits, is not given the batch's images. Call one module on them as they are, as "
    "self(images) with a forward that holds all of the network, or name that one with model='...'"
)
