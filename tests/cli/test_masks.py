import json

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.cli import main
from camtrain.render.overlays import LINE, Outlined, outline_sheet, outlined

LAYOUT = ("--images", "images", "--masks", "masks")


def look(folder, tmp_path, capsys, *words):
    """What the command says as JSON, and its exit code."""
    code = 0
    try:
        main(["masks", str(folder), "--out", str(tmp_path / "sheets" / "m.png"), "--json", *words])
    except SystemExit as stop:
        code = stop.code
    return json.loads(capsys.readouterr().out), code


def put(folder, name, values):
    (folder / "masks" / name).with_suffix(".png").unlink()
    Image.fromarray(values.astype(np.uint8)).save((folder / "masks" / name).with_suffix(".png"))


def test_masks__counts_and_puts_the_doubtful_ones_first(photos, tmp_path, capsys):
    put(photos, "boat/0", np.zeros((24, 32)))
    put(photos, "car/1", np.add.outer(np.arange(24) > 0, np.zeros(32)) * 255)
    (photos / "masks/hen/2.png").unlink()
    found, code = look(photos, tmp_path, capsys, *LAYOUT)
    assert code == 0
    assert found["kinds"] == {"with a mask file": 11, "without an annotation": 1}
    assert found["values"] == {"0": 11, "255": 10}
    assert list(found["remarks"])[:2] == ["boat/0.jpg", "car/1.jpg"]
    assert found["remarks"]["boat/0.jpg"] == "empty"
    assert found["remarks"]["car/1.jpg"] == "96% of the frame: hardly any background"
    assert found["covered"][0] == 0
    with Image.open(found["sheet"]) as sheet:
        assert sheet.width > 1000


def test_masks__lists_the_values_of_masks_that_it_refuses(photos, tmp_path, capsys):
    for path in (photos / "masks").rglob("*.png"):
        values = np.full((24, 32), 2)
        values[:6], values[6] = 1, 3
        Image.fromarray(values.astype(np.uint8)).save(path)
    found, code = look(photos, tmp_path, capsys, *LAYOUT)
    assert code == 1
    assert found["kinds"] == {"refused": 12}
    assert found["values"] == {"1": 12, "2": 12, "3": 12}
    assert "mask_values: [1]" in found["problems"][0]
    found, code = look(photos, tmp_path, capsys, *LAYOUT, "--mask-values", "[1]", "--ignore-value", "3")
    assert (code, found["unknown"], found["covered"][1]) == (0, 12, 0.25)


def test_masks__of_an_annotation_file(photos, tmp_path, capsys):
    images = [{"id": n, "file_name": f"boat/{n}.jpg", "height": 24, "width": 32} for n in (0, 3)]
    shapes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 16, 12]} for n in (0, 3)]
    content = {"images": images, "annotations": shapes, "categories": [{"id": 1, "name": "boat"}]}
    (photos / "coco.json").write_text(json.dumps(content))
    found, _ = look(photos, tmp_path, capsys, "--images", "images", "--annotations", "coco.json")
    assert found["kinds"] == {"with shapes": 2, "without an annotation": 10}
    assert found["covered"] == [0.25, 0.25, 0.25]


def test_masks__says_it_in_words(photos, tmp_path, capsys):
    main(["masks", str(photos), *LAYOUT, "--out", str(tmp_path / "m.png")])
    said = capsys.readouterr().out
    assert "12: 12 with a mask file" in said
    assert "0 in 12, 255 in 12" in said
    assert "50% of the frame" in said


def test_outlined__draws_the_rim_and_leaves_the_inside(tmp_path):
    image = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    mask = torch.zeros(40, 40)
    mask[10:30, 10:30] = 1
    mask[0:5] = -1
    pixels = np.array(outlined(Outlined(image, mask, "a"), 40))
    assert tuple(pixels[10, 20]) == LINE
    assert tuple(pixels[20, 20]) == tuple(pixels[35, 5]) == (90, 90, 90)
    assert pixels[2, 20, 2] > 150


@pytest.mark.parametrize("shape", [(3, 8, 30), (3, 30, 8), (3, 1, 1)])
def test_outline_sheet__takes_pictures_of_any_size(shape):
    pictures = [Outlined(torch.zeros(shape, dtype=torch.uint8), None, "x" * 99)] * 7
    assert outline_sheet("masks", pictures, side=32).height > 2 * 32
