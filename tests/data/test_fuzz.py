"""Masks and COCO files of every make: read right, or an error of camtrain's that names the file, at construction."""

import copy
import json
import random

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools

from camtrain.data import CocoMasks, MaskedImageFolder
from camtrain.errors import CamtrainError

SIZE = (9, 14)
BLOCKS, CASES = range(10), 25  # of each kind: 500 in all


def attempt(kind, *arguments):
    """The dataset and nothing, or nothing and the words of the refusal."""
    try:
        return kind(*arguments), ""
    except CamtrainError as error:
        return None, str(error)


def shape_of_an_object(rng):
    mask = np.zeros(SIZE, bool)
    top, left = rng.randrange(0, 5), rng.randrange(0, 8)
    mask[top : top + rng.randrange(1, 4), left : left + rng.randrange(1, 6)] = True
    return mask


def values_of_a_mask(rng, mask):
    """An array for PIL and the one value beside 0, or None where that is not the whole truth."""
    kind = rng.choice(["bool", "uint8", "uint16", "float32", "int32", "color", "rgba", "la", "kinds", "noise", "ones"])
    value = rng.choice([1, 2, 7, 128, 255])
    if kind == "bool":
        return mask, True
    if kind in ("uint8", "uint16", "int32"):
        return (mask * value * (257 if kind == "uint16" else 1)).astype(kind), True
    if kind == "float32":
        return mask.astype(np.float32) * rng.choice([1.0, 0.5]), True
    if kind == "color":
        return np.dstack([mask * value, mask * 0, mask * 9]).astype(np.uint8), True
    if kind in ("rgba", "la"):
        alpha = rng.choice([np.full(SIZE, 255), mask * 255, ~mask * 255])
        colors = [mask * 255] * (3 if kind == "rgba" else 1)
        return np.dstack([*colors, alpha]).astype(np.uint8), not np.array_equal(alpha, ~mask * 255)
    if kind == "kinds":
        return np.where(mask, value, np.arange(SIZE[1]) % 3).astype(np.uint8), None
    if kind == "noise":
        return np.random.default_rng(rng.randrange(9999)).integers(0, 256, SIZE, dtype=np.uint8), None
    return np.full(SIZE, value, np.uint8), False


def save_mask(rng, path, values):
    """In a format that holds the values as they are; its suffix, or None."""
    image = Image.fromarray(values)
    suffix = rng.choice(["png", "tif", "bmp", "gif", "webp", "jpg"])
    plain = values.dtype in (np.uint8, bool) and values.ndim == 2
    if suffix != "png" and not plain:
        suffix = "tif" if values.dtype in (np.float32, np.int32, np.uint16) else "png"
    if values.dtype in (np.float32, np.int32):
        suffix = "tif"
    options = {"webp": {"lossless": True}, "png": {"compress_level": rng.randrange(10)}, "jpg": {"quality": 85}}
    image.save(path / f"0.{suffix}", **options.get(suffix, {}))
    if rng.random() < 0.08:
        data = (path / f"0.{suffix}").read_bytes()
        (path / f"0.{suffix}").write_bytes(data[: rng.randrange(len(data))])
        return "broken"
    return suffix


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("block", BLOCKS)
def test_masks__are_read_right_or_refused_by_name(tmp_path, block):
    read = 0
    for case in range(CASES):
        rng = random.Random(1000 * block + case)
        root = tmp_path / str(case)
        for name in ("images/cat", "masks/cat"):
            (root / name).mkdir(parents=True)
        mask = shape_of_an_object(rng)
        values, plain = values_of_a_mask(rng, mask)
        exif = Image.Exif()
        exif[0x0112] = orientation = rng.choice([1, 1, 1, 1, 3, 6])
        stored = SIZE if orientation != 6 else SIZE[::-1]
        stored = rng.choice([stored] * 9 + [(9, 13)])
        Image.new("RGB", stored[::-1]).save(root / "images/cat/0.jpg", exif=exif)
        suffix = save_mask(rng, root / "masks/cat", values)
        dataset, message = attempt(MaskedImageFolder, root, "images", "masks")
        if dataset is None:
            wrong = suffix in ("broken", "jpg") or stored not in (SIZE, SIZE[::-1]) or not plain
            assert wrong, f"{block}/{case}: {message}"
            assert str(root) in message
            continue
        read, item = read + 1, dataset[0]
        assert item["image"].shape[1:] == item["mask"].shape == SIZE
        if suffix not in ("jpg", "broken"):
            assert plain, f"{block}/{case}: {values}"
            assert np.array_equal(item["mask"].numpy() == 1, mask), f"{block}/{case}"
    assert read > CASES // 5


def a_coco_file(rng):
    mask = shape_of_an_object(rng)
    code = rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    rows, columns = np.nonzero(mask)
    x, y, width, height = (int(v) for v in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1))
    box = [x, y, width, height]
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    pairs = [polygon[start : start + 2] for start in range(0, 8, 2)]
    run_lengths = {"size": list(SIZE), "counts": code["counts"].decode()}
    segmentation = rng.choice([[polygon], polygon, [pairs], run_lengths, [], None])
    annotation = {"id": 1, "image_id": 4, "category_id": 2, "bbox": box, "segmentation": segmentation, "iscrowd": 0}
    annotation["area"] = rng.choice([width * height, 0, None, "much", float("nan")])
    return mask, {
        "images": [{"id": 4, "file_name": "0.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [annotation],
        "categories": [{"id": 2, "name": "cat", "supercategory": "none"}, {"id": 3, "name": "dog"}],
    }


ODD = [None, "x", -1, 0, 1e9, float("nan"), float("inf"), [], {}, [1, 2], "\u00e4", True, 0.25, [[5, 5, 8, 8]], 10**30]


def broken(rng, content):
    """The file with one thing in it replaced or taken away, and what was."""
    places = []

    def walk(value, keys):
        if isinstance(value, dict):
            for key in value:
                places.append((*keys, key))
                walk(value[key], (*keys, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value[:9]):
                places.append((*keys, index))
                walk(inner, (*keys, index))

    walk(content, ())
    keys = rng.choice(places)
    owner = content
    for key in keys[:-1]:
        owner = owner[key]
    if rng.random() < 0.2:
        del owner[keys[-1]]
    elif isinstance(owner[keys[-1]], str) and rng.random() < 0.7:
        owner[keys[-1]] = owner[keys[-1]][: rng.randrange(len(owner[keys[-1]]) + 1)] + rng.choice(["", "~", "0", "P"])
    else:
        owner[keys[-1]] = copy.deepcopy(rng.choice(ODD))
    return keys


@pytest.mark.parametrize("block", BLOCKS)
def test_coco__is_read_right_or_refused_by_name(tmp_path, block):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "0.png")
    read = 0
    for case in range(CASES):
        rng = random.Random(7000 + 1000 * block + case)
        mask, content = a_coco_file(rng)
        keys = broken(rng, content) if rng.random() < 0.8 else ()
        text = json.dumps(content)
        (tmp_path / "coco.json").write_text(text if rng.random() < 0.97 else text[: rng.randrange(len(text))])
        dataset, message = attempt(CocoMasks, tmp_path, tmp_path / "coco.json")
        if dataset is None:
            assert keys or len(text) > (tmp_path / "coco.json").stat().st_size, f"{block}/{case}: {message}"
            assert str(tmp_path) in message, f"{block}/{case}: {message}"
            continue
        drawn = dataset[0]["mask"].numpy()  # never an error later than at construction
        assert drawn.shape == SIZE
        assert set(np.unique(drawn)) <= {-1.0, 0.0, 1.0}
        if not set(keys) & {"segmentation", "bbox", "category_id", "categories"}:
            read += 1
            assert np.array_equal(drawn == 1, mask), f"{block}/{case}: {keys}"
    assert read > CASES // 8
