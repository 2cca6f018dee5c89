"""AttentionAlignment: any LightningModule, taught to look at the object."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camtrain.alignment import Alignment, MaskMaker, Penalty, Processes, Step, Twins
from camtrain.alignment.batch import require_masks
from camtrain.alignment.step import add_to_loss, loss_in
from camtrain.callbacks._conditions import Span, factor, never_begins, not_logged, position, waits_for
from camtrain.callbacks._lightning import (
    Callback,
    LightningModule,
    SayOnce,
    Trainer,
    patch,
    patched,
    runs_compiled,
)
from camtrain.callbacks._passes import denormalizer_of
from camtrain.cam import log_probability
from camtrain.checks import check_arguments
from camtrain.data.batches import Batch, class_names, read_batch
from camtrain.errors import ConfigurationError
from camtrain.records import Alert
from camtrain.render.overlays import sheet_of
from camtrain.sinks.run import Run
from camtrain.swaps import Blend, Infill

_MISSED = (
    "added nothing to a manual step: it acts in self.manual_backward(loss), with a loss of the network's answers to "
    "the batch's images"
)
_LEFT_OUT = (
    "added nothing to a step that gives the network other images than the batch's own, as the first step did not"
)


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

    Images without a mask take part in neither, unless a `segmenter` makes one; where few have one, twins are also made
    of annotated images of earlier batches. Masks that cover everything train bit for bit as without the callback, and
    so do weights of 0. A step whose terms are not finite trains without them and is counted.

    Args:
        weight: of the penalty, at least 0; "auto" keeps the penalty's gradient for an annotated image at
            `gradient_ratio` of the task's for an image, both measured at the layer, as running means, times how much
            the network has learned (`alignment/learned`): one that answers alike to all has no reasons to correct.
            The first step then only measures.
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
        segmenter: makes the masks of images that have none, as `RelianceDetector`'s does: a function from images
            (B, C, H, W), as the model takes them, to masks (B, H, W) in [0, 1], 1 on the object, all -1 where it cannot
            tell, asked once per image; "guess" by what stands out from the border; "found": none of objects, but the
            places where a detector in the same training finds what a class leans on; "auto": those where they are
            known, else guesses. None: such images take part in nothing. Made masks are fitted to some that are given.
        task: "auto" (by the labels of the first batch), "single_label", "binary", "multi_label", "regression", or a
            `camtrain.tasks.Task` of your own, whose `evidence` is explained and whose `losses` twins are asked.

    Logged each epoch from the start on: `alignment/active`, `alignment/weight` (both 0 once it has ended),
    `alignment/penalty` (mean over annotated images, less what is tolerated), `alignment/dead_maps` (share of them whose
    map is empty), `alignment/learned` (in [0, 1], what an automatic weight is multiplied by), `alignment/skipped`
    (share of steps whose terms were left out), `alignment/twins` (loss). NaN where nothing is annotated or answered.

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
        task: Any = "auto",
        segmenter: Callable[..., Any] | str | None = None,
    ) -> None:
        check_arguments(**locals())
        super().__init__()
        self.weight, self.twins = weight, twins
        self.schedule, self.batch_adapter, self.accumulate = schedule, batch_adapter, accumulate
        self.span = Span(start_when, stop_when)
        self.maker = None if segmenter is None else MaskMaker(segmenter, mask_kind=mask_kind)
        self.alignment = Alignment(
            Penalty(
                weight,
                gradient_ratio=gradient_ratio,
                method=method,
                target=target,
                loss=loss,
                second_order=second_order,
            ),
            Twins(
                twins,
                share=twins_share,
                place=twins_place,
                reuse=reuse,
                memory=memory,
                loss=twins_loss,
                blend=Blend(infill, jitter=jitter, fill_donors=mask_kind == "object"),
            ),
            layers=layers,
            model=model,
            mask_kind=mask_kind,
            task=task,
            seed=seed,
        )
        self._compiled = self._loaded = self._metric_missed = False
        self._restore: Callable[[], None] | None = None
        self._say_once = SayOnce("AttentionAlignment")

    @property
    def started_at(self) -> float | None:
        """Where in the training it began, in [0, 1]; None before."""
        return self.span.started_at

    @property
    def steps(self) -> int:
        """How many steps were aligned."""
        return self.alignment.steps

    @property
    def skipped(self) -> int:
        """In how many of them a term was not finite and was left out."""
        return self.alignment.skipped

    @property
    def state_key(self) -> str:
        """The name of its entry in a checkpoint."""
        return "AttentionAlignment"

    def state_dict(self) -> dict[str, Any]:
        """Whether it has started and where, its steps, what the automatic weights measured, the network's name.

        Not the memory of annotated images: a run that goes on collects them anew.
        """
        made = {} if self.maker is None else {"made": self.maker.state()}
        return {"started_at": self.span.started_at, "stopped": self.span.stopped, **self.alignment.state(), **made}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.span.started_at, self.span.stopped = state_dict["started_at"], state_dict.get("stopped", False)
        self.alignment.restore(state_dict)
        if self.maker is not None and "made" in state_dict:
            self.maker.restore(state_dict["made"])
        self._loaded = True

    # Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work; begin anew in another training, unless a state was loaded."""
        if stage == "fit" and trainer.global_step == 0 and not self._loaded:
            self.span.begin_anew()
            self.alignment.begin_anew()
            if self.maker is not None:
                self.maker.begin_anew()
        if stage == "fit" and sum(isinstance(c, AttentionAlignment) for c in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise ConfigurationError("One Trainer takes one AttentionAlignment: give it several layers instead.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the network, and put the terms around `training_step`."""
        total = partial(trainer.strategy.reduce, reduce_op="sum")
        root = trainer.strategy.root_device
        self.alignment.attach(pl_module, Processes(trainer.world_size, trainer.global_rank, total, root))
        self._metric_missed, self._say_once = False, SayOnce("AttentionAlignment")
        self._compiled = runs_compiled(pl_module)
        if self._compiled:
            warnings.warn("AttentionAlignment runs the compiled training step eagerly while it is on.", stacklevel=2)
        self._restore = patch(pl_module, "training_step", partial(self._training_step, trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of an epoch that will not come."""
        if self.span.started_at is None:
            self._say(never_begins(trainer, self.span.start_when))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin or end, if the epoch or the metric says so."""
        self._begin_or_end(trainer, new_epoch=True)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let the network have its images as they are: the backward pass, which may ask for them again, is over."""
        self.alignment.end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where an epoch had nothing to align with."""
        self.alignment.take_in_last_step()
        self._say(self.alignment.annotations.end_epoch())
        if self.maker is not None and self.span.is_on:
            self._show_masks(trainer, self.maker)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin or end, if the metric that was just logged says so."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._look_at_verdicts(trainer)
        if not self.span.conditions:
            return
        self._begin_or_end(trainer, new_epoch=False)
        vain = waits_for(trainer, self.span.conditions)
        if vain and not self._metric_missed:
            self._metric_missed = True
            self._say(vain)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        start = self.span.start_when
        waited = self.span.started_at is None and isinstance(start, str) and not self._metric_missed
        if waited and not_logged(trainer, [str(start)]):
            self._say(f"never began: nothing logged {start!r}")
        self._loaded = False
        self._unpatch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self.alignment.detach(learn=False)
        self._unpatch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was, and the sheet of made masks written."""
        self._unpatch()
        if self.maker is not None:
            Run.of(trainer).conclude()

    def _unpatch(self) -> None:
        self.alignment.detach()
        if self._restore is not None:
            self._restore()
        self._restore = None

    def _say(self, *texts: str) -> None:
        for text in filter(None, texts):
            self._say_once(text, warn=True)

    def should_start(self, trainer: Trainer) -> bool:
        """Whether to begin now; with `should_stop`, the decisions to override. All processes decide alike."""
        return self.span.should_start(trainer)

    def should_stop(self, trainer: Trainer) -> bool:
        """Whether to end now."""
        return self.span.should_stop(trainer)

    def _begin_or_end(self, trainer: Trainer, *, new_epoch: bool) -> None:
        if self.should_stop(trainer):
            self.span.stopped = True
        if self.should_start(trainer):
            self.span.started_at = position(trainer, new_epoch=new_epoch)

        self._look_at_verdicts(trainer)

    def _look_at_verdicts(self, trainer: Trainer) -> None:
        """Make masks of the places that a detector has found, if it has; where one way did not help, of another."""
        if self.maker is not None and self.span.is_on:
            note = self.maker.look_at(Run.of(trainer).verdicts)
            self._say(note)
            if note:
                alert = Alert(f"AttentionAlignment {note}", "", trainer.current_epoch, trainer.global_step)
                Run.of(trainer).write(alert)
            self.alignment.twins.keep_donors(self.maker.by_place or self.alignment.mask_kind == "forbidden")

    def _show_masks(self, trainer: Trainer, maker: MaskMaker) -> None:
        """Tell once, and again where the way has changed, what masks were made, with a sheet of some."""
        sheet = maker.end_epoch()
        if sheet is not None and maker.way not in self._say_once.keys:
            self._say_once(f"had {sheet.remark}. Look at some, in masks.jpg and in the report", key=maker.way)
            source = getattr(trainer, "datamodule", None) or getattr(trainer.train_dataloader, "dataset", None)
            classes = class_names(source, max(sheet.labels) + 1)
            names = [classes[label] if label >= 0 else "" for label in sheet.labels]
            Run.of(trainer).show_masks(
                lambda: sheet_of(
                    sheet.images, sheet.masks, names, title=sheet.remark, denormalize=denormalizer_of(trainer)
                )
            )

    # The training step

    def _training_step(
        self, trainer: Trainer, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self.alignment.close()
        if not trainer.training:  # a validation step that calls it
            return original(*args, **kwargs)
        self.alignment.take_in_last_step()
        active = self.span.is_on and not self.alignment.off
        scale = factor(self.schedule, self.span.progress(trainer)) if active else 0.0
        log = partial(pl_module.log, on_step=False, on_epoch=True, sync_dist=True)
        if self.span.started_at is not None:  # before, they would be two flat lines
            log("alignment/active", float(scale > 0), batch_size=1)
            log("alignment/weight", self.alignment.penalty.weight * scale, batch_size=1)
        batch = self._read(args[0] if args else next(iter(kwargs.values())))
        if scale == 0 or batch is None:
            return original(*args, **kwargs)
        step = self.alignment.begin(batch, scale=scale)
        run = self._automatic if pl_module.automatic_optimization else self._manual
        with torch.compiler.set_stance("force_eager") if self._compiled and step.terms else nullcontext():
            output = run(pl_module, step, partial(original, *args, **kwargs))
        if step.is_missed:
            self._say(_LEFT_OUT if pl_module.automatic_optimization else _MISSED)
        self._say(*self.alignment.conclude_step(step))
        for scalar in self.alignment.scalars(step):
            images: Any = scalar.images  # a count that is still on its way is as good
            log(f"alignment/{scalar.name}", scalar.value, batch_size=images)
        return output

    def _read(self, raw: Any) -> Batch | None:
        """The batch, where there is something to do; the first one is looked at before the start, too."""
        waiting = self.span.started_at is None and self.alignment.first_batch_seen
        if self.alignment.off or waiting:
            return None
        batch = read_batch(raw, self.batch_adapter)
        if not self.alignment.first_batch_seen:
            require_masks(batch, raw, twins=self.alignment.twins.needs_labels, made=self.maker is not None)
        if self.maker is not None and self.span.is_on:
            batch = self.maker.complete(batch)
        batch, notes = self.alignment.read(batch)
        self._say(*notes)
        return batch

    @staticmethod
    def _automatic(pl_module: LightningModule, step: Step, original: Callable[[], Any]) -> Any:
        """What the step returns, with the terms in its loss."""
        output = original()
        if output is None:  # Lightning's way to leave a batch out
            step.end_forward()
            return None
        added = step.compute(loss_in(output))
        return output if added is None else add_to_loss(output, added)

    def _manual(self, pl_module: LightningModule, step: Step, original: Callable[[], Any]) -> Any:
        """What the step returns, with the terms in the losses that it is given to differentiate."""

        def manual_backward(backward: Callable[..., Any], loss: Tensor, *rest: Any, **options: Any) -> None:
            if step.takes_more and step.is_meant(loss):
                added = step.compute(loss * self.accumulate, more=True)
                loss = loss if added is None else loss + added / self.accumulate
            backward(loss, *rest, **options)

        with patched(pl_module, "manual_backward", manual_backward):
            output = original()
        step.end_forward()
        return output
