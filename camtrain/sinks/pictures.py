"""Pictures and files to any logger that takes them: MLflow, Comet, and whatever has a `log_image` of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from camtrain.packages import is_a
from camtrain.records import Document, Panels, Record, Scalars, Verdicts
from camtrain.records.formats import slug
from camtrain.records.images import Pixels, to_pixels
from camtrain.render import side_by_side

FOLDER = "camtrain"  # of the files in a run's artifacts


@runtime_checkable
class ShowsImages(Protocol):
    """A logger of one's own that is to get the pictures; `log_file(path)`, where it has one, gets the report."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, *, caption: list[str]) -> None:
        """Show pictures (H, W, 3) uint8 under a key."""


@dataclass(frozen=True)
class Outlet:
    """What a logger can take: a picture by name, step and caption, and perhaps a file and numbers."""

    picture: Callable[[str, Pixels, int, str], Any]
    file: Callable[[Path], Any] | None = None


class PictureSink:
    """Sends each panel, example and strip as a picture, and finished files (the report) where the logger keeps files.

    Args:
        logger: of a kind that `outlet_of` knows.
        prefix: goes before each name, as "test/".
    """

    def __init__(self, logger: Any, prefix: str = "") -> None:
        self.logger = logger
        self.prefix = prefix

    def write(self, *records: Record) -> None:
        """Send the pictures of one pass, and what Lightning has not logged."""
        outlet = outlet_of(self.logger)
        if outlet is None:
            return
        for record in records:
            for name, pixels, caption in pictures_of(record):
                outlet.picture(f"{self.prefix}{name}", pixels, record.step, caption)
            if isinstance(record, Document) and outlet.file is not None:
                for path in record.paths:
                    outlet.file(path)
            if isinstance(record, Scalars) and not record.logged:
                self.logger.log_metrics({f"{self.prefix}{k}": value for k, value in record.values.items()}, record.step)

    def close(self) -> None:
        """The logger is its owner's."""


def outlet_of(logger: Any) -> Outlet | None:
    """How a logger takes pictures; None for one that cannot."""
    if is_a(logger, "MLFlowLogger"):
        client, run = logger.experiment, logger.run_id
        return Outlet(
            picture=lambda name, pixels, step, caption: client.log_image(
                run, pixels, artifact_file=f"{FOLDER}/{name}/{step:07d}.png"
            ),
            file=lambda path: client.log_artifact(run, str(path), FOLDER),
        )
    if is_a(logger, "CometLogger"):
        experiment = logger.experiment
        return Outlet(
            picture=lambda name, pixels, step, caption: experiment.log_image(
                pixels, name=name, step=step, metadata={"caption": caption}
            ),
            file=lambda path: experiment.log_asset(str(path), file_name=f"{FOLDER}/{path.name}"),
        )
    if isinstance(logger, ShowsImages):
        return Outlet(
            picture=lambda name, pixels, step, caption: logger.log_image(name, [pixels], step, caption=[caption]),
            file=getattr(logger, "log_file", None),
        )
    return None


def pictures_of(record: Record) -> Iterator[tuple[str, Pixels, str]]:
    """The record's pictures by name, with their captions; none for a record without pictures."""
    if isinstance(record, Panels):
        for panel in record.panels:
            true = [] if panel.true_overlay is None else [panel.true_overlay]
            parts = [panel.image, *panel.overlays.values(), *true]
            yield f"{record.key}/{slug(panel.sample)}", joined(parts), panel.full_caption(record.epoch)
    elif isinstance(record, Verdicts):
        for index, example in enumerate(record.examples):
            name = f"reliance/examples/{slug(example.class_name)}-{index:03d}"
            change = f"{example.class_name}: {100 * example.before:.0f} % to {100 * example.after:.0f} %"
            yield name, joined([example.original, example.intervened]), f"{change} {example.caption}".strip()
        for strip in record.strips:
            yield f"reliance/regions/{slug(strip.class_name)}", to_pixels(strip.picture.cpu()), strip.caption()


def joined(parts: Sequence[torch.Tensor]) -> Pixels:
    """Pictures (3, H, W) side by side."""
    return to_pixels(side_by_side([part.cpu().unsqueeze(0) for part in parts])[0])
