"""Mask files: 0 and one other value are a mask; else a file is refused with its values, until a line explains them.

mask_values: [1]                  the object's values (a trimap: 1 animal, 2 background, 3 border)
mask_values: {cat: 8, dog: 12}    by class (a label map)
ignore_value: 255                 unknown pixels, -1 in the mask: neither inside nor outside
mask_channel: alpha               of a cut-out; color where the alpha channel is to be left out
mask_from: instances              every value but 0 is an object
mask_from: attention              maps of where people looked, each scaled by its maximum
soft_masks: true                  degrees, scaled by the file's bits
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from camtrain.data.files import HALVED, opened
from camtrain.errors import ConfigurationError, MaskError

Value = int | str
Values = Value | Sequence[Value]
CHANNELS = ("alpha", "color", "red", "green", "blue")
SOURCES = ("values", "instances", "attention")
MOST_VALUES = 6  # shown in an error
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")
_GRAY = 0x010101
FULL, FAR = 0.95, 4.0  # share of the frame that is suspicious; times the usual area that is
FAINTEST = 128  # of an object in a lossy file: a label map of 0, 1 and 2 may come back as 0 and 2
MOST_TINT = 40  # between the channels of a gray file, after compression

Array = NDArray[Any]


@dataclass(frozen=True)
class MaskRule:
    """What the values of mask files mean.

    Attributes:
        values: of the object: numbers, or colors as "#rrggbb"; by class name; None for the one beside 0.
        ignore: of unknown pixels.
        channel: one of `CHANNELS`; None where the file leaves no doubt.
        instances: every value but 0 is an object.
        soft: values are degrees, not kinds.
        attention: degrees of any scale, each file's maximum is 1.
        upright: turn files as their EXIF orientation says.
    """

    values: tuple[Value, ...] | Mapping[str, tuple[Value, ...]] | None = None
    ignore: tuple[Value, ...] = ()
    channel: str | None = None
    instances: bool = False
    soft: bool = False
    attention: bool = False
    upright: bool = True

    def of_class(self, name: str | None) -> tuple[Value, ...] | None:
        """The object's values in the mask of an image of a class."""
        if not isinstance(self.values, Mapping):
            return self.values
        if name is None or name not in self.values:
            raise MaskError(f"mask_values has no class {name!r}; it has {list(self.values)}. Add its values.")
        return self.values[name]


def mask_rule(
    *,
    mask_values: Values | Mapping[str, Values] | None = None,
    ignore_value: Values | None = None,
    mask_channel: str | None = None,
    mask_from: str = "values",
    soft_masks: bool = False,
    upright: bool = True,
) -> MaskRule:
    """The rule from the words of a configuration; words that exclude each other are a `ConfigurationError`.

    >>> mask_rule(mask_values={"cat": 8, "dog": [12, 13]}, ignore_value=255).of_class("cat")
    (8,)
    """
    if mask_channel not in (None, *CHANNELS):
        raise ConfigurationError(f"mask_channel is one of {', '.join(CHANNELS)}; got {mask_channel!r}.")
    if mask_from not in SOURCES:
        raise ConfigurationError(f"mask_from is one of {', '.join(SOURCES)}; got {mask_from!r}.")
    if soft_masks and (mask_values is not None or mask_from == "instances"):
        raise ConfigurationError("soft_masks reads values as degrees: leave out mask_values and mask_from.")
    if mask_values is not None and mask_from != "values":
        raise ConfigurationError(f"mask_from: {mask_from} takes every value but 0: leave out mask_values.")
    values: Any = mask_values
    if isinstance(mask_values, Mapping):
        values = {str(name): _tuple("mask_values", given) for name, given in mask_values.items()}
    elif mask_values is not None:
        values = _tuple("mask_values", mask_values)
    ignore = () if ignore_value is None else _tuple("ignore_value", ignore_value)
    attention = mask_from == "attention"
    return MaskRule(values, ignore, mask_channel, mask_from == "instances", soft_masks or attention, attention, upright)


@dataclass(frozen=True)
class MaskFacts:
    """What was met in the mask of an image.

    Attributes:
        size: height and width.
        covered: share of the pixels that is the object.
        unknown: share that is unknown.
        touches: the object reaches the border.
        corners: it fills all four corners and not the whole, as the background does.
        cut: the file has values in between, which were cut at half.
        values: share of the pixels of each value met, the most frequent first.
    """

    size: tuple[int, int]
    covered: float
    unknown: float = 0.0
    touches: bool = False
    corners: bool = False
    cut: bool = False
    values: tuple[tuple[Value, float], ...] = ()


def read_mask(path: Path, rule: MaskRule = MaskRule(), class_name: str | None = None) -> Float[Tensor, "H W"]:
    """A mask: 1 the object, 0 the rest, -1 unknown.

    Args:
        path: an image file of any mode: bilevel, gray of any depth, palette (its indices count), color.
        rule: what its values mean.
        class_name: of the image, where the rule gives values by class.

    Raises:
        DataError: when the file is missing, truncated or no image, naming it.
        MaskError: when its values are not what the rule says, with their shares and what to write.
    """
    return torch.from_numpy(read_mask_array(path, rule, class_name)[0])


def read_mask_array(path: Path, rule: MaskRule, class_name: str | None = None) -> tuple[NDArray[np.float32], bool]:
    """The mask as `read_mask` gives it, and whether values in between were cut at half."""
    pixels = _decode(path, rule)
    if rule.soft:
        return _degrees(pixels, rule), False
    inside, unknown, cut = _kinds(pixels, rule, rule.of_class(class_name))
    mask = inside.astype(np.float32)
    if unknown is not None:
        mask[unknown] = -1
    return mask, cut


def mask_facts(mask: NDArray[np.float32], cut: bool = False, values: Sequence[tuple[Value, float]] = ()) -> MaskFacts:
    """Cover, unknown share and contact with the border of a mask `(H, W)`."""
    lowest, pixels = mask.min(initial=0), max(mask.size, 1)
    unknown = float(np.count_nonzero(mask == -1)) / pixels if lowest < 0 else 0.0
    inside = mask > 0.5
    edges = (inside[:1], inside[-1:], inside[:, :1], inside[:, -1:])
    covered = float(np.count_nonzero(inside)) / pixels
    height, width = mask.shape
    corners = bool(inside.size and inside[[0, 0, -1, -1], [0, -1, 0, -1]].all()) and covered + unknown < FULL
    touches = any(edge.any() for edge in edges)
    return MaskFacts((height, width), covered, unknown, touches, corners, cut, tuple(values))


def odd_about(facts: MaskFacts, usual: float = 0.0) -> tuple[str, float]:
    """What to say of a mask, and how odd it is: empty, full, of another size than is usual, at the border.

    >>> odd_about(MaskFacts((8, 8), 0.0)), odd_about(MaskFacts((8, 8), 0.25), usual=0.25)
    (('empty', 5.0), ('25% of the frame', 0.0))
    """
    if facts.covered == 0:
        return "empty", 5.0
    share = f"{facts.covered:.0%} of the frame" if facts.covered >= 0.01 else f"{facts.covered:.2%} of the frame"
    if facts.covered + facts.unknown >= FULL:
        return f"{share}: hardly any background", 4.0 + facts.covered
    if facts.corners:
        return f"{share}, all corners: the background?", 3.8
    times = facts.covered / usual if usual else 1.0
    odd = abs(math.log(times))
    if odd > math.log(FAR):
        return f"{share}, {times:.2g} times the usual", 2.0 + min(odd / 10, 1.5)
    if facts.touches:
        return f"at the border, {share.split()[0]}", 1.0 + odd / 10
    return share, odd / 10


def value_shares(path: Path, rule: MaskRule) -> tuple[tuple[Value, float], ...]:
    """Each value of a mask file and its share of the pixels, the most frequent first."""
    pixels = _decode(path, rule)
    return _shares(pixels.values, pixels.colored)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """A mask file as numbers: gray values, palette indices or packed colors."""

    path: Path
    values: Array
    colored: bool
    lossy: bool = False
    palette: list[int] | None = None
    bilevel: bool = False


def _decode(path: Path, rule: MaskRule) -> _Pixels:
    with opened(path, rule.upright) as image:
        lossy = image.format in _LOSSY and not (image.format == "WEBP" and _is_lossless_webp(path))
        if image.info.get(HALVED) and not rule.soft:
            raise MaskError(
                f"{path} is a mask of several channels of 16 bits, of which the upper 8 are read: values below 256 "
                "would be lost. Save it as a gray PNG of 8 or 16 bits."
            )
        if rule.channel in ("red", "green", "blue", "alpha"):
            return _Pixels(path, _channel(image, rule.channel, path), False, lossy)
        alpha = None if rule.channel == "color" else _alpha(image)
        palette = image.getpalette("RGB") if image.mode == "P" and not rule.soft else None
        if (image.mode == "P" and rule.soft) or image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La"):
            image = image.convert("RGB")
        values = np.array(image)
    if palette and (grays := _grays(values, np.reshape(palette, (-1, 3)))) is not None:
        values, palette = grays, None
    colored = False
    bilevel = values.dtype == bool
    values = values.view(np.uint8) if bilevel else values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 3:
        values, colored = _colors(values, lossy, path)
    if alpha is not None and not np.array_equal(alpha > 0, values != 0):
        raise MaskError(
            f"{path} has an alpha channel that covers {_percent((alpha > 0).mean())} of the image, and colors that "
            f"cover {_percent((values != 0).mean())}: say which of them is the mask by mask_channel: alpha or "
            "mask_channel: color."
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise MaskError(f"{path} has values that are not finite. Replace them by 0, 1 or an ignore_value.")
    return _Pixels(path, values, colored, lossy, palette, bilevel)


def _is_lossless_webp(path: Path) -> bool:
    with path.open("rb") as file:
        return b"VP8L" in file.read(4096)


def _alpha(image: Image.Image) -> Array | None:
    """The alpha channel where it says something."""
    if image.mode not in ("LA", "PA", "RGBA", "La", "RGBa") and "transparency" not in image.info:
        return None
    alpha = np.array(image.convert("RGBA").getchannel("A"))
    return None if alpha.min(initial=255) == alpha.max(initial=0) else alpha


def _channel(image: Image.Image, name: str, path: Path) -> Array:
    if name == "alpha":
        if not (image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info):
            raise MaskError(f"{path} has no alpha channel (its mode is {image.mode}). Set mask_channel to another.")
        return np.array(image.convert("RGBA").getchannel("A"))
    return np.array(image.convert("RGB").getchannel(name[0].upper()))


def _grays(indices: Array, palette: Array) -> Array | None:
    """The gray values of a palette that is no more than that (a GIF's), which are what was saved; else None."""
    used = palette[: int(indices.max(initial=0)) + 1]
    is_gray = (used[:, 0] == used[:, 1]).all() and (used[:, 0] == used[:, 2]).all()
    if is_gray and used[0, 0] == used[:, 0].min() and len(np.unique(used[:, 0])) == len(used):
        return np.asarray(used[:, 0].astype(np.uint8)[indices])
    return None


def _light_first(pixels: _Pixels) -> bool:
    """Is index 0, the background of a palette, lighter than the one other color in use: then it may be the object."""
    other = 3 * int(pixels.values.max(initial=0))
    palette = pixels.palette
    if palette is not None and not other:
        return sum(palette[:3]) > 0  # nothing but index 0, which is not black
    return palette is not None and other + 2 < len(palette) and sum(palette[:3]) > sum(palette[other : other + 3])


def _colors(values: Array, lossy: bool, path: Path) -> tuple[Array, bool]:
    """Gray values where all channels agree, the brightest channel of a lossy file, else packed colors."""
    colors = values[..., : values.shape[-1] - (values.shape[-1] in (2, 4))]
    if colors.shape[-1] == 1:
        return colors[..., 0], False
    red, green, blue = (colors[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red), False
    if lossy:
        if np.ptp(colors.astype(np.int16), axis=-1).max(initial=0) > MOST_TINT:
            raise MaskError(
                f"{path} is a mask of several colors in a lossy format, which has changed them: save it as PNG, or set "
                "mask_channel to the channel that holds the mask."
            )
        return colors.max(-1), False
    return (red.astype(np.int32) << 16) | (green.astype(np.int32) << 8) | blue, True


def _kinds(pixels: _Pixels, rule: MaskRule, chosen: tuple[Value, ...] | None) -> tuple[Array, Array | None, bool]:
    """Which pixels are the object, which are unknown, and whether values in between were cut."""
    values, cut = pixels.values, False
    if pixels.lossy and not _is_plain(values):
        threshold = _between_two_levels(values, lossy=True)
        if threshold is None:
            raise _refusal(pixels, "a lossy format has changed its values; save masks as PNG")
        values, cut = np.where(values > threshold, np.uint8(255), np.uint8(0)), True
    elif pixels.lossy and 0 < values.max() < FAINTEST:
        raise _refusal(pixels, "values as low as compression noise are not what a lossy format was given; save as PNG")
    unknown = None
    if rule.ignore:
        unknown = _among(values, rule.ignore, pixels.colored)
        values = np.where(unknown, values.dtype.type(0), values)
    if chosen is not None:
        inside = _among(values, chosen, pixels.colored)
        return (inside if unknown is None else inside & ~unknown), unknown, cut
    inside = values != 0
    everywhere = inside if unknown is None else inside | unknown
    if everywhere.all() and inside.any():
        raise _refusal(pixels, "no pixel is background (0)")
    if not rule.instances and not _is_plain(values):
        threshold = None if pixels.colored else _between_two_levels(values, lossy=False)
        if threshold is None:
            raise _refusal(pixels, "a mask has 0 and one other value")
        inside, cut = values > threshold, True
    elif not rule.instances and _light_first(pixels):
        raise _refusal(pixels, "its palette has the background, index 0, lighter than the object")
    return inside, unknown, cut


def _is_plain(values: Array) -> bool:
    """Is there one value beside 0 at the most."""
    highest, inside = values.max(initial=0), values != 0
    return bool(np.array_equal(values == highest, inside)) if highest > 0 else not inside.any()


def _among(values: Array, chosen: Sequence[Value], colored: bool) -> Array:
    codes = [code for value in chosen if (code := _code(value, colored)) is not None]
    if len(codes) == 1:
        return np.asarray(values == codes[0])
    return np.isin(values, codes)


def _code(value: Value, colored: bool) -> int | None:
    """A value or color as it stands in gray or packed pixels; None where it cannot."""
    if isinstance(value, int):
        return value * _GRAY if colored and 0 <= value < 256 else value
    color = int(value[1:], 16)
    if colored:
        return color
    return color & 255 if color == (color & 255) * _GRAY else None


def _between_two_levels(values: Array, lossy: bool) -> float | None:
    """Half way between the two levels of a mask that was resampled or compressed; None where it is something else.

    The flat parts of such a file have two values, wide apart; whatever lies between stands close to both.
    """
    import cv2

    numbers = values.astype(np.float32)
    low, high = float(numbers.min()), float(numbers.max())
    full = {"uint8": 255.0, "uint16": 65535.0}.get(values.dtype.name, high)
    if (high - low) * 2 < full or low < 0:
        return None
    window, noise, near, reach = (7, 2.0, 4.0, 17) if lossy else (3, 0.0, 0.0, 11)
    square = np.ones((window, window), np.uint8)
    flat = cv2.dilate(numbers, square) - cv2.erode(numbers, square) <= noise
    flat_values = numbers[flat]
    if flat.mean() < 0.2:
        return None
    if lossy:  # the levels are those of the flat parts, since ringing passes beyond them
        low = float(flat_values.min())
        high = float(flat_values.max()) if flat_values.max() - low > 128 else high
    elif low != 0:
        return None
    at_low, at_high = flat_values <= low + near, flat_values >= high - near
    if not (at_low | at_high).all() or (high - low) * 2 < full:
        return None
    slack = 0.25 * (high - low) if lossy else 0.0
    below, above = numbers <= low + slack, numbers >= high - slack
    between = ~(below | above)
    if not lossy and len(np.unique(numbers[between])) < 3:
        return None  # one or two values are kinds: a trimap, a border
    circle = np.ones((reach, reach), np.uint8)
    near_low, near_high = (cv2.dilate(level.astype(np.uint8), circle) > 0 for level in (below, above))
    return None if (between & ~(near_low & near_high)).any() else (low + high) / 2


def _degrees(pixels: _Pixels, rule: MaskRule) -> NDArray[np.float32]:
    """Soft masks in [0, 1], scaled by the file's bits; -1 where unknown."""
    values = pixels.values
    if pixels.colored:
        raise _refusal(pixels, "a soft mask is gray; set mask_channel to the channel that holds it")
    unknown = _among(values, rule.ignore, False) if rule.ignore else None
    highest = float(values.max(initial=0))
    if values.dtype.kind == "f":
        full = (highest or 1.0) if rule.attention else 1.0
        if values.min(initial=0) < 0 or highest > full:
            raise _refusal(pixels, "a soft mask of floating point lies in [0, 1]")
    elif rule.attention:
        full = max(highest, 1.0)
    elif values.dtype == np.uint8:
        full = 1.0 if pixels.bilevel else 255.0
    else:
        full = 65535.0
    if full > 1 and 0 < highest < full / 15:
        raise _refusal(pixels, f"a soft mask uses the range of its bits, 0 to {full:.0f}: scale it")
    if highest > full or values.min(initial=0) < 0:
        raise _refusal(pixels, f"a soft mask lies in 0 to {full:.0f}")
    mask = values.astype(np.float32) / np.float32(full)
    if rule.attention and not highest:
        mask[:] = -1  # nobody looked: no annotation
    if unknown is not None:
        mask[unknown] = -1
    return mask


def _refusal(pixels: _Pixels, why: str) -> MaskError:
    shares = _shares(pixels.values, pixels.colored)
    if pixels.values.dtype.kind == "f" and "soft mask" not in why:
        why += " (fractions cannot be named: save kinds as whole numbers, or set soft_masks: true for degrees)"
    shown = ", ".join(f"{value} ({_percent(share)})" for value, share in shares[:MOST_VALUES])
    more = f" and {len(shares) - MOST_VALUES} more" if len(shares) > MOST_VALUES else ""
    values = [value for value, _ in shares]
    candidates = [value for value in values if value not in (0, "#000000", 255)] or values
    example = sorted(candidates, key=str)[0]
    rest = [value for value in values if value not in (0, example)]
    ignore = f", ignore_value: {json.dumps(255 if 255 in rest else rest[-1])} for unknown pixels" if rest else ""
    return MaskError(
        f"{pixels.path} has the values {shown}{more}: {why}. Say what they mean: "
        f"mask_values: [{json.dumps(example)}] for the object, or by class, mask_values: {{cat: 8, dog: 12}}{ignore}, "
        "mask_from: instances where every value but 0 is an object, soft_masks: true for degrees."
    )


def _shares(values: Array, colored: bool) -> tuple[tuple[Value, float], ...]:
    kinds, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple((_shown(kinds[index], colored), float(counts[index] / values.size)) for index in order)


def _shown(value: Any, colored: bool) -> Value:
    if colored:
        return f"#{int(value):06x}"
    return int(value) if float(value).is_integer() else f"{float(value):.3g}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or share == 0 else "<1%"


def _tuple(name: str, given: Values) -> tuple[Value, ...]:
    values = (given,) if isinstance(given, int | str) else tuple(given)
    for value in values:
        number = isinstance(value, int) and not isinstance(value, bool)
        if not number and not (isinstance(value, str) and _is_color(value)):
            raise ConfigurationError(f'{name} holds numbers, or colors as "#rrggbb"; got {value!r}.')
    if not values:
        raise ConfigurationError(f"{name} names at least one value; got an empty list.")
    return values


def _is_color(text: str) -> bool:
    return len(text) == 7 and text[0] == "#" and all(digit in "0123456789abcdefABCDEF" for digit in text[1:])
