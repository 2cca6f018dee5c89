"""Files as the tools export them, with all that they write beside the shapes; the masks were drawn by hand."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from camtrain.data import MaskedImageFolder
from camtrain.errors import DataError, MaskError

SIZE = {"width": 12, "height": 8}


def drawn(dataset):
    """The masks as rows of text, by image: # the object, . the rest, which is left out at the end of a row."""
    marks = {1.0: "#", 0.0: ".", -1.0: "?"}
    return {
        item["id"]: "/".join("".join(marks[value] for value in row).rstrip(".") for row in item["mask"].tolist())
        for item in dataset
    }


def picture(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (200, 100, 50)).save(path, **options)


def said(caplog, build):
    with caplog.at_level("INFO", "camtrain"):
        return build(), caplog.text


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <project>
      <id>7</id><name>animals</name><created>2024-05-02 09:11:12.304857+00:00</created>
      <labels>
        <label><name>dog</name><color>#24b353</color><type>any</type><attributes></attributes></label>
        <label><name>cat</name><color>#fa3253</color><type>any</type><attributes><attribute>
          <name>indoors</name><mutable>False</mutable><input_type>checkbox</input_type>
          <default_value>false</default_value><values>false</values></attribute></attributes></label>
        <label><name>pose</name><color>#ff00cc</color><type>skeleton</type><attributes></attributes>
          <svg>&lt;circle r="1.5" cx="30" cy="30" data-element-id="1"&gt;&lt;/circle&gt;</svg></label>
        <label><name>nose</name><color>#d12345</color><type>points</type><attributes></attributes>
          <parent>pose</parent></label>
      </labels>
    </project>
    <dumped>2024-05-02 10:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="first.jpg" subset="Train" task_id="3" width="12" height="8">
    <box label="cat" source="manual" occluded="0" xtl="1.00" ytl="1.00" xbr="4.00" ybr="3.00" z_order="0">
      <attribute name="indoors">true</attribute></box>
    <polygon label="cat" source="semi-auto" occluded="0"
      points="6.00,1.00;10.00,1.00;10.00,5.00;8.00,5.00;8.00,3.00;6.00,3.00" z_order="1"></polygon>
    <mask label="cat" source="manual" occluded="0" rle="1, 2, 2, 1" left="2" top="5" width="3" height="2" z_order="2">
    </mask>
    <polygon label="dog" source="manual" occluded="0" points="10.00,6.00;12.00,6.00;12.00,8.00;10.00,8.00"
      z_order="3"></polygon>
    <polyline label="cat" source="manual" occluded="0" points="0.00,7.50;11.00,7.50" z_order="0"></polyline>
    <points label="cat" source="manual" occluded="0" points="0.50,0.50" z_order="0"></points>
    <skeleton label="pose" source="manual" z_order="0"><points label="nose" source="manual" outside="0" occluded="0"
      points="3.00,3.00"></points></skeleton>
  </image>
  <image id="1" name="frame_000001" subset="Validation" task_id="3" width="12" height="8">
    <box label="dog" source="file" occluded="1" xtl="4.00" ytl="1.00" xbr="8.00" ybr="7.00" rotation="90.00"
      z_order="0"></box>
  </image>
  <image id="2" name="empty.jpg" subset="Train" task_id="3" width="12" height="8">
  </image>
</annotations>
"""


def test_cvat__as_a_project_exports_it(tmp_path, caplog):
    for name in ("first.jpg", "frame_000001.png", "empty.jpg"):
        picture(tmp_path / "images" / name)
    (tmp_path / "annotations.xml").write_text(CVAT)
    dataset, text = said(caplog, lambda: MaskedImageFolder(tmp_path, "images", annotations="annotations.xml"))
    assert dataset.class_names == ["dog", "cat"]  # parts of a skeleton, and skeletons, cover nothing
    assert [(sample.split, sample.label) for sample in dataset.samples] == [("train", 1), ("val", 0)]
    assert drawn(dataset) == {
        "first.jpg": "/.###..####/.###..####/........##/........##/...##/....#/",
        "frame_000001": "//...######/...######/...######/...######//",
    }
    assert "1 polyline, 1 points, 1 skeleton" in text


def labelme_shape(kind, label, points, **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def test_labelme__as_its_versions_write_it(tmp_path, caplog):
    photograph = io.BytesIO()
    Image.new("RGB", (12, 8)).save(photograph, "JPEG")
    bits = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 1], [1, 0, 0]], bool)).save(bits, "PNG")
    head = {"flags": {}, "imageHeight": 8, "imageWidth": 12}
    old = {"label": "cat", "line_color": None, "fill_color": None, "points": [[1, 1], [4, 1], [4, 3], [1, 3]]}
    line = labelme_shape("linestrip", "cat", [[0.5, 7.5], [9.2, 7.1], [11.0, 7.5]])
    mask = base64.b64encode(bits.getvalue()).decode()
    files = {
        "old": {"version": "3.16.7", "shapes": [old], "lineColor": [0, 255, 0, 128], "fillColor": [255, 0, 0, 128]},
        "middle": {
            "version": "4.5.6",
            "shapes": [
                labelme_shape("rectangle", "dog", [[8.0, 7.0], [4.0, 5.0]]),
                labelme_shape("circle", "dog", [[2.0, 2.0], [2.0, 3.0]]),
                line,
            ],
        },
        "new": {
            "version": "5.5.0",
            "shapes": [
                labelme_shape("mask", "cat", [[4, 2], [6, 3]], description="", mask=mask),
                labelme_shape("point", "cat", [[1.5, 1.5]], description="", mask=None),
            ],
        },
    }
    for name, content in files.items():
        picture(tmp_path / f"{name}.jpg")
        data = base64.b64encode(photograph.getvalue()).decode() if name == "old" else None
        path = f"..\\pets\\{name}.jpg" if name == "middle" else f"{name}.jpg"
        text = json.dumps({**content, **head, "imagePath": path, "imageData": data}, indent=2)
        (tmp_path / f"{name}.json").write_text(text)
    dataset, text = said(caplog, lambda: MaskedImageFolder(tmp_path, annotations="."))
    assert dataset.class_names == ["cat", "dog"]
    assert drawn(dataset) == {
        "old.jpg": "/.###/.###/////",
        "middle.jpg": "/.##/.##///....####/....####/",
        "new.jpg": "//.....##/....#////",
    }
    assert "1 linestrip, 1 point" in text


def studio(results, image="/data/upload/3/0a1b2c3d-first.jpg", **more):
    """A task as "JSON" exports it; each result with the head that the editor gives it."""
    head = {"original_width": 12, "original_height": 8, "image_rotation": 0, "from_name": "label", "to_name": "image"}
    results = [{**head, "id": f"r{number}", "origin": "manual", **result} for number, result in enumerate(results)]
    annotation = {"id": 1, "completed_by": 2, "result": results, "was_cancelled": False, "ground_truth": False, **more}
    annotation |= {"created_at": "2022-12-27T13:36:25Z", "lead_time": 12.4, "prediction": {}, "parent_annotation": None}
    task = {"id": 1, "annotations": [annotation], "drafts": [], "predictions": [], "data": {"image": image}, "meta": {}}
    return {**task, "file_upload": "0a1b2c3d-first.jpg", "inner_id": 1, "total_annotations": 1, "comment_authors": []}


def read_studio(root, *tasks):
    for name in ("first", "second"):
        picture(root / f"images/{name}.jpg")
    (root / "export.json").write_text(json.dumps(list(tasks)))
    return MaskedImageFolder(root, "images", annotations="export.json")


def transparent_png(bits):
    file = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((*bits.shape, 3), np.uint8), bits * np.uint8(255)])).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


BOX = {"x": 25, "y": 25, "width": 25, "height": 25, "rotation": 0}


def test_label_studio__as_it_exports_json(tmp_path, caplog):
    bits = np.zeros((8, 12), np.uint8)
    bits[7, 2:5] = 1
    polygon = {"closed": True, "points": [[75, 0], [100, 0], [100, 25], [75, 25]], "polygonlabels": ["cat"]}
    ellipse = {"x": 50, "y": 75, "radiusX": 100 / 12, "radiusY": 12.5, "rotation": 0}
    first = studio(
        [
            {"type": "rectanglelabels", "value": {**BOX, "rectanglelabels": ["cat"]}},
            {"type": "polygonlabels", "value": polygon},
            {"type": "ellipselabels", "value": {**ellipse, "ellipselabels": ["cat"]}},
            {"type": "bitmasklabels", "value": {"imageDataURL": transparent_png(bits), "bitmasklabels": ["cat"]}},
            {"type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 0.2, "keypointlabels": ["nose"]}},
            {"type": "relation", "from_id": "r0", "to_id": "r1", "direction": "right"},
        ]
    )
    del first["annotations"][0]["result"][-1]["id"]
    # Names that are a tag of their own, and a class of the whole image.
    second = studio(
        [
            {"type": "rectangle", "value": BOX, "id": "s"},
            {"type": "labels", "value": {**BOX, "labels": ["dog"]}, "id": "s"},
            {"type": "choices", "value": {"choices": ["dog"]}},
        ],
        "/data/local-files/?d=pets/second.jpg",
    )
    dataset, text = said(caplog, lambda: read_studio(tmp_path, first, second))
    assert dataset.class_names == ["cat", "dog"]
    assert list(drawn(dataset).values()) == [
        ".........###/.........###/...###/...###//.....##/.....##/..###",
        "//...###/...###////",
    ]
    assert "1 keypointlabels" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_rotation": 90}, r"export\.json, entry 0.*turned by 90 degrees in the editor.*export again"),
        ({"item_index": 1}, "image 1 of a task of several images"),
    ],
)
def test_label_studio__refuses_numbers_of_another_frame(tmp_path, changed, message):
    with pytest.raises(MaskError, match=message):
        read_studio(
            tmp_path, studio([{"type": "rectanglelabels", "value": {**BOX, "rectanglelabels": ["cat"]}, **changed}])
        )


def test_label_studio__gives_an_image_no_class_where_several_are_chosen(tmp_path):
    several = [{"type": "choices", "value": {"choices": ["cat", "dog"]}}]
    with pytest.raises(DataError, match="no image with the chosen categories"):
        read_studio(tmp_path, studio(several))


ULTRALYTICS = """# Pets: 2 images
# parent
path: ../datasets/pets # dataset root dir
train: images/train # train images (relative to 'path')
val: images/val
test: # test images (optional)

# Classes
names:
  0: dog
  1: cat

download: https://example.com/pets.zip
"""
ROBOFLOW = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['dog', 'cat']

roboflow:
  workspace: pets
  license: CC BY 4.0
"""
HALVES = "1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n0 0.75 0.75 0.5 0.5\n1 0.875 0.125 0.25 0.25\n"


@pytest.mark.parametrize(
    ("text", "place", "splits"),
    [
        (ULTRALYTICS, "{kind}/{split}/0.{suffix}", ("train", "val")),
        (ROBOFLOW, "{split}/{kind}/0.{suffix}", ("train", "valid", "test")),
    ],
)
def test_yolo__as_ultralytics_and_roboflow_lay_it_out(tmp_path, text, place, splits):
    (tmp_path / "data.yaml").write_text(text)
    for split in splits:
        picture(tmp_path / place.format(kind="images", split=split, suffix="jpg"))
        rows = tmp_path / place.format(kind="labels", split=split, suffix="txt")
        rows.parent.mkdir(parents=True)
        rows.write_text(HALVES)
    dataset = MaskedImageFolder(tmp_path, annotations="data.yaml", labels_from="annotations")
    assert dataset.class_names == ["dog", "cat"]
    assert {sample.split for sample in dataset.samples} == {split.removesuffix("id") for split in splits}
    # The dog covers more: 4 rows of 6 pixels, the cat 2 x 3 twice.
    covered = "///" + "/......######" * 4
    assert set(drawn(dataset).values()) == {covered}
    assert len(dataset) == len(splits)


def test_coco__as_its_own_files_are(tmp_path):
    picture(tmp_path / "val2017/000000000139.jpg")
    picture(tmp_path / "val2017/000000000285.jpg")
    url = {"license": 1, "coco_url": "http://example.com/1", "date_captured": "2013-11-14 17:02:52", "flickr_url": ""}
    pieces = [[1, 1, 4, 1, 4, 3, 1, 3], [6, 1, 10, 1, 10, 5, 8, 5, 8, 3, 6, 3]]
    shape = {"iscrowd": 0, "image_id": 139, "category_id": 18}
    crowd = {"counts": [58, 2, 6, 2, 28], "size": [8, 12]}  # down the columns: rows 2 and 3 of columns 7 and 8
    content = {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017, "contributor": "COCO Consortium"},
        "licenses": [{"url": "http://example.com", "id": 1, "name": "Attribution"}],
        "images": [
            {"file_name": "000000000139.jpg", "id": 139, **SIZE, **url},
            {"file_name": "000000000285.jpg", "id": 285, **SIZE, **url},
        ],
        "annotations": [
            {**shape, "id": 908, "segmentation": pieces, "area": 18.0, "bbox": [1, 1, 9, 4]},
            {**shape, "id": 909, "segmentation": [[0, 7, 2, 7]], "area": 0.0, "bbox": [0, 7, 2, 0]},
            {**shape, "id": 900100285, "image_id": 285, "iscrowd": 1, "category_id": 17, "segmentation": crowd}
            | {"area": 4, "bbox": [7, 2, 2, 2]},
        ],
        "categories": [
            {"supercategory": "animal", "id": 17, "name": "cat"},
            {"supercategory": "animal", "id": 18, "name": "dog"},
        ],
    }
    (tmp_path / "instances_val2017.json").write_text(json.dumps(content))
    dataset = MaskedImageFolder(tmp_path, "val2017", annotations="instances_val2017.json")
    assert [dataset.class_names[sample.label] for sample in dataset.samples] == ["dog", "cat"]
    assert list(drawn(dataset).values()) == [
        "/.###..####/.###..####/........##/........##///",
        "//.......##/.......##////",
    ]


def test_coco__as_roboflow_exports_it(tmp_path, caplog):
    root = {"id": 0, "name": "pets", "supercategory": "none"}
    kinds = [{"id": 1, "name": "cat", "supercategory": "pets"}, {"id": 2, "name": "dog", "supercategory": "pets"}]
    for number, split in enumerate(("train", "valid")):
        name = f"{number}_jpg.rf.0a1b2c3d.jpg"
        picture(tmp_path / split / name)
        shape = {"id": 0, "image_id": 0, "category_id": 2 - number, "bbox": [1, 1, 3.0, 2], "area": 6, "iscrowd": 0}
        content = {
            "info": {"year": "2024", "version": "1", "description": "Exported from roboflow.com"},
            "licenses": [{"id": 1, "url": "", "name": "Private"}],
            "images": [{"id": 0, "license": 1, "file_name": name, "extra": {"name": f"{number}.jpg"}, **SIZE}],
            "annotations": [{**shape, "segmentation": []}],
            "categories": [root, *kinds],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    files = {"train": "train/_annotations.coco.json", "val": "valid/_annotations.coco.json"}
    dataset = MaskedImageFolder(tmp_path, annotations=files, labels_from="annotations")
    assert dataset.class_names == ["cat", "dog"]  # what all belong to is no class
    assert [(sample.split, sample.label) for sample in dataset.samples] == [("train", 1), ("val", 0)]
    assert list(drawn(dataset).values()) == ["/.###/.###/////"] * len(drawn(dataset))
