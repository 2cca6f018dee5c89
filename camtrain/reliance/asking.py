"""What a step asks the network, kept to be judged or to lend, and the network asked again in the same way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam import Ride
from camtrain.cam.passes import quickened
from camtrain.data.batches import Adapter, Batch
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.reliance.language import Reply, Word, judge_answers
from camtrain.reliance.motion import motion_of, with_motion
from camtrain.reliance.pool import Collecting, GatherAny, Samples, as_given
from camtrain.reliance.records import Criteria, Pace, Pool, Predict, Progress, Verdict
from camtrain.tasks import Captioning, QuestionAnswering, Task, View, resolve_task
from camtrain.tasks.answers import answer_shape
from camtrain.tasks.calls import Call, Calls, call_on, undo_values

__all__ = ["Asking"]

_MOST_ANSWERED = 50_000  # questions or words of a pass
NewSamples = Callable[[int], Samples]  # of how many choices


class Asking:
    """Hears which module a step asks about a batch's images, and with what; keeps that by choice.

    Args:
        adapter: reads a batch of another shape.
        task: how answers are read; "auto" looks at the first batch.
        lend: whether training images lend.
    """

    def __init__(self, adapter: Adapter | None = None, task: str | Task = "auto", *, lend: bool = True) -> None:
        self.collecting = Collecting(adapter, lend=lend)
        self.task: Task | None = None  # once it is known
        self.call: Call | None = None  # the last one
        self.undo: Callable[[Tensor], Tensor] | None = None  # from what the network is given to the batch's values
        self._calls = Calls()
        self._named = task
        self._shape: tuple[int, ...] | None = None  # of the answer to an image, once it is known
        self.frames = 0  # of a clip
        self.answered: list[Reply | Word] = []  # to questions, and the words of captions

    def anew(self) -> "Asking":
        """As it was when nothing had been heard."""
        return Asking(self.collecting.adapter, self._named, lend=self.collecting.lend)

    def listen(self, root: nn.Module, network: nn.Module | None, *, compiled: bool = False) -> None:
        """A step begins. Until the network is known all modules are heard, then it alone; compiled ones eagerly."""
        heard = list(Ride.audible(root)) if self.call is None else [self.call.module]
        heard = heard if network is None or network in heard else [*heard, network]
        self._calls.listen(heard, network, compiled=compiled)

    def let_go(self) -> None:
        """No step is running any more: no hook and no module is held."""
        self._calls.stop()
        self.call = self.undo = None

    def read(self, batch: Any) -> Batch:
        """The batch with its labels. ConfigurationError, MaskError or BatchError where it cannot be judged."""
        return self.collecting.read(batch)

    def keep(self, batch: Batch, network: nn.Module | None, new: NewSamples) -> None:
        """What is wanted of a batch whose step is over. CamtrainError where it is not known what was asked."""
        if self.about_language:
            room = self.collecting.judges and len(self.answered) < _MOST_ANSWERED
            self.answered += self._answered(batch, network) if room or self.task is None else []
            self._calls.stop()
            return
        given, views = self._heard(batch, network)
        self.collecting.add(given, views, lambda: new(_told(views)))

    @property
    def of_value(self) -> bool:
        """Whether an answer is a value."""
        return self.task is not None and self.task.form == "value"

    def named(self, names: list[str]) -> list[str]:
        """What classes of these names are called in the task."""
        return names if self.task is None else self.task.names(names)

    @property
    def about_language(self) -> bool:
        """Whether what is judged is how answers hang on words beside the images, not on their backgrounds."""
        return self.about_words or self._named == QuestionAnswering.name or isinstance(self._named, QuestionAnswering)

    @property
    def about_words(self) -> bool:
        """Whether answers are captions."""
        return self._named == Captioning.name or isinstance(self._named, Captioning)

    def take_answered(self) -> list[Reply | Word]:
        """What was answered in the pass, which is over."""
        self.collecting.take()
        answered, self.answered = self.answered, []
        return answered

    def judge(
        self, gather: GatherAny, names: Callable[[int], Sequence[str]], criteria: Criteria, unread: str
    ) -> tuple[Verdict, ...]:
        """The verdicts on the words that all processes heard."""
        return judge_answers(gather(self.take_answered), names, criteria, unread)

    def with_motion(
        self, verdicts: tuple[Verdict, ...], predict: Predict, pool: Pool, pace: Pace, gather: GatherAny
    ) -> tuple[Verdict, ...]:
        """Of clips whose answers are classes, the verdicts with what they owe to motion; others as they are."""
        if not self.frames or self.of_value:
            return verdicts
        return with_motion(verdicts, gather(lambda: motion_of(predict, pool, self.frames, pace=pace)))

    def lend(self, batch: Any, network: nn.Module | None, new: NewSamples) -> None:
        """The same of a training batch, which may have any shape, and whose step need not be heard.

        Where it cannot be read, the images that are judged lend.
        """
        if self.about_language:
            self.collecting.lend_nothing("words are judged, not backgrounds")
        if self.collecting.lends:
            try:
                read = self.read(batch)
                asked = self._calls.are_heard and not (self.task is not None and self.task.whole_output)
                given, views = self._heard(read, network) if asked else self._unheard(read)
                self.collecting.add_training(given, views, lambda: new(_told(views)))
            except CamtrainError as error:
                self.collecting.lend_nothing(str(error))

    def lend_unasked(self, batches: Iterable[Any], most: int, new: NewSamples, progress: Progress) -> None:
        """Training batches that no step has seen, until so many images were looked at."""
        self.collecting.begin_training_epoch()
        looked_at = 0
        try:
            for batch in batches:
                self.lend(batch, None, new)
                if not self.collecting.lends:
                    return
                progress("training images that lend", count := len(self.read(batch)), most)
                looked_at += count
                if looked_at >= most:
                    return
        finally:
            self.collecting.lends = False

    @property
    def classes(self) -> int:
        """How many classes or labels the network tells; 0 before it is known."""
        return 0 if self._shape is None else 2 if self._shape in ((), (1,)) else self._shape[0]

    def shown_by(self, denormalize: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor] | None:
        """From what the network is given to pictures: the step undone, then the data's normalization."""
        undo = self.undo
        if undo is None or denormalize is None:
            return undo or denormalize
        return lambda images: denormalize(undo(images))

    @contextmanager
    def predicting(self, images: Tensor, about: int) -> Iterator[Predict]:
        """The logits of one choice, in many forwards of which each costs less. ``images`` are some, on the device."""
        if self.call is None or self.call.images is None or self.task is None:
            yield _nobody  # a process without a batch has no image to ask about
            return
        call, task, dtype = self.call, self.task, self.call.images.dtype
        alone = len(call.args) == 1 and not call.kwargs and call.listed is None
        some = images[: 1 if alone else 0]
        some = as_clips(some, self.frames) if self.frames else some
        with quickened(call.module, _typed(some, dtype)) as layout:

            def predict(shown: Tensor) -> Tensor:
                shown = as_clips(shown, self.frames) if self.frames else shown
                views = task.views(call.again(layout(_typed(shown, dtype))), None)
                return next(view.logits for view in views if view.about == about)

            yield predict

    def _answered(self, batch: Batch, network: nn.Module | None) -> list[Reply] | list[Word]:
        """What was answered to the question beside each image, or word by word. CamtrainError if that is not known."""
        calls = self._calls.take()
        self.call, known = None, self.call
        call = call_on(calls, batch.images, network if known is None else known.module, alone=False)
        self.task = resolve_task(self._named, call.output, batch)
        if isinstance(self.task, Captioning):
            self.call = replace(call, output=None, args=(), kwargs={})
            return _words_of(self.task, call, batch.labels)
        (view,) = self.task.views(call.output, batch.labels)
        beside = [tensor for tensor in call.beside if tensor.ndim and len(tensor) == len(batch)]
        if not beside or view.labels is None:
            raise ConfigurationError("the network is given no question beside each image: name another task")
        self.call = replace(call, output=None, args=(), kwargs={})
        rows = zip(view.logits.argmax(dim=1).tolist(), view.labels.tolist(), strict=True)
        return [Reply(_asked_in(beside, row), *pair) for row, pair in enumerate(rows)]

    def _unheard(self, batch: Batch) -> tuple[Batch, list[View]]:
        """The batch as it is, with no answer. CamtrainError where the steps that were heard change images."""
        whole = self.task is not None and self.task.whole_output  # in training it may answer in another form
        if self.undo is not None or self.task is None or (self._shape is None and not whole):
            raise CamtrainError("the step changes images before the network sees them, or was not heard yet")
        answer = (
            self.task.blank(batch) if whole else torch.zeros(len(batch), *self._shape or (), device=batch.images.device)
        )
        return strips(replace(batch, masks=self.task.objects(batch, self.task.count(answer)))), self.task.views(
            answer, batch.labels
        )

    def _heard(self, batch: Batch, network: nn.Module | None) -> tuple[Batch, list[View]]:
        """The batch as the network was given it, and the choices that its answer makes."""
        calls = self._calls.take()
        if batch.images.ndim not in (4, 5):
            raise ConfigurationError(
                f"pictures (B, C, H, W) and clips (B, C, T, H, W) are judged, got images {tuple(batch.images.shape)}"
            )
        self.call, known = None, self.call
        call = call_on(calls, batch.images, network if known is None else known.module)
        if self.task is None:
            self.task = resolve_task(self._named, call.output, batch)
        views = self.task.views(call.output, batch.labels)
        if not views or call.images is None:
            raise ConfigurationError(f"{self.task.name} makes no choice between classes that a background could sway")
        self.call = replace(call, output=None)  # no graph is kept
        self._shape = None if self.task.whole_output else answer_shape(call.output)
        self.frames = call.images.shape[2] if call.images.ndim == 5 else 0
        batch = replace(batch, masks=self.task.objects(batch, self.task.count(call.output)))
        same = call.images is batch.images or call.images.data_ptr() == batch.images.data_ptr()
        if same or (call.listed is not None and torch.equal(call.images, batch.images)):
            self.undo = None
            return strips(batch), views
        if self.frames:
            raise ConfigurationError("the step changes clips before the network sees them: change them in the data set")
        self.undo = _undo(batch.images, call.images)
        return as_given(batch, call.images), views


def _told(views: Sequence[View]) -> int:
    """How many choices a batch tells of."""
    return max(1, sum(view.labels is not None for view in views))


@torch.no_grad()
def _words_of(task: Captioning, call: Call, labels: Tensor) -> list[Word]:
    """The words answered, with pictures exchanged once, where what is answered is not true of the other."""
    logits = task.read(call.output)
    words = task.words(labels, logits)
    shift = len(words) // 2
    if shift == 0 or call.images is None:
        return []
    others = words.roll(shift, 0)
    answers = logits.argmax(dim=2)
    own, elsewhere = task.shares(logits, answers), task.shares(logits.roll(shift, 0), answers)
    exchanged = task.shares(call.again(call.images.roll(shift, 0)), answers)
    earlier = torch.cat([torch.full_like(words[:, :1], -1), words[:, :-1]], dim=1)
    rows, places = ((words >= 0) & (others >= 0) & (answers != others)).nonzero().unbind(dim=1)
    columns = (each[rows, places].tolist() for each in (own, exchanged, elsewhere))
    numbers = (each[rows, places].tolist() for each in (answers, words, earlier))
    return [Word(*row) for row in zip(*numbers, places.tolist(), *columns, strict=True)]


def _asked_in(beside: Sequence[Tensor], row: int) -> str:
    """What tells a question: its number, or its words."""
    numbers = [f"{value:g}" for tensor in beside for value in tensor[row].detach().flatten().tolist()]
    return f"question {' '.join(numbers[:24])}"


def strips(batch: Batch) -> Batch:
    """Clips with their frames side by side, as pictures `(B, C, H, T W)` with masks `(B, H, T W)`; images stay."""
    if batch.images.ndim == 4:
        return batch
    frames, masks = batch.images.shape[2], batch.masks
    if masks is not None and masks.ndim == 3:
        masks = masks.unsqueeze(1).expand(-1, frames, -1, -1)
    return replace(
        batch,
        images=batch.images.movedim(2, 3).flatten(3),
        masks=None if masks is None else masks.movedim(1, 2).flatten(2),
    )


def as_clips(images: Float[Tensor, "B C H W"], frames: int) -> Float[Tensor, "B C T H w"]:
    """Frames side by side as clips again.

    >>> clips = torch.rand(2, 3, 4, 5, 6)
    >>> torch.equal(as_clips(strips(Batch(clips)).images, 4), clips)
    True
    """
    return images.view(*images.shape[:3], frames, -1).movedim(3, 2)


def _nobody(images: Tensor) -> Tensor:
    raise ConfigurationError("no step has asked the network about images yet")


def _typed(images: Tensor, dtype: torch.dtype) -> Tensor:
    """As the network takes them; bytes are rounded."""
    return images.to(dtype) if dtype.is_floating_point else images.round().clamp(0, 255).to(dtype)


def _undo(images: Tensor, given: Tensor) -> Callable[[Tensor], Tensor]:
    """To the batch's values, bytes in [0, 1]."""
    scale = 1.0 if images.is_floating_point() else 1 / 255
    before = images.detach().float() * scale
    if before.shape[2:] != given.shape[2:]:
        before = F.interpolate(before, given.shape[2:], mode="bilinear", antialias=True, align_corners=False)
    if before.shape[1] != given.shape[1]:
        before = before.mean(dim=1, keepdim=True).expand_as(given)
    return undo_values(before, given)
