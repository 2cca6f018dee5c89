"""Pictures over time as a file: MP4 or GIF."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

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
