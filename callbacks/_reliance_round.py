"""What a round of detection asks of a Trainer: every process's part, and a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from camtrain.callbacks._lightning import Trainer, everywhere
from camtrain.errors import CamtrainError
from camtrain.packages import part_of
from camtrain.reliance import Pool


@dataclass(frozen=True)
class Census:
    """What all processes hold together: the classes that can be judged, and whether training images can lend."""

    classes: tuple[int, ...]
    training_lends: bool


def take_census(trainer: Trainer, pool: Pool | None, training: Pool | None, least: int) -> Census:
    """Count images and training images per class; training lends where it has `least` of every class, of one size."""

    def count() -> tuple[list[int], list[int]] | None:
        if pool is None:
            return None
        fits = training is not None and training.images.shape[1:] == pool.images.shape[1:]
        return pool.labels.bincount().tolist(), training.labels.bincount().tolist() if fits and training else []

    counted = everywhere(trainer, count)
    counts = [each for each in counted if each is not None]
    if len(counts) < len(counted):
        raise CamtrainError("a process collected no validation batch that could be read")
    images, lent = (_added([each[kind] for each in counts]) for kind in (0, 1))
    classes = tuple(sorted(images))
    if not classes:
        raise CamtrainError("no validation image shows an object, annotated or guessed, with a background around it")
    same_size = all(each[1] or training is None for each in counts)
    return Census(classes, same_size and all(lent.get(c, 0) >= least for c in classes))


def _added(counts: list[list[int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for each in counts:
        for c, count in enumerate(each):
            if count:
                total[c] = total.get(c, 0) + count
    return total


@contextmanager
def progress_bar(trainer: Trainer) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on rank zero for what takes longer than three seconds, where the trainer shows bars at all."""
    hidden = not trainer.is_global_zero or trainer.progress_bar_callback is None
    tqdm = part_of(trainer, "callbacks.progress.tqdm_progress.Tqdm")
    with tqdm(unit=" images", delay=3, leave=False, disable=hidden) as bar:
        doing = ""

        def progress(what: str, done: int, total: int) -> None:
            nonlocal doing
            if what != doing:
                doing = what
                bar.reset(total)
                bar.set_description(f"Reliance: {what}", refresh=False)
            bar.update(done)

        yield progress
