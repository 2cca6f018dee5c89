"""A canary in a folder of images: a planted copy of the same layout, and the truth about it."""

import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from camtrain.data.canary import Canary
from camtrain.data.files import Sample, read_image
from camtrain.data.folders import MaskedImageFolder
from camtrain.errors import ConfigurationError, DataError

_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95},
}  # a cue must outlive the encoding
_TEXTS = (".json", ".xml", ".yaml", ".yml", ".txt", ".csv", ".tsv")
_OPTIONS[".jpeg"] = _OPTIONS[".jpg"]


@dataclass(frozen=True)
class Planted:
    """One image of the copy: its name in the dataset, its class, and whose cue it shows (None for no cue)."""

    id: str
    label: int
    shown: int | None
    split: str | None = None


@dataclass(frozen=True)
class Planter:
    """Plants a canary into the images of a folder.

    Attributes:
        dataset: the images; an image's number in it is its key.
        canary: what is planted.
        independent: splits whose cues have nothing to do with the label, as a test set's.
    """

    dataset: MaskedImageFolder
    canary: Canary
    independent: Collection[str] = ()

    def canary_of(self, sample: Sample) -> Canary:
        """The canary as the sample's split has it."""
        return self.canary.randomized() if sample.split in self.independent else self.canary

    def plan(self, index: int) -> Planted:
        """Whose cue an image will show; a background shows nothing where there is no mask."""
        sample = self.dataset.samples[index]
        label, key = torch.tensor([sample.label]), torch.tensor([index])
        shown = int(self.canary_of(sample).shown(label, key))
        lacks_mask = self.canary.kind == "background" and not (sample.mask or sample.regions)
        return Planted(sample.id, sample.label, None if shown < 0 or lacks_mask else shown, sample.split)

    def planted(self, index: int) -> UInt8[Tensor, "3 H W"]:
        """The image with its cue."""
        sample = self.dataset.samples[index]
        image = read_image(sample.image, self.dataset.image_rule).float() / 255
        mask = self.dataset.read_mask(sample)
        masks = (torch.full(image.shape[1:], -1.0) if mask is None else mask).unsqueeze(0)
        label, key = torch.tensor([sample.label]), torch.tensor([index])
        changed = self.canary_of(sample)(image.unsqueeze(0), label, key, masks)[0]
        return (changed * 255).round().clamp(0, 255).to(torch.uint8)


def plant_folder(
    planter: Planter, root: Path, out: Path, *, index: str | None = None, done: Callable[[int], object] = lambda n: None
) -> tuple[Planted, ...]:
    """Write the planted copy of `root` to `out`: images anew, all of them alike; masks and texts as they are.

    Args:
        planter: the images below `root`, and the canary.
        root: the folder of the dataset.
        out: a folder that is empty or does not exist, outside of `root`.
        index: the index file below `root`, where there is one.
        done: hears of every image.

    Raises:
        DataError: for an `out` that is in use or lies in `root`, images or masks outside of `root`, a full disk.
        ConfigurationError: for a background without any mask.
    """
    _require_place(root, out)
    samples = planter.dataset.samples
    if planter.canary.kind == "background" and not any(sample.mask or sample.regions for sample in samples):
        raise ConfigurationError("A canary in the background needs masks: name their folder, or plant another kind.")
    shapes = any(sample.regions for sample in samples)
    copied = [mask for sample in samples for mask in sample.masks]

    def write(number: int) -> None:
        target = _place(samples[number].image, root, out)
        pixels = planter.planted(number).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(target, **_OPTIONS.get(target.suffix.lower(), {}))
        done(number)

    try:
        for file in [*copied, *([root / index] if index else []), *(_annotations(root) if shapes else [])]:
            shutil.copyfile(file, _place(file, root, out))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(len(samples))))
    except OSError as error:
        raise DataError(f"Cannot write the planted copy to {out}: {error}.") from error
    return tuple(map(planter.plan, range(len(samples))))


def agreement(planted: Sequence[Planted]) -> dict[int, float]:
    """By class, the share of its images that show its own cue.

    >>> agreement([Planted("a", 0, 0), Planted("b", 0, 1), Planted("c", 1, None)])
    {0: 0.5, 1: 0.0}
    """
    found = {}
    for c in sorted({one.label for one in planted}):
        own = [one.shown == c for one in planted if one.label == c]
        found[c] = sum(own) / len(own)
    return found


def _require_place(root: Path, out: Path) -> None:
    inside = root.resolve()
    if out.resolve() == inside or inside in out.resolve().parents:
        raise DataError(f"{out} lies in {root}, and would be read as images of it: name a folder beside it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is in use: name a folder that is empty or does not exist.")


def _annotations(root: Path) -> list[Path]:
    """Whatever may hold shapes: a data set of YOLO names one file and means hundreds."""
    return [path for path in root.rglob("*") if path.suffix.lower() in _TEXTS and path.is_file()]


def _place(file: Path, root: Path, out: Path) -> Path:
    """Where a file's copy goes, its folder made."""
    target = out / _below(root, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _below(root: Path, file: Path) -> Path:
    try:
        return file.resolve().relative_to(root.resolve())
    except ValueError as error:
        raise DataError(f"{file} lies outside of {root}; a copy keeps the layout of one folder.") from error
