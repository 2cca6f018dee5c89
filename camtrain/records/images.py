"""Pictures to bytes and back, through OpenCV."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


def to_pixels(image: UInt8[Tensor, "3 H W"]) -> Pixels:
    """The RGB picture as an array (H, W, 3) in host memory.

    >>> to_pixels(torch.zeros(3, 4, 5, dtype=torch.uint8)).shape
    (4, 5, 3)
    """
    pixels: Pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    """An RGB picture (H, W, 3) as JPEG, `quality` from 1 to 100.

    >>> jpeg(np.zeros((4, 4, 3), np.uint8))[:2]
    b'\\xff\\xd8'
    """
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # small, saturated pictures
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1])


def png(pixels: Pixels) -> bytes:
    """An RGB picture (H, W, 3) as PNG.

    >>> png(np.zeros((4, 4, 3), np.uint8))[1:4]
    b'PNG'
    """
    import cv2

    return bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1])


def mask_png(mask: Shaped[Tensor, "H W"]) -> bytes:
    """A mask in [0, 1] (or bool) as a gray PNG, 255 where it is 1.

    >>> mask_png(torch.ones(2, 2))[1:4]
    b'PNG'
    """
    import cv2

    gray = mask.float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    return bytes(cv2.imencode(".png", gray)[1])


def read_pixels(path: Path, side: int | None = None) -> Pixels:
    """The RGB picture of a file (H, W, 3), shrunk so that neither side exceeds `side`."""
    import cv2

    return _shrink(cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), side)


def read_mask(path: Path, size: tuple[int, int]) -> Shaped[Tensor, "H W"]:
    """The mask of a file in [0, 1] at a size (H, W)."""
    import cv2

    gray = cv2.resize(_read(path, cv2.IMREAD_GRAYSCALE), size[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(gray).float() / 255


def data_uri(content: bytes, kind: str = "image/jpeg") -> str:
    """Bytes as an address that needs no request.

    >>> data_uri(b"abc")
    'data:image/jpeg;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _read(path: Path, flags: int) -> Pixels:
    import cv2

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if pixels is None:
        raise ValueError(f"{path} is not a picture that OpenCV can read; it may be cut short.")
    return np.asarray(pixels, np.uint8)


def _shrink(pixels: NDArray[Any], side: int | None) -> Pixels:
    import cv2

    factor = 1.0 if side is None else side / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    height, width = (max(1, round(length * factor)) for length in pixels.shape[:2])
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
