"""Images in files: opened upright, read as bytes, refused by name where they cannot be read."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from camtrain.data.shapes import Shape
from camtrain.errors import CamtrainError, ConfigurationError, DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tif", ".tiff", ".gif", ".avif", ".jp2", ".j2k", ".tga"),
)
ORIENTATION = 0x0112  # the EXIF tag
VOLUMES = (".nii", ".nii.gz", ".dcm")
HALVED = "camtrain: 16 bits read as 8"  # in the facts that Pillow keeps of a picture
SAMPLES = 0x0115  # the TIFF tag of the channels
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# Photographs and arrays that are not read: to leave them out without a word would change the data.
_FOREIGN = (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".exr", ".jxl", ".npy", ".npz")
_WHITE_IS_ZERO = 0  # of the TIFF tag PhotometricInterpretation
PHOTOMETRIC = 0x0106
_EXIF = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")

Array = NDArray[Any]

_log = logging.getLogger("camtrain")


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
        more_masks: further mask files of the image, united with the first.
        regions: shapes whose union is the mask, where annotations take the place of mask files.
        size: height and width that the annotations state.
    """

    image: Path
    label: int
    mask: Path | None = None
    group: int | None = None
    split: str | None = None
    id: str = ""
    more_masks: tuple[Path, ...] = ()
    regions: tuple[Shape, ...] | None = None
    size: tuple[int, int] | None = None

    @property
    def masks(self) -> tuple[Path, ...]:
        """All mask files."""
        return () if self.mask is None else (self.mask, *self.more_masks)


@dataclass(frozen=True)
class ImageRule:
    """How image files are read.

    Attributes:
        channels: 1, 3 or 4: gray, RGB, RGB with alpha.
        value_range: the values that are black and white in files of more than 8 bits; None for 0 and 65535 of 16 bits,
            where the file makes use of them, and 0 and 1 of floating point.
        upright: turn photographs as their EXIF orientation says, as every viewer does.
    """

    channels: int = 3
    value_range: Sequence[int | float] | None = None
    upright: bool = True

    def __post_init__(self) -> None:
        if self.channels not in _MODES:
            raise ConfigurationError(f"channels is 1, 3 or 4; got {self.channels}.")
        if self.value_range is not None and not (
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
        ):
            raise ConfigurationError(f"image_range is [black, white], black below white; got {self.value_range}.")


def read_image(path: Path, rule: ImageRule = ImageRule()) -> UInt8[Tensor, "C H W"]:
    """Image as bytes, upright; gray images are repeated over the channels.

    Raises:
        DataError: when the file is missing, truncated, animated, too large or no image, or has more than 8 bits and
            does not use their range, naming it.
    """
    return read_interleaved(path, rule).contiguous()


def read_interleaved(path: Path, rule: ImageRule = ImageRule()) -> UInt8[Tensor, "C H W"]:
    """`read_image` with the channels of a pixel side by side, as decoders leave them and resizing is fastest."""
    with opened(path, rule.upright, rule.channels) as image:
        _require_range(image, path, rule)
        if image.mode in _WIDE:
            pixels = _narrowed(image, path, rule.value_range)
            image = Image.fromarray(pixels)
        mode = _MODES[rule.channels]
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def image_size(path: Path, upright: bool = True) -> tuple[int, int]:
    """Height and width from the file's header, as the image is shown."""
    with _naming(path), Image.open(path) as file:
        turned = upright and file.format != "TIFF" and orientation_of(file) > 4  # Pillow itself turns a TIFF's
        return (file.width, file.height) if turned else (file.height, file.width)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright."""
    if not any(key in image.info for key in _EXIF):
        return 1
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def check_image(path: Path, rule: ImageRule) -> tuple[tuple[int, int], int]:
    """Height and width of a picture that can be read to its end, and its EXIF orientation."""
    with opened(path, upright=False, channels=rule.channels) as image:
        _require_range(image, path, rule)
        if image.mode in _WIDE:
            _narrowed(image, path, rule.value_range)
        orientation = orientation_of(image)
        turned = rule.upright and orientation > 4
        return ((image.width, image.height) if turned else (image.height, image.width)), orientation


@contextmanager
def opened(path: Path, upright: bool = True, channels: int = 3) -> Iterator[Image.Image]:
    """The decoded picture of a file, upright; whatever the decoder meets is a `DataError` that names the file.

    A file of more channels than can be read, or than the decoder would give of those that are asked for, is one, too.
    """
    with _naming(path), Image.open(path) as file:
        # A phone's MPO holds the photograph first; an animation or a stack has no first among equals.
        frames = getattr(file, "n_frames", 1) if file.format != "MPO" else 1
        if frames > 1:
            raise DataError(
                f"{path} holds {frames} pictures (an animation, or a stack of pages): save the one that is meant, "
                "remove the file, or set skip_corrupt=True."
            )
        tags = file.tag_v2 if isinstance(file, TiffImagePlugin.TiffImageFile) else None
        samples = 0 if tags is None else tags.get(SAMPLES, 1)
        if samples > (len(file.getbands()) if channels > 3 else max(_MODES)):
            raise _too_many(path, samples)  # Pillow gives the first three in silence
        mapped = file.mode != "RGB" and any(tile[0] == "raw" for tile in file.tile)  # into memory, at the turned size
        if tags is not None and mapped and tags.get(ORIENTATION, 1) > 4:
            raise DataError(
                f"{path} is a TIFF without compression, not in RGB, whose orientation is a quarter turn, of "
                "which Pillow mixes up the pixels. Save it turned, or with compression, or set skip_corrupt=True."
            )
        if tags is not None and file.mode in _WIDE and tags.get(PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise DataError(
                f"{path} is a TIFF of more than 8 bits whose white is 0, which readers show inverted or as it is. "
                "Save it with black as 0, or set skip_corrupt=True."
            )
        image: Image.Image = file
        image.info[HALVED] = _is_halved(file)
        image.load()
        if upright and orientation_of(file) > 1:
            image = ImageOps.exif_transpose(file)
            image.format = file.format
        yield image


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, in a fixed order; hidden files are left out."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def files_below(folder: Path) -> Iterator[Path]:
    """The files below a folder and below links to folders; not hidden ones, nor a folder within itself."""
    for place, folders, names in os.walk(folder, followlinks=True):
        for link in [path for name in folders if (path := Path(place, name)).is_symlink()]:
            if Path(place).resolve().is_relative_to(link.resolve()):
                folders.remove(link.name)  # it leads to what holds it, and would be walked for ever
        yield from (Path(place, name) for name in names if not name.startswith("."))


def say_foreign(folder: Path) -> None:
    """A line on photographs and arrays among the images that are of no format that is read."""
    suffixes = Counter(suffix for path in files_below(folder) if (suffix := path.suffix.lower()) in _FOREIGN)
    if suffixes:
        shown = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.items())
        announce(f"left out of {folder}, since such files are not read: {shown}. Save them as PNG or JPEG")


def require_folder(folder: Path, role: str) -> Path:
    """The folder, if there is one; else a `DataError` that names what it was for."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} for {role}. Set the path to an existing folder.")
    return folder


def about_volumes(paths: Iterable[Path]) -> str:
    """A sentence for an error where the first of some files that is a volume is no picture; "" where none is."""
    first = next((path for path in paths if path.name.lower().endswith(VOLUMES)), None)
    return (
        ""
        if first is None
        else (
            f" {first.name} is a volume: camtrain.data.volumes.VolumeFolder reads those, for loaders of your own; data "
            "modules and commands read pictures."
        )
    )


def announce(line: str) -> None:
    """Say a line that a person should see, by the logger "camtrain"; on the terminal where nobody set up logging."""
    if not _log.handlers and not logging.getLogger().handlers:
        _log.addHandler(logging.StreamHandler())
    if not _log.isEnabledFor(logging.INFO) and _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    _log.info(line)


def _is_halved(file: Image.Image) -> bool:
    """Whether the decoder keeps the upper 8 of 16 bits of a file of several channels."""
    return file.mode not in _WIDE and any(";16" in str(tile[3]) for tile in getattr(file, "tile", ()))


def _require_range(image: Image.Image, path: Path, rule: ImageRule) -> None:
    """Refuse a file of several channels of 16 bits, of which the upper 8 are read, where these do not hold it."""
    if not image.info.get(HALVED):
        return
    colors = np.array(image)[..., : 1 if image.mode == "LA" else 3]
    if rule.value_range is not None or colors.max(initial=0) < 128:
        raise DataError(
            f"{path} has several channels of 16 bits, of which the upper 8 are read; these go up to "
            f"{colors.max(initial=0)} of 255{'' if rule.value_range is None else ', and image_range cannot be applied'}"
            ". Save it with 8 bits, scaled as it is meant, or set skip_corrupt=True."
        )


def _narrowed(image: Image.Image, path: Path, given: Sequence[int | float] | None) -> Array:
    """Values of more than 8 bits as bytes."""
    values = np.array(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise DataError(f"{path} has values that are not finite. Replace them, or set skip_corrupt=True.")
    black, white = given or _natural_range(values, image.format or "", path, low, high)
    scaled = (values.astype(np.float32) - black) * (255 / (white - black))
    clipped: Array = np.clip(scaled, 0, 255).round().astype(np.uint8)
    return clipped


def _natural_range(values: Array, kind: str, path: Path, low: float, high: float) -> Sequence[int | float]:
    """What is black and white where nothing is given: only where the file leaves no doubt."""
    if values.dtype.kind == "f":
        if low >= 0 and high <= 1:
            return 0, 1
        held = f"floating point values from {low:g} to {high:g}, not from 0 to 1"
    elif values.dtype.kind == "u" or (values.dtype == np.int32 and kind in ("PNG", "PPM") and low >= 0):
        if high >= 1 << 15:
            return 0, (1 << 16) - 1
        held = f"16 bits, of which it uses values up to {high:.0f}"
    else:
        held = f"32 bits, and values from {low:.0f} to {high:.0f}"
    bits = next((bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits), 0)
    guess = f"[0, {(1 << bits) - 1}]" if low >= 0 and bits and values.dtype.kind != "f" else f"[{low:g}, {high:g}]"
    raise DataError(
        f"{path} has {held}: set image_range to the values that are black and white in all files, for instance {guess}."
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except CamtrainError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}. Restore it or remove its entry.") from error
    except UnidentifiedImageError as error:
        if (samples := _samples_of(path)) > max(_MODES):
            raise _too_many(path, samples) from error
        raise _unreadable(path, error) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large: {error}. Scale it down, raise PIL.Image.MAX_IMAGE_PIXELS if you trust it, or set "
            "skip_corrupt=True."
        ) from error
    except Exception as error:  # decoders raise nearly anything over a broken file
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as an image: {error or type(error).__name__}. Replace or remove it, or set "
        f"skip_corrupt=True.{about_volumes([path])}"
    )


def _too_many(path: Path, samples: int) -> DataError:
    return DataError(
        f"{path} has {samples} channels; files of 1, 3 or 4 (RGB with alpha) are read whole. Save the channels that "
        "are meant as a file of three, read it in a dataset of your own, or set skip_corrupt=True."
    )


def _samples_of(path: Path) -> int:
    """The channels that the head of a TIFF states; 0 where it is none, or broken."""
    try:
        with path.open("rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            return int(tags.get(SAMPLES, 0))
    except Exception:  # whatever the head of a broken file leads to
        return 0
