"""The pictures of a report: film strips, failure cases, interventions and the gallery, small and self-contained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from camtrain.records import CELLS, FAILURES, HEATMAPS
from camtrain.records.formats import Epoch, History, Line, Pass
from camtrain.records.images import data_uri, jpeg, read_mask, read_pixels, to_pixels
from camtrain.records.panels import TILES_ACROSS, TILES_DOWN
from camtrain.render import draw_contours
from camtrain.report.summary import OFF_THE_OBJECT

QUALITY = 84
GALLERY_BYTES = 8_000_000
SHOWN_SIDES = (76, 132)  # of a tile on the page, in pixels
LUCKY = "right for the wrong reason"  # as it is recorded
GONE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # one clear pixel


@dataclass(frozen=True)
class Frame:
    """One probe at one epoch: overlays by method as data URIs, what was said of it then, and how far that moved."""

    epoch: Epoch
    overlays: dict[str, str]
    predicted: str | None
    probability: float | None
    correct: bool | None
    inside_energy: dict[str, float | None]
    moved: float | None = None
    flipped: bool = False


@dataclass(frozen=True)
class Film:
    """One probe over epochs; a frame is None where the probe was not seen."""

    sample: str
    picture: str
    label: str | None
    group: str | None
    frames: list[Frame | None]


@dataclass(frozen=True)
class FailureCase:
    """One failure: the picture, overlays by method, the one for the true class, and what went wrong when."""

    sample: str
    picture: str
    overlays: dict[str, str]
    true_overlay: str | None
    label: str | None
    predicted: str | None
    probability: float | None
    true_probability: float | None
    inside_energy: dict[str, float | None]
    group: str | None
    reason: str
    cell: str | None
    when: str
    chance: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Intervention:
    """One example of a verdict: two pictures and the class's probability on each."""

    original: str
    intervened: str
    before: float | None
    after: float | None
    caption: str


@dataclass(frozen=True)
class Place:
    """Where a class's cue lies: the picture that shows it, and what is said of it."""

    picture: str
    where: str
    alike: int
    images: int


@dataclass(frozen=True)
class GalleryPage:
    """Every image of an audit: sheets of tiles as data URIs, a tile's place in them, and what a script reads.

    `side` is how large a tile is shown; `images` is how many there were, of which `shown` are here.
    """

    sheets: list[str]
    side: int
    shown: int
    images: int
    classes: list[str]
    answers: list[str]
    data: dict[str, Any]
    judged: bool
    masked: bool


class SavedPictures:
    """The pictures in a folder as data URIs, no side longer than `side`; None for a file that is gone."""

    def __init__(self, folder: Path, side: int) -> None:
        self.folder = folder
        self.side = side
        self.plain = cache(self._plain)

    def outlined(self, item: Line) -> str | None:
        """A panel's image with the outline of its object, plain where there is no mask."""
        if item["mask"] is None:
            return self.plain(item["image"])
        try:
            pixels = torch.from_numpy(read_pixels(self.folder / item["image"], self.side)).permute(2, 0, 1)
            mask = read_mask(self.folder / item["mask"], (pixels.shape[1], pixels.shape[2]))
        except (OSError, ValueError):
            return self.plain(item["image"])
        return data_uri(jpeg(to_pixels(draw_contours(pixels.unsqueeze(0), mask.unsqueeze(0))[0]), QUALITY))

    def share(self, item: Line) -> float | None:
        """The object's share of a panel's image, which is the inside energy of an even heatmap; None without a mask."""
        try:
            return None if item["mask"] is None else float(read_mask(self.folder / item["mask"], (64, 64)).mean())
        except (OSError, ValueError):
            return None

    def strip(self, name: str) -> str | None:
        """A picture of many side by side, in full."""
        try:
            return data_uri(jpeg(read_pixels(self.folder / name), QUALITY))
        except (OSError, ValueError):
            return None

    def overlays(self, item: Line) -> dict[str, str | None]:
        """A panel's overlays by method."""
        return {method: self.plain(path) for method, path in item["overlays"].items()}

    def _plain(self, name: str) -> str | None:
        try:
            return data_uri(jpeg(read_pixels(self.folder / name, self.side), QUALITY))
        except (OSError, ValueError):
            return None


def spread(epochs: Sequence[Epoch], most: int) -> list[Epoch]:
    """At most `most` of the epochs, evenly spread, the first and the last among them.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(epochs) <= most:
        return list(epochs)
    return [epochs[round(index * (len(epochs) - 1) / (most - 1))] for index in range(most)]


def film_epochs(history: History, most: int = 12, start: Epoch | None = None) -> list[Epoch]:
    """The epochs that the film strips show: evenly spread, first and last among them, and those around `start`."""
    epochs = list(history.panels.get(HEATMAPS, {}))
    chosen = spread(epochs, most)
    if start is None or len(epochs) <= most:
        return chosen
    around = [max((e for e in epochs if e < start), default=None), min((e for e in epochs if e >= start), default=None)]
    fixed = {epochs[0], epochs[-1], *(epoch for epoch in around if epoch is not None)}
    free = [epoch for epoch in chosen if epoch not in fixed]
    while len(free) + len(fixed) > most:  # those closest to an epoch that has to be shown make room for it
        free.remove(min(free, key=lambda epoch: min(abs(epoch - one) for one in fixed)))
    return sorted(fixed.union(free))


def films(history: History, pictures: SavedPictures, epochs: Sequence[Epoch], most: int = 12) -> list[Film]:
    """The probes over these epochs, those seen most often first come, at most `most` of them."""
    passes = [history.panels[HEATMAPS][epoch] for epoch in epochs]
    seen: dict[str, int] = {}
    for one in passes:
        for item in one.items:
            seen[item["sample"]] = seen.get(item["sample"], 0) + 1
    followed = sorted(seen, key=lambda sample: -seen[sample])[:most]
    return [_film(sample, passes, pictures) for sample in followed]


def failures(
    history: History, pictures: SavedPictures, epoch: Epoch | None, when: str, most: int = 36
) -> list[FailureCase]:
    """The failure cases of the last pass up to an epoch, said to be of `when`."""
    passes = [at for at in history.panels.get(FAILURES, {}) if epoch is not None and at <= epoch]
    items = history.panels[FAILURES][passes[-1]].items if passes else []
    return [_case(item, pictures, when) for item in items[:most]]


def interventions(
    history: History, pictures: SavedPictures, epoch: Epoch | None, most: int = 2
) -> dict[str, list[Intervention]]:
    """By class name, the examples of the last detection up to an epoch, at most `most` of a class."""
    passes = [at for at in history.examples if epoch is not None and at <= epoch]
    found: dict[str, list[Intervention]] = {}
    for item in history.examples[passes[-1]] if passes else []:
        shown = found.setdefault(item["class_name"], [])
        pair = pictures.plain(item["original"]), pictures.plain(item["intervened"])
        if len(shown) < most and pair[0] and pair[1]:
            shown.append(Intervention(pair[0], pair[1], item["before"], item["after"], item["caption"]))
    return found


def places(history: History, pictures: SavedPictures, epoch: Epoch | None) -> dict[str, Place]:
    """By class name, where its cue lay in the last detection up to an epoch."""
    passes = [at for at in history.strips if epoch is not None and at <= epoch]
    found: dict[str, Place] = {}
    for item in history.strips[passes[-1]] if passes else []:
        shown = pictures.strip(item["picture"])
        if shown:
            found[item["class_name"]] = Place(shown, item["where"], item["alike"], item["images"])
    return found


def gallery_page(history: History, folder: Path, budget: int = GALLERY_BYTES) -> GalleryPage | None:
    """The last pass's images; None where none were recorded, or their sheets are gone.

    Sheets get smaller until they fit into the budget, in bytes.
    """
    if not history.galleries:
        return None
    line = history.galleries[max(history.galleries)]
    for factor in (1.0, 0.75, 0.5, 0.35):
        try:
            sheets = [_sheet(folder / name, factor) for name in line["sheets"]]
        except (OSError, ValueError):
            return None
        if sum(map(len, sheets)) <= budget:
            break
    columns = line["columns"]
    labels = sorted({name for kind in ("true", "predicted") for name in columns[kind] if name is not None})
    named = len(labels) <= max(20, len(columns["sample"]) // 2)  # values are as many as images
    return GalleryPage(
        sheets=sheets,
        side=min(max(line["side"], SHOWN_SIDES[0]), SHOWN_SIDES[1]),
        shown=len(columns["sample"]),
        images=line["images"],
        classes=sorted({name for name in columns["true"] if name is not None}) if named else [],
        answers=labels if named else [],
        data=_packed(columns, labels),
        judged=any(right is not None for right in columns["right"]),
        masked=any(value is not None for value in columns["inside_energy"]),
    )


def _sheet(path: Path, factor: float) -> str:
    pixels = read_pixels(path)
    side = None if factor == 1.0 else round(factor * max(pixels.shape[:2]))
    return data_uri(jpeg(read_pixels(path, side), QUALITY if factor == 1.0 else 70))


def _packed(columns: Mapping[str, Sequence[Any]], labels: list[str]) -> dict[str, Any]:
    """Columns as a page of ten thousand rows can hold them: classes and cells by place, shares in thousandths."""
    place = {name: index for index, name in enumerate(labels)}
    shares = {name: [_thousandths(v) for v in columns[name]] for name in ("probability", "inside_energy", "chance")}
    return {
        "labels": labels,
        "across": TILES_ACROSS,
        "down": TILES_DOWN,
        "sample": list(columns["sample"]),
        "true": [place.get(name, -1) for name in columns["true"]],
        "predicted": [place.get(name, -1) for name in columns["predicted"]],
        "right": [-1 if right is None else int(right) for right in columns["right"]],
        "cell": [-1 if cell is None else CELLS.index(cell) for cell in columns["cell"]],
        **shares,
    }


def _thousandths(value: float | None) -> int:
    return -1 if value is None else round(1000 * value)


def _film(sample: str, passes: Sequence[Pass], pictures: SavedPictures) -> Film:
    found = [next((item for item in one.items if item["sample"] == sample), None) for one in passes]
    first = next(item for item in found if item is not None)
    frames = [
        None if item is None else _frame(one.epoch, item, pictures) for one, item in zip(passes, found, strict=True)
    ]
    return Film(sample, pictures.outlined(first) or GONE, first["label_name"], first["group_name"], frames)


def _frame(epoch: Epoch, item: Line, pictures: SavedPictures) -> Frame:
    overlays = {method: uri for method, uri in pictures.overlays(item).items() if uri}
    move = item.get("since_last")
    return Frame(
        epoch=epoch,
        overlays=overlays,
        predicted=item["predicted_name"],
        probability=item["probability"],
        correct=_correct(item),
        inside_energy=item["inside_energy"],
        moved=None if move is None else move["rank_correlation"],
        flipped=bool(item.get("flipped")),
    )


def _case(item: Line, pictures: SavedPictures, when: str) -> FailureCase:
    true = item.get("true_overlay")
    return FailureCase(
        sample=item["sample"],
        picture=pictures.outlined(item) or GONE,
        overlays={method: uri for method, uri in pictures.overlays(item).items() if uri},
        true_overlay=pictures.plain(true) if true else None,
        label=item["label_name"] if item["label"] is not None else None,
        predicted=item["predicted_name"],
        probability=item["probability"],
        true_probability=item["true_probability"],
        inside_energy=item["inside_energy"],
        group=item["group_name"],
        reason=_reason(item),
        cell=item["cell"],
        when=when,
        chance=pictures.share(item),
        words=item.get("words", ""),
    )


def _reason(item: Line) -> str:
    """As recorded; a right answer is said to be off the object, since its heat alone is no verdict."""
    recorded = item.get("reason") or ("confidently wrong" if _correct(item) is False else LUCKY)
    return OFF_THE_OBJECT if recorded == LUCKY else str(recorded)


def _correct(item: Line) -> bool | None:
    if item.get("outcome"):
        return bool(item["outcome"] == "right")
    known = item["label"] is not None and item["predicted"] is not None
    return item["label"] == item["predicted"] if known else None
