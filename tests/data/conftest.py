"""Tiny files in the formats that the datasets read."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, width: int = 12, height: int = 8, color: tuple[int, ...] = (200, 100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), color).save(path)
    return path


def write_mask(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def half_mask(width: int = 12, height: int = 8) -> np.ndarray:
    values = np.zeros((height, width), np.uint8)
    values[:, : width // 2] = 255
    return values


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes with four images each and a mask for all but one."""
    for name, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        for k in range(4):
            write_image(tmp_path / "images" / name / f"{k}.png", color=color)
            if (name, k) != ("dog", 3):
                write_mask(tmp_path / "masks" / name / f"{k}.png", half_mask())
    return tmp_path


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[..., Path]:
    """Write files in MNIST's format: `write_idx("MNIST", train=..., test=...)` from uint8 images and labels."""

    def write(name: str, **parts: tuple[np.ndarray, np.ndarray]) -> Path:
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for part, (images, labels) in parts.items():
            prefix = "train" if part == "train" else "t10k"
            header = struct.pack(">IIII", 2051, *images.shape)
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            header = struct.pack(">II", 2049, len(labels))
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
        return tmp_path

    return write


@pytest.fixture
def digits(write_idx: Callable[..., Path]) -> Path:
    """A root with 400 training and 300 test images of noise between 1 and 20, in both data sets' folders."""
    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(1, 21, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10

    train, test = part(400), part(300)
    write_idx("MNIST", train=train, test=test)
    return write_idx("FashionMNIST", train=train, test=test)


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Write a COCO file beside `images/1.png` and `images/2.png` (12x8); keywords replace its lists."""

    def write(**lists: object) -> Path:
        for key in (1, 2):
            write_image(tmp_path / "images" / f"{key}.png")
        content = {
            "images": [{"id": k, "file_name": f"{k}.png", "width": 12, "height": 8} for k in (1, 2)],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 1, 4, 3]},
                {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 6, 8]},
            ],
            **lists,
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write
