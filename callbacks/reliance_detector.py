"""Does any class lean on its background: told during training, by interventions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import isnan
from typing import Any

from torch import nn

from camtrain.callbacks._lightning import (
    Attempt,
    Callback,
    LightningModule,
    SayOnce,
    Trainer,
    builds_later,
    everywhere,
    has_training_batches,
    held_early_stopping,
    network_of,
    progress_bar,
    runs_compiled,
    training_batches,
    untouched,
)
from camtrain.callbacks._passes import denormalizer_of, go_first, is_last_validation, logged_names, names_of
from camtrain.checks import check_arguments
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.packages import overrides
from camtrain.reliance import (
    Album,
    Asking,
    Count,
    Criteria,
    ExaminationPlan,
    Guesser,
    Pace,
    PoolCensus,
    Pools,
    Progress,
    Samples,
    Verdict,
    VerdictHistory,
    check_least,
    concatenate,
    examine,
    in_spreads,
    locate,
    of_label,
    unmeasured,
)
from camtrain.reliance.history import accepted, fair_cues
from camtrain.reliance.pictures import LEAST, Outcome, pictures, records_of_round
from camtrain.sinks.run import Run
from camtrain.tasks import Task, check_task

MEMORY = 2**29  # bytes of composed pictures that the rounds of a fit keep for the next
_LOOKED_AT = 4  # times as many training images as are kept, outside of `fit`
_EAGERLY = "runs the validation steps that it judges eagerly: what a compiled network is given cannot be heard"
_NOT_READ = (
    "could not read training images ({error}), so that those of {stage} lend their backgrounds. Where classes go with "
    "these less than in training, that hides what a class leans on"
)


class RelianceDetector(Callback):
    """Which class leans on its background, how much, and how sure that is, after every n-th validation.

    Objects of validation images are put on the backgrounds of other images; the procedure, what its answers mean and
    what they cost is told in docs/suspect.md. A class is `reliant` if it loses more on backgrounds of other classes
    than on those of its own (the placebo), or if its backgrounds win it probability on other classes' objects, and that
    holds with grown masks as well. `not reliant` asks for an upper bound below `limit`; all else is `undecided`, and
    the note says why. Without any mask (a box is one) masks are guessed; then `suspect` is for a person to look at, and
    `no evidence` takes the place of `not reliant`. Heatmaps have no say.

    The network is asked as the step asks it, with images converted, normalized or resized. Where the step moves or
    mixes them, or the task makes no choice between classes, nothing is judged: all is `undecided`, with the reason.

    Logged, and open to `ModelCheckpoint` and `EarlyStopping` (which waits for the first round): `reliance/flagged` (how
    many classes are reliant), `reliance/effect` (the largest, in probability), both NaN before a round and where one
    could not be made, and `reliance/effect/<class>`; the last values where a validation is not examined.

    Where nothing is there, `alpha` bounds the chance of any false flag in a whole run, over all rounds, classes, tests
    and cues; where something is, the expected share of innocent classes among those that a round flags.

    Args:
        every_n_epochs: examine again after so many validations; the last one of a fit always.
        start_epoch: the first epoch to examine.
        images_per_class: images to judge per class: 30 find strong reliance; to clear a class takes 60 and more.
        max_images: images to keep in all, in memory on the CPU; as many again of those that lend. Of many classes each
            keeps at least 20, and those that come too late are left out with a warning.
        lend_from_training: take the backgrounds from the training images of the first epoch where enough of them have
            masks, since there classes go with their backgrounds; from the validation images otherwise. In `validate`
            and `test` they are read from the data module's `train_dataloader`, or the module's own.
        classes: indices of the classes to compare with each other; all by default.
        donor_classes: on how many classes' backgrounds each image is put, its own included.
        looks: which cues of the whole picture to try beside the background: "tint", "brightness", "sharpness".
        stickers: without masks, to look for small things that win a class wherever they lie as well.
        alpha: false alarm rate of a run.
        tau: an effect up to this is taken for nothing.
        limit: `not reliant` means below this, for sure; above `tau`.
        spend_alpha: let all rounds of a run share `alpha`; False gives it to each.
        num_examples: pictures per reliant class.
        regions: images of each flagged class in which to look for the cue's place, at least 4; 0 does not look.
        segmenter: makes the masks where batches have none: images (B, C, H, W), as the model takes them and on its
            device, to masks (B, H, W) in [0, 1], 1 on the object; all -1 where it cannot tell. Asked once per image.
            "guess", as None: by what stands out from the border.
        task: how answers are read: "auto", a name or a `camtrain.tasks.Task`; of several labels each is judged.
        batch_adapter: reads a batch of another shape: returns (images, labels, masks), a mapping or a `Batch`.
        model: the submodule that maps images to logits, or its dotted name, where the step calls several.
        dataloader_idx: which validation dataloader to read, where there are several.
        judgement: the file in which a report saved what a person called fair evidence: that is not flagged, but `fair`.
        seed: of donors and bootstrap; the same in every round, so that rounds compare.

    Raises:
        ConfigurationError: at once for arguments out of range; when fitting starts for an unknown `model` or without a
            validation step; at the sanity check (or in `validate` and `test`) for batches without labels.
        MaskError, BatchError: at the sanity check for masks or labels that cannot be meant, from a segmenter too.

    A failure during a later round is reported once, leaves all `undecided`, and training goes on.

    >>> RelianceDetector(every_n_epochs=2).images_per_class
    60
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        start_epoch: int = 0,
        images_per_class: int = 60,
        max_images: int = 600,
        lend_from_training: bool = True,
        classes: list[int] | None = None,
        donor_classes: int = 8,
        looks: Sequence[str] = ("tint", "brightness", "sharpness"),
        stickers: bool = True,
        alpha: float = 0.05,
        tau: float = 0.02,
        limit: float = 0.1,
        spend_alpha: bool = True,
        num_examples: int = 2,
        regions: int = 12,
        segmenter: Callable[..., Any] | str | None = None,
        batch_adapter: Callable[..., Any] | None = None,
        model: str | nn.Module | None = None,
        dataloader_idx: int = 0,
        seed: int = 0,
        task: str | Task = "auto",
        judgement: str | None = None,
    ) -> None:
        check_arguments(**locals())
        self.criteria = Criteria(alpha=alpha, tau=tau, limit=limit, fair=fair_cues(judgement))
        self.plan = ExaminationPlan(donor_classes, tuple(looks), stickers=stickers, seed=seed, album=Album(MEMORY))
        check_least("images_per_class", images_per_class, self.criteria.min_images)
        check_least("max_images", max_images, 2 * self.criteria.min_images)
        check_least("regions", regions or LEAST, LEAST)
        check_task(task)
        self.every_n_epochs, self.start_epoch, self.spend_alpha = every_n_epochs, start_epoch, spend_alpha
        self.images_per_class, self.max_images, self.classes = images_per_class, max_images, classes
        self.num_examples, self.regions, self.model, self.dataloader_idx = num_examples, regions, model, dataloader_idx
        self.verdicts: tuple[Verdict, ...] = ()
        self._guesser = Guesser(segmenter)
        self._asking = Asking(batch_adapter, task, lend=lend_from_training)
        self._unread = ""  # why this pass cannot be judged
        self._run: tuple[int, int | None] | None = None  # the module and the Trainer of the fit
        self._history = VerdictHistory()
        self._attempt, self._say_once = Attempt("RelianceDetector"), SayOnce("RelianceDetector")

    # Lightning's hooks: a guard and one verb each.

    @property
    def state_key(self) -> str:
        """Distinguishes detectors of other submodules or classes in one checkpoint."""
        return self._generate_state_key(model=self.model, classes=self.classes)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before any batch; a new module, or a new fit, is begun anew."""
        if stage == "fit" and not overrides(pl_module, "validation_step"):
            raise ConfigurationError(
                f"RelianceDetector judges validation images; {type(pl_module).__name__} has no validation_step."
            )
        Run.of(trainer).guard_loggers()
        go_first(trainer, self)
        if not builds_later(pl_module):
            network_of(pl_module, self.model)
        run = (id(pl_module), id(trainer) if stage == "fit" else None)
        if self._run is not None and (run[0] != self._run[0] or (stage == "fit" and run[1] != self._run[1])):
            self._asking, self._history, self.verdicts = self._asking.anew(), VerdictHistory(), ()
        self._run = run

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the submodule where it was built late."""
        network_of(pl_module, self.model)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect the images that lend, in the first epoch only."""
        self._asking.collecting.begin_training_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hear what the step asks the network about images that can lend."""
        if self._asking.collecting.lends and not runs_compiled(pl_module):
            self._asking.listen(pl_module, self._network(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the training images that can lend."""
        if self._asking.collecting.lends:
            self._asking.lend(batch, self._network(pl_module), partial(self._samples, trainer))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        self._unread = ""
        if self.should_examine(trainer):
            self._asking.collecting.begin_pass()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hear what the step asks the network."""
        if dataloader_idx == self.dataloader_idx and (self._asking.collecting.judges or trainer.sanity_checking):
            compiled = runs_compiled(pl_module)
            if compiled:
                self._say_once(_EAGERLY)
            self._asking.listen(pl_module, self._network(pl_module), compiled=compiled)

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
        if dataloader_idx == self.dataloader_idx and (self._asking.collecting.judges or trainer.sanity_checking):
            self._keep(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Examine what was collected, and log what is known."""
        if trainer.sanity_checking:
            return
        if self.should_examine(trainer):
            self._examine(trainer, pl_module)
        elif trainer.state.fn == "fit":
            self._history.passes += 1
        if isnan(self._history.values["reliance/flagged"]):
            for name in held_early_stopping(trainer, "reliance/"):
                self._say_once(f"holds EarlyStopping until {name} is known", key=name)
        pl_module.log_dict(logged_names(trainer, self._history.values), sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait until the verdicts and their pictures are written, write the report and say what became of the run."""
        self._asking.let_go()
        self.plan.album.forget()
        (run := Run.of(trainer)).release_loggers()
        run.flush()
        if self.verdicts:
            self._attempt(run.conclude)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same for what there is of them."""
        self._asking.let_go()
        Run.of(trainer).flush()

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def state_dict(self) -> dict[str, Any]:
        """Which classes were flagged first when, the last logged values, and how many rounds there were."""
        return self._history.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the run that is resumed: no second alert, and no fresh alpha to spend."""
        self._history = VerdictHistory.restored(state_dict)

    @property
    def flagged_since(self) -> dict[str, int]:
        """The epoch in which each class was first found reliant, by name."""
        return dict(self._history.flagged_since)

    def should_examine(self, trainer: Trainer) -> bool:
        """Whether to examine: every n-th validation and the last one, and always outside `fit`."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return not trainer.sanity_checking
        due = partial(self._history.is_due, trainer.current_epoch, trainer.global_step)
        return due(start=self.start_epoch, every=self.every_n_epochs, last=is_last_validation(trainer))

    # The verbs, in the order of a round.

    def _network(self, pl_module: LightningModule) -> nn.Module | None:
        """The module to ask, where that is known before a step is heard."""
        network = network_of(pl_module, self.model)
        return network if self.model is not None or overrides(network, "forward") else None

    def _samples(self, trainer: Trainer, choices: int) -> Samples:
        per_class, most = (-(-count // trainer.world_size) for count in (self.images_per_class, self.max_images))
        return Samples(per_class=per_class, most=-(-most // choices), classes=self.classes)

    def _keep(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """A batch, as the step gave it to the network. What cannot be judged ends no training once that has begun."""
        try:
            read = self._asking.read(batch)
        except CamtrainError as error:
            if trainer.sanity_checking or trainer.state.fn != "fit":
                raise
            self._give_up(error)
            return
        if trainer.sanity_checking and read.masks is None and self._guesser.is_given:
            self._guesser.segment(read.images)  # an error of the user's segmenter before training starts
        try:
            self._asking.keep(read, self._network(pl_module), partial(self._samples, trainer))
        except CamtrainError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._unread = self._unread or str(error)
        self._attempt.report(f"judging ({type(error).__name__}: {error})")

    def _examine(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One round, of each choice that the network makes; where it fails, all is undecided and nothing counted."""
        if trainer.state.fn == "fit":
            self._history.examined(trainer.current_epoch, trainer.global_step)
        try:
            with untouched(trainer, pl_module), progress_bar(trainer, "Reliance") as progress:
                outcomes = self._rounds(trainer, pl_module, progress)
        except Exception as error:
            self._give_up(error)
            self._history.forget_values()
            count = self._asking.classes or len(names_of(trainer, 0, self.dataloader_idx))
            self.verdicts = unmeasured(names_of(trainer, count, self.dataloader_idx) or ["all classes"], self._unread)
            self._attempt(self._write, trainer, [Outcome(self.verdicts)], False)
            return
        self.verdicts = tuple(verdict for outcome in outcomes for verdict in outcome.verdicts)
        self._attempt(self._write, trainer, outcomes, self._history.take_in(self.verdicts, trainer.current_epoch))

    def _rounds(self, trainer: Trainer, pl_module: LightningModule, progress: Progress) -> list[Outcome]:
        if self._asking.about_language:
            criteria = self._history.criteria_of_next_round(self.criteria, 1, self.spend_alpha)
            names = partial(names_of, trainer, dataloader_idx=self.dataloader_idx)
            return [Outcome(self._asking.judge(partial(everywhere, trainer), names, criteria, self._unread))]
        judged = self._asking.collecting.take()
        heard = everywhere(trainer, lambda: (sorted(judged), self._unread))
        choices = sorted({about for abouts, _ in heard for about in abouts})
        if not choices:
            raise CamtrainError(next((why for _, why in heard if why), "no validation batch was seen"))
        if trainer.state.fn != "fit":
            self._collect_lenders(trainer, pl_module, progress)
        criteria = self._history.criteria_of_next_round(self.criteria, len(choices), self.spend_alpha)
        return [self._round(trainer, pl_module, about, judged.get(about), criteria, progress) for about in choices]

    def _round(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        about: int,
        judged: Samples | None,
        criteria: Criteria,
        progress: Progress,
    ) -> Outcome:
        """The images, the verdicts, where cues lie, and pictures, for one choice."""
        gather, device = partial(everywhere, trainer), pl_module.device
        lent = (self._asking.collecting.lenders or {}).get(about)
        guess = partial(self._guesser, device=device, progress=progress)
        pools = Pools.gathered(judged, lent, guess, gather, rank=trainer.global_rank)
        self._guesser.forget()
        census = PoolCensus.of(gather(lambda: Count.of(pools.judged, pools.training)), criteria.min_images)
        for key, text, warn in pools.remarks(census, self._asking.collecting, criteria, self.max_images):
            self._say_once(text, key=key, warn=warn)
        names = names_of(trainer, max(about, census.classes[-1]) + 1, self.dataloader_idx)
        trial = pools.trial(census, self._asking.named(names), about)
        pace = Pace(pools.batch_size, device, progress)
        album = self.plan.album if trainer.state.fn == "fit" else Album(0)  # for further rounds
        plan = replace(self.plan, batch_size=pace.batch_size, device=device, guessed=pools.guessed, album=album)
        plan = replace(plan, segment=self._guesser.segment)
        with self._asking.predicting(trial.pool.images[:1].to(device), about) as predict:
            findings = examine(
                predict,
                trial.pool,
                trial.names,
                trial.classes,
                lenders=pools.training if census.training_lends else None,
                criteria=criteria,
                plan=plan,
                gather=lambda compute: concatenate(gather(compute)),
                progress=progress,
            )
            if about >= 0 or self._asking.of_value:
                findings = replace(findings, verdicts=of_label(findings.verdicts))
            images = 0 if self._asking.frames else -(-self.regions // trainer.world_size)
            search = partial(self._attempt, locate, predict, findings, trial, images=images, pace=pace, gather=gather)
            verdicts, windows = (search() if images else None) or (findings.verdicts, {})
            verdicts = self._asking.with_motion(verdicts, predict, trial.pool, pace, gather)
        findings = replace(findings, verdicts=verdicts)
        shown = None
        if Run.of(trainer).writes:
            show = self._asking.shown_by(denormalizer_of(trainer))
            shown = self._attempt(pictures, findings, trial, windows, show, self.num_examples)
        verdicts = trial.named(tuple(map(in_spreads, verdicts)) if self._asking.of_value else verdicts)
        return Outcome(accepted(verdicts, criteria.fair), *shown or ())

    def _collect_lenders(self, trainer: Trainer, pl_module: LightningModule, progress: Progress) -> None:
        """Training images that lend in `validate` and `test`, each process its part; failing that the judged ones."""
        collecting, most = self._asking.collecting, _LOOKED_AT * self.max_images
        if collecting.lenders is not None or not collecting.lend or not has_training_batches(trainer, pl_module):
            return
        try:
            self._asking.lend_unasked(
                training_batches(trainer, pl_module), most, partial(self._samples, trainer), progress
            )
        except Exception as error:
            stage = "test" if trainer.testing else "validate"
            self._say_once(_NOT_READ.format(error=f"{type(error).__name__}: {error}", stage=stage), warn=True)

    def _write(self, trainer: Trainer, outcomes: Sequence[Outcome], first: bool) -> None:
        Run.of(trainer).write(*records_of_round(outcomes, trainer.current_epoch, trainer.global_step, first=first))
