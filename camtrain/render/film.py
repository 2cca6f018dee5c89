"""Pictures over time as a file, MP4 or GIF, each with a line of text and the scale of its colors."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from camtrain.render.overlays import colorize

Frame = UInt8[Tensor, "3 H W"]


def write_video(frames: Iterable[UInt8[Tensor, "3 H W"]], path: Path, *, fps: int | float = 4.0) -> int:
    """Write frames of one size as `.mp4` or `.gif`, one at a time, and return how many there were.

    An MP4 has an even height and width: odd ones lose a row or column. Raises ValueError for another suffix, without
    a frame, or where OpenCV cannot write MP4.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"A film is written as .mp4 or .gif, got {path.name!r}.")
    if fps <= 0:
        raise ValueError(f"fps is above 0, got {fps}.")
    pixels = (frame.permute(1, 2, 0).contiguous().cpu().numpy() for frame in frames)
    first = next(pixels, None)
    if first is None:
        raise ValueError(f"There is no frame to write into {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return (_gif if path.suffix == ".gif" else _mp4)(chain([first], pixels), path, fps)


def read_video(path: Path) -> Iterator[Any]:
    """The frames of a video file as RGB arrays (H, W, 3); ValueError for one that OpenCV cannot read."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ValueError(f"{path} is not a video that OpenCV can read.")
        while True:
            more, frame = capture.read()
            if not more:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def frame_rate(path: Path) -> float:
    """Frames a second of a video file; 25 where it does not say."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if rate > 0 else 25.0


def _mp4(frames: Iterator[Any], path: Path, fps: int | float) -> int:
    import cv2

    writer, count = None, 0
    for frame in frames:
        height, width = (length - length % 2 for length in frame.shape[:2])
        writer = writer or cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        if not writer.isOpened():
            raise ValueError("This build of OpenCV cannot write MP4: write a .gif.")
        writer.write(cv2.cvtColor(np.ascontiguousarray(frame[:height, :width]), cv2.COLOR_RGB2BGR))
        count += 1
    if writer is not None:
        writer.release()
    return count


def _gif(frames: Iterator[Any], path: Path, fps: int | float) -> int:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, append_images=images[1:], save_all=True, duration=round(1000 / fps), loop=0)
    return len(images)


INK, PAPER = (22, 25, 29), (238, 240, 243)
LINE, BAR, MARGIN = 22, 56, 6


def captioned(
    picture: UInt8[Tensor, "3 H W"], text: str, *, colormap: str = "turbo", least: int = 256
) -> UInt8[Tensor, "3 h w"]:
    """The picture with a line below it: the text, and the colors of a heatmap from none to its own maximum.

    A picture narrower than `least` pixels is enlarged by whole numbers, so that the line can be read; a text that is
    too long loses its end.

    >>> captioned(torch.zeros(3, 20, 100, dtype=torch.uint8), "cat 98 %").shape
    torch.Size([3, 82, 300])
    """
    times = max(1, -(-least // picture.shape[2]))
    pixels = picture.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    strip = Image.new("RGB", (pixels.shape[2], LINE), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    room = strip.width - BAR - 5 * MARGIN - draw.textlength("0max", font)
    draw.text((MARGIN, 3), _cut(text, room, draw, font), INK, font)
    right = strip.width - MARGIN - draw.textlength("max", font)
    draw.text((right, 3), "max", INK, font)
    left = int(right) - MARGIN - BAR
    colors = colorize(torch.linspace(0, 1, BAR).expand(1, LINE - 10, BAR), colormap)
    strip.paste(Image.fromarray(colors[0].round().to(torch.uint8).permute(1, 2, 0).numpy()), (left, 5))
    draw.text((left - MARGIN - draw.textlength("0", font), 3), "0", INK, font)
    line = torch.from_numpy(np.array(strip)).permute(2, 0, 1).to(pixels.device)
    return torch.cat([pixels, line], dim=1)


def _cut(text: str, room: float, draw: ImageDraw.ImageDraw, font: object) -> str:
    length = len(text)
    while length and draw.textlength(text[:length], font) > room:  # type: ignore[arg-type]
        length -= 1
    return text[:length]
