"""An audit of a model that is right says 100 %, however the images are laid out."""

import json

import numpy as np
import pytest
from PIL import Image

from camtrain.cli import main

NET = """
import torch
from torch import nn


class Net(nn.Module):
    '''The class is the image's gray value in twentieths.'''

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data.copy_(torch.eye(3).view(3, 3, 1, 1))

    def forward(self, x):
        value = torch.relu(self.conv(x)).mean((1, 2, 3)).unsqueeze(1) * 20
        return -10 * (value - torch.arange(12.0)) ** 2


def net(num_classes=12):
    return Net()
"""
NAMES = [f"kind {chr(ord('a') + label)}" for label in range(12)]


def put(path, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), round(label / 20 * 255), np.uint8)).save(path)


def class_folders(root):
    for label, name in enumerate(NAMES):
        put(root / name / "0.png", label)
    return ()


def folders_of_numbers(root):
    for label in range(12):
        put(root / str(label) / "0.png", label)
    return ()


def splits_of_any_name(root):
    for label, name in enumerate(NAMES):
        for split in ("Training", "valid"):
            put(root / split / name / "0.png", label)
    return ()


def index_of_numbers(root):
    for label in range(12):
        put(root / f"{label}.png", label)
    (root / "index.csv").write_text("file,label\n" + "".join(f"{n}.png,{n}\n" for n in range(12)))
    return "--index", "index.csv"


def wilds(root):
    for label in range(12):
        put(root / f"{label}.png", label)
    rows = "".join(f"{n},{n}.png,{n},{n % 3},{n % 2}\n" for n in range(12))
    (root / "metadata.csv").write_text("img_id,img_filename,y,split,place\n" + rows)
    return "--index", "metadata.csv"


def coco(root):
    images, shapes = [], []
    for label in range(12):
        put(root / "images" / f"{label}.png", label)
        images.append({"id": label, "file_name": f"{label}.png", "height": 8, "width": 8})
        shapes.append({"id": label, "image_id": label, "category_id": 50 - label, "bbox": [2, 2, 4, 4]})
    categories = [{"id": 50 - label, "name": name} for label, name in enumerate(NAMES)]
    content = {"images": images, "annotations": shapes, "categories": categories}
    (root / "coco.json").write_text(json.dumps(content))
    return "--images", "images", "--annotations", "coco.json"


def yolo(root):
    for label in range(12):
        put(root / "images/train" / f"{label}.png", label)
        (root / "labels/train").mkdir(parents=True, exist_ok=True)
        (root / f"labels/train/{label}.txt").write_text(f"{label} 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(f"train: images/train\nnames: {json.dumps(NAMES)}\n")
    return "--annotations", "data.yaml"


def labelme(root):
    for label, name in enumerate(NAMES):
        put(root / f"{label}.png", label)
        shape = {"label": name, "shape_type": "rectangle", "points": [[2, 2], [6, 6]]}
        content = {"shapes": [shape], "imagePath": f"{label}.png", "imageHeight": 8, "imageWidth": 8}
        (root / f"{label}.json").write_text(json.dumps(content))
    return "--annotations", "."


def cvat(root):
    images = ""
    for label, name in enumerate(NAMES):
        put(root / "images" / f"{label}.png", label)
        box = f'<box label="{name}" xtl="2" ytl="2" xbr="6" ybr="6"/>'
        images += f'<image id="{label}" name="{label}.png" width="8" height="8">{box}</image>'
    (root / "cvat.xml").write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    return "--images", "images", "--annotations", "cvat.xml"


def label_studio(root):
    tasks = []
    for label, name in enumerate(NAMES):
        put(root / "images" / f"{label}.png", label)
        value = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": [name]}
        result = {"type": "rectanglelabels", "value": value, "original_width": 8, "original_height": 8}
        tasks.append({"data": {"image": f"/data/upload/1/0a1b2c3d-{label}.png"}, "annotations": [{"result": [result]}]})
    (root / "export.json").write_text(json.dumps(tasks))
    return "--images", "images", "--annotations", "export.json"


def voc(root):
    for label, name in enumerate(NAMES):
        put(root / "JPEGImages" / f"{label}.png", label)
        box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>6</xmax><ymax>6</ymax></bndbox>"
        text = f"<filename>{label}.png</filename><object><name>{name}</name>{box}</object>"
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{label}.xml").write_text(f"<annotation>{text}</annotation>")
    return "--images", "JPEGImages", "--annotations", "Annotations"


def masks_beside_images(root):
    for label, name in enumerate(NAMES):
        put(root / name / "0.png", label)
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, 2:6] = 255
        Image.fromarray(mask).save(root / name / "0_mask.png")
    return "--mask-suffix", "_mask"


def run_lengths(root):
    for label in range(12):
        put(root / "images" / f"{label}.png", label)
    runs = " ".join(f"{8 * line + 3} 4" for line in range(2, 6))
    rows = "".join(f"{label}.png,{name},{runs}\n" for label, name in enumerate(NAMES))
    (root / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n" + rows)
    return "--images", "images", "--annotations", "train.csv", "--run-order", "columns"


@pytest.mark.filterwarnings("ignore:RelianceDetector failed")  # a picture of one gray has no object
@pytest.mark.parametrize(
    "layout",
    [
        *(class_folders, folders_of_numbers, splits_of_any_name, index_of_numbers, wilds),
        *(coco, yolo, labelme, cvat, label_studio, voc, masks_beside_images, run_lengths),
    ],
)
def test_audit__of_a_model_that_is_right_says_so(tmp_path, monkeypatch, capsys, layout):
    (tmp_path / "gray_by_twentieths.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["audit", str(tmp_path / "data"), *layout(tmp_path / "data"), "--model", "gray_by_twentieths.net"]
    words += ["--size", "8", "--mean", "0", "0", "0", "--std", "1", "1", "1", "--out", str(tmp_path / "out"), "--json"]
    main(words)
    assert json.loads(capsys.readouterr().out)["camtrain/accuracy/after"] == 1.0
