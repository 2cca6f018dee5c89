"""Does any class lean on its background: told during training, by interventions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from camtrain.callbacks._lightning import (
    Attempt,
    Callback,
    LightningModule,
    SayOnce,
    Trainer,
    builds_later,
    callable_network,
    everywhere,
    network_of,
    progress_bar,
    untouched,
)
from camtrain.callbacks._passes import denormalizer_of, go_first, logged_names, names_of
from camtrain.cam import find_logits
from camtrain.cam.folding import quickened
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.packages import overrides, part_of
from camtrain.reliance import (
    Collecting,
    Count,
    Criteria,
    ExaminationPlan,
    Exemplars,
    Findings,
    Guesser,
    Pool,
    PoolCensus,
    Pools,
    Progress,
    Samples,
    Verdict,
    VerdictHistory,
    concatenate,
    examine,
    locate,
    share_of_round,
)
from camtrain.reliance.pictures import alert, examples, strips
from camtrain.reliance.places import LEAST
from camtrain.sinks import Record, Verdicts
from camtrain.sinks.run import Run
from camtrain.swaps import LOOKS

_LOOKED_AT = 4  # times as many training images as are kept, outside of `fit`
_GUESSING = (
    "finds no masks in the validation batches and guesses them{by}: its verdicts are 'reliant', 'suspect', 'undecided' "
    "or 'no evidence', never 'not reliant'. Masks, or boxes as masks, make it surer"
)
_LEND_NOTHING = (
    "takes backgrounds from the judged images, since training images lend none: {why}. Where classes go with their "
    "backgrounds less than in training, that hides what a class leans on"
)
_NOT_READ = (
    "could not read training images ({error}), so that those of {stage} lend their backgrounds. Where classes go with "
    "these less than in training, that hides what a class leans on"
)


class RelianceDetector(Callback):
    """Which class leans on its background, how much, and how sure that is, after every n-th validation epoch.

    Objects of validation images are put on the backgrounds of other images; the whole procedure, with what its answers
    mean and cost, is told in docs/suspect.md and `camtrain.reliance`. A class is `reliant` if it loses more on
    backgrounds of other classes than on those of its own (the placebo), or if its backgrounds win it probability on
    other classes' objects, and that holds with grown masks as well. `not reliant` asks for an upper bound below
    `limit`; all else is `undecided`, and the note says why. Without any mask (a box is one) masks are guessed; then
    `suspect` is for a person to look at, and `no evidence` takes the place of `not reliant`. Heatmaps have no say.

    Logged, and open to `ModelCheckpoint` and `EarlyStopping`: `reliance/flagged` (how many classes are reliant),
    `reliance/effect` (the largest effect, in probability; NaN before the first round), `reliance/effect/<class>`; the
    last known values where a validation epoch is not examined. Verdicts, example pictures, where cues lie, and one
    alert at the first flag go to the run's sinks.

    Where nothing is there, `alpha` bounds the chance of any false flag in a whole run, over all rounds, classes, tests
    and cues; where something is, the expected share of innocent classes among those that a round flags.

    A round costs 21 forwards an image where nothing is found and 48 at most; with guessed masks 29 and 53. Where a cue
    lies costs 30 to 50 more for each of `regions` images of at most twelve classes. Of several processes each judges
    its own images, and all reach the same verdicts from all of them.

    Args:
        every_n_epochs: examine again after so many epochs; the last epoch of a fit always.
        start_epoch: the first epoch to examine.
        images_per_class: images to judge per class: 30 find strong reliance; to clear a class takes 60 and more.
        max_images: images to keep in all, in memory on the CPU; as many again of those that lend. Of many
            classes each keeps at least 20, and those that come too late are left out with a warning.
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
        regions: images of each reliant or suspect class in which to look for the cue's place, at least 4; 0 does not
            look.
        segmenter: makes the masks where batches have none: images (B, C, H, W), as the model takes them and on its
            device, to masks (B, H, W) in [0, 1], 1 on the object; all -1 where it cannot tell. Asked once per image.
        batch_adapter: reads a batch of another shape: returns (images, labels, masks), a mapping or a `Batch`.
        model: dotted name of the submodule that maps images to logits, where the module itself does not.
        dataloader_idx: which validation dataloader to read, where there are several.
        seed: of donors and bootstrap; the same in every round, so that rounds compare.

    Raises:
        ConfigurationError: at once for arguments out of range; when fitting starts for an unknown `model` or without a
            validation step; at the sanity check (or in `validate` and `test`) for batches without labels.
        MaskError, BatchError: at the sanity check for masks or labels that cannot be meant, from a segmenter too.

    A failure during a later round is reported once, and training goes on.

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
        segmenter: Callable[..., Any] | None = None,
        batch_adapter: Callable[..., Any] | None = None,
        model: str | None = None,
        dataloader_idx: int = 0,
        seed: int = 0,
    ) -> None:
        self.criteria = Criteria(alpha=alpha, tau=tau, limit=limit)
        _require_least(
            {
                "every_n_epochs": (every_n_epochs, 1),
                "start_epoch": (start_epoch, 0),
                "images_per_class": (images_per_class, self.criteria.min_images),
                "max_images": (max_images, 2 * self.criteria.min_images),
                "donor_classes": (donor_classes, 2),
                "num_examples": (num_examples, 0),
                "regions": (regions or LEAST, LEAST),
            }
        )
        unknown = [look for look in looks if look not in LOOKS]
        if unknown:
            raise ConfigurationError(f"looks are some of {', '.join(LOOKS)}; got {unknown[0]!r}.")
        if not 0 < alpha < 1:
            raise ConfigurationError(f"alpha is an error rate between 0 and 1, got {alpha}.")
        if not 0 <= tau < limit < 1:
            raise ConfigurationError(f"Effects need 0 <= tau < limit < 1, got tau={tau} and limit={limit}.")
        if classes is not None and len(set(classes)) < 2:
            raise ConfigurationError(f"classes lend each other backgrounds: name at least two, got {classes}.")
        self.every_n_epochs, self.start_epoch = every_n_epochs, start_epoch
        self.images_per_class, self.max_images, self.classes = images_per_class, max_images, classes
        self.spend_alpha, self.num_examples, self.regions = spend_alpha, num_examples, regions
        self.model, self.dataloader_idx = model, dataloader_idx
        self.plan = ExaminationPlan(arms=donor_classes, looks=tuple(looks), stickers=stickers, seed=seed)
        self.verdicts: tuple[Verdict, ...] = ()
        self._collecting = Collecting(batch_adapter, lend=lend_from_training)
        self._guesser = Guesser(segmenter)
        self._history = VerdictHistory()
        self._attempt = Attempt("RelianceDetector")
        self._say_once = SayOnce("RelianceDetector")

    # Lightning's hooks: a guard and one verb each.

    @property
    def state_key(self) -> str:
        """Distinguishes detectors of other submodules or classes in one checkpoint."""
        return self._generate_state_key(model=self.model, classes=self.classes)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before any batch."""
        if stage == "fit" and not overrides(pl_module, "validation_step"):
            raise ConfigurationError(
                f"RelianceDetector judges validation images; {type(pl_module).__name__} has no validation_step."
            )
        go_first(trainer, self)
        if not builds_later(pl_module):
            callable_network(network_of(pl_module, self.model))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the submodule where it was built late."""
        callable_network(network_of(pl_module, self.model))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect the images that lend, in the first epoch only."""
        self._collecting.begin_training_epoch(self._new_samples(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the training images that can lend."""
        self._collecting.add_training(batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        if self.should_examine(trainer):
            if trainer.state.fn != "fit":
                self._collect_lenders(trainer, pl_module)
            self._collecting.begin_pass(self._new_samples(trainer))

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
            self._try_segmenter(self._collecting.read(batch))
        elif trainer.state.fn == "fit":
            self._attempt(self._collecting.add, batch)
        else:
            self._collecting.add(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Examine what was collected, and log what is known."""
        if trainer.sanity_checking:
            return
        if self.should_examine(trainer):
            self._attempt(self._examine, trainer, pl_module)
        pl_module.log_dict(logged_names(trainer, self._history.values), sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait until the verdicts and their pictures are written, write the report and say what became of the run."""
        run = Run.of(trainer)
        run.flush()
        if self.verdicts:
            self._attempt(run.conclude)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same for what there is of them."""
        Run.of(trainer).flush()

    on_test_epoch_start = on_validation_epoch_start
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
        """Whether to examine: `every_n_epochs` after the last time, in the last epoch, and always outside `fit`."""
        if trainer.sanity_checking:
            return False
        if trainer.state.fn != "fit":
            return True
        last = None if trainer.max_epochs is None else trainer.max_epochs - 1
        return self._history.is_due(trainer.current_epoch, start=self.start_epoch, every=self.every_n_epochs, last=last)

    # The verbs, in the order of a round.

    def _try_segmenter(self, batch: Batch) -> None:
        """An error of the user's segmenter before training starts."""
        if batch.masks is None and self._guesser.is_given:
            self._guesser.segment(batch.images)

    def _new_samples(self, trainer: Trainer) -> Samples:
        per_class = -(-self.images_per_class // trainer.world_size)
        return Samples(per_class=per_class, most=-(-self.max_images // trainer.world_size), classes=self.classes)

    def _collect_lenders(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training images that lend in `validate` and `test`, each process its part; failing that the judged ones."""
        sources = (getattr(trainer, "datamodule", None), pl_module)
        source = next((one for one in sources if one is not None and overrides(one, "train_dataloader")), None)
        if source is None or self._collecting.lenders is not None or not self._collecting.lend:
            return
        self._collecting.begin_training_epoch(self._new_samples(trainer))
        most, looked_at = _LOOKED_AT * self.max_images, 0
        try:
            with untouched(trainer, pl_module), progress_bar(trainer, "Reliance") as progress:
                torch.manual_seed(0)  # the order of a shuffled set: the same images each time
                combined = part_of(trainer, "utilities.CombinedLoader")
                for index, (batch, _, _) in enumerate(iter(combined(source.train_dataloader(), "max_size_cycle"))):
                    if index % trainer.world_size == trainer.global_rank:
                        moved = pl_module._apply_batch_transfer_handler(pl_module._on_before_batch_transfer(batch))
                        images = self._collecting.add_training(moved)
                        progress("training images that lend", images, most)
                        looked_at += images
                    if looked_at >= most or not self._collecting.lends:
                        break
        except Exception as error:
            stage = "test" if trainer.testing else "validate"
            self._say_once(_NOT_READ.format(error=f"{type(error).__name__}: {error}", stage=stage), warn=True)

    def _examine(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One round: the images, the verdicts, where cues lie, and what is kept of it."""
        judged = self._collecting.take()
        if trainer.state.fn == "fit":
            self._history.examined_epoch = trainer.current_epoch
        with untouched(trainer, pl_module), progress_bar(trainer, "Reliance") as progress:
            pools = self._choose(trainer, pl_module, judged, progress)
            counts = everywhere(trainer, lambda: Count.of(pools.judged, pools.training))
            census = PoolCensus.of(counts, self.criteria.min_images)
            self._mention(pools, census)
            self._history.rounds += 1
            pool = pools.judged or Pool.empty(census.size)
            lenders = pools.training if census.training_lends else None
            names = names_of(trainer, census.classes[-1] + 1)
            share = share_of_round(self._history.rounds) if self.spend_alpha else 1.0
            with self._predicting(pl_module, pool) as predict:
                findings = examine(
                    predict,
                    pool,
                    names,
                    census.classes,
                    lenders=lenders,
                    criteria=replace(self.criteria, share=share),
                    plan=self._plan_of(pools, pl_module),
                    gather=lambda compute: concatenate(everywhere(trainer, compute)),
                    progress=progress,
                )
                located = self._attempt(
                    locate,
                    predict,
                    findings,
                    pool,
                    lenders or pool,
                    images=-(-self.regions // trainer.world_size),
                    batch_size=pools.batch_size,
                    device=pl_module.device,
                    gather=partial(everywhere, trainer),
                    progress=progress,
                )
        self.verdicts, windows = located or (findings.verdicts, {})
        first = self._history.keep(self.verdicts, trainer.current_epoch)
        findings = replace(findings, verdicts=self.verdicts)
        self._attempt(self._write, trainer, findings, pool, lenders or pool, names, windows, first)

    def _choose(
        self, trainer: Trainer, pl_module: LightningModule, judged: Samples | None, progress: Progress
    ) -> Pools:
        """The images of a round; no process waits for one that fails."""
        lenders = self._collecting.lenders
        held = everywhere(trainer, lambda: [one is not None and len(one.annotated) > 0 for one in (judged, lenders)])
        annotated = any(each[0] for each in held), any(each[1] for each in held)

        def guess(pool: Pool, size: int) -> Pool:
            return self._guesser(pool, batch_size=size, device=pl_module.device, progress=progress)

        pools: list[Pools] = []  # of this process alone: images stay where they are
        everywhere(trainer, lambda: pools.append(Pools.of(judged, lenders, guess, annotated)))
        self._guesser.forget()
        return pools[0]

    def _plan_of(self, pools: Pools, pl_module: LightningModule) -> ExaminationPlan:
        return replace(
            self.plan,
            batch_size=pools.batch_size,
            device=pl_module.device,
            guessed=pools.guessed,
            segment=self._guesser.segment,
        )

    @contextmanager
    def _predicting(self, pl_module: LightningModule, pool: Pool) -> Iterator[Callable[[Tensor], Tensor]]:
        """The module's logits, in many forwards of which each costs less."""
        network = callable_network(network_of(pl_module, self.model))
        dtype = self._collecting.dtype
        with quickened(network, pool.images[:1].to(pl_module.device, dtype)) as layout:
            yield lambda images: find_logits(network(layout(images.to(dtype))))

    def _mention(self, pools: Pools, census: PoolCensus) -> None:
        """Each once a run: that classes are left out, that masks are guessed, that training images lend nothing."""
        if pools.left_out:
            listed = f"leaves {len(pools.left_out)} classes out, among them {sorted(pools.left_out)[:5]}"
            remedy = "raise max_images, or choose with classes=[...]"
            self._say_once(f"keeps max_images={self.max_images} and {listed}: {remedy}", key="left out", warn=True)
        if pools.guessed:
            by = " with your segmenter" if self._guesser.is_given else ""
            self._say_once(_GUESSING.format(by=by), key="guessing")
        if self._collecting.lenders is not None and not census.training_lends:
            usable = 0 if pools.training is None else len(pools.training.labels)
            few = f"{usable} are usable, and each class needs {self.criteria.min_images}, of the judged images' size"
            self._say_once(_LEND_NOTHING.format(why=self._collecting.unreadable or few), key="lending")

    def _write(
        self,
        trainer: Trainer,
        findings: Findings,
        pool: Pool,
        lenders: Pool,
        names: Sequence[str],
        windows: dict[int, Exemplars],
        first: bool,
    ) -> None:
        """The verdicts with pictures, and an alert where they hold the first flag of the run."""
        if not trainer.is_global_zero:
            return
        epoch, step = trainer.current_epoch, trainer.global_step
        denormalize = denormalizer_of(trainer)
        shown = examples(findings, pool, lenders, names, denormalize, self.num_examples)
        placed = strips(findings.verdicts, windows, denormalize)
        records: list[Record] = [Verdicts.of(findings.verdicts, epoch, step, shown, placed)]
        if first:
            records.append(alert(findings.verdicts, epoch, step))
        Run.of(trainer).write(*records)


def _require_least(arguments: dict[str, tuple[int, int]]) -> None:
    for name, (value, least) in arguments.items():
        if value < least:
            raise ConfigurationError(f"{name} must be at least {least}, got {value}.")
