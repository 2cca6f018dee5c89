"""Images and masks in files: what belongs to an image, how it is read, and how bad files are found early."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camtrain.errors import DataError, MaskError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
VERIFY = ("decode", "headers", "none")


@dataclass(frozen=True)
class Sample:
    """An image file with its annotation.

    Attributes:
        image: the image file.
        label: class index.
        mask: the mask file; None where there is no annotation.
        group: group index; None in a dataset without groups.
        split: "train", "val" or "test" where the files say so.
        id: a name, unique in the dataset.
    """

    image: Path
    label: int
    mask: Path | None = None
    group: int | None = None
    split: str | None = None
    id: str = ""


def read_image(path: Path) -> Tensor:
    """RGB image uint8 `(3, H, W)`; gray images are repeated over the channels.

    Raises:
        DataError: when the file is missing, truncated or no image, naming it.
    """
    with _naming(path), Image.open(path) as file:
        pixels = np.array(file.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_mask(path: Path, soft: bool = False) -> Tensor:
    """Mask float `(H, W)`.

    Args:
        path: an image file of any mode: bilevel, gray, palette (0 is the background), color.
        soft: False reads every pixel that is not 0 as 1; True reads gray values 0..255 as 0..1.

    Raises:
        DataError: when the file is missing, truncated or no image, naming it.
    """
    with _naming(path), Image.open(path) as file:
        values = np.array(file.convert("L") if soft else file)
    if soft:
        return torch.from_numpy(values.astype(np.float32) / 255)
    colors = values.reshape(*values.shape[:2], -1)
    opaque = colors.shape[-1] - (colors.shape[-1] in (2, 4))  # an alpha channel says nothing
    return torch.from_numpy((colors[..., :opaque] != 0).any(-1).astype(np.float32))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the file's header."""
    with _naming(path), Image.open(path) as file:
        return file.height, file.width


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, in a fixed order; hidden files are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in found if not path.name.startswith("."))


def require_folder(folder: Path, role: str) -> Path:
    """The folder, if there is one; else a `DataError` that names what it was for."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} for {role}. Set the path to an existing folder.")
    return folder


def check_samples(samples: Sequence[Sample], verify: str = "decode", skip_corrupt: bool = False) -> list[Sample]:
    """Open every image and mask before they are needed.

    Args:
        samples: what to check.
        verify: "decode" reads every file to its end, "headers" reads sizes only, "none" trusts them all.
        skip_corrupt: leave corrupt images out, with a warning that counts and names them, instead of raising.

    Returns:
        The samples that can be read.

    Raises:
        DataError: for the first corrupt or missing image or mask, naming it.
        MaskError: for a mask of another size than its image.
    """
    if verify not in VERIFY:
        raise DataError(f"verify is one of {', '.join(VERIFY)}; got {verify!r}.")
    if verify == "none":
        return list(samples)
    with ThreadPoolExecutor(4) as pool:
        problems = list(pool.map(lambda sample: _problem(sample, verify), samples))
    bad = [problem for problem in problems if problem is not None]
    if bad and (not skip_corrupt or any(isinstance(problem, MaskError) for problem in bad)):
        raise next((problem for problem in bad if isinstance(problem, MaskError)), bad[0])
    if bad:
        shown = "; ".join(str(problem).split(":")[0] for problem in bad[:3])
        warnings.warn(f"Skipped {len(bad)} of {len(samples)} images: {shown}", UserWarning, stacklevel=2)
    return [sample for sample, problem in zip(samples, problems, strict=True) if problem is None]


def _problem(sample: Sample, verify: str) -> DataError | MaskError | None:
    try:
        size = _checked_size(sample.image, verify)
        mask_size = size if sample.mask is None else _checked_size(sample.mask, verify)
    except DataError as error:
        return error
    if mask_size == size:
        return None
    return MaskError(
        f"A mask has the size of its image: {sample.mask} is {mask_size[1]}x{mask_size[0]}, {sample.image} is "
        f"{size[1]}x{size[0]}. Resize the mask (nearest neighbor) or correct the pair."
    )


def _checked_size(path: Path, verify: str) -> tuple[int, int]:
    if verify == "headers":
        return image_size(path)
    with _naming(path), Image.open(path) as file:
        file.load()
        return file.height, file.width


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}. Restore it or remove its entry.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as an image: {error}. Replace or remove it, or set skip_corrupt=True."
        ) from error
