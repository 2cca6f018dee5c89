import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from camtrain.data.coco import CocoMasks, annotation_mask
from camtrain.errors import DataError, MaskError

BOX = torch.zeros(8, 12)
BOX[1:4, 2:6] = 1
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]


def run_lengths(mask: torch.Tensor) -> list[int]:
    """COCO's uncompressed code by its definition: runs of 0 and 1 in turn, down the columns, zeros first."""
    counts, current = [0], 0.0
    for value in mask.T.flatten().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def compressed(mask: torch.Tensor) -> dict[str, object]:
    code = rle_tools.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": [2, 1, 4, 3]},
        {"bbox": [2, 1, 4, 3], "segmentation": []},
        {"segmentation": POLYGON},
        {"segmentation": {"size": [8, 12], "counts": run_lengths(BOX)}},
        {"segmentation": compressed(BOX)},
    ],
    ids=["box", "box with empty segmentation", "polygon", "run lengths", "compressed run lengths"],
)
def test_annotation_mask__all_codes_of_a_rectangle_agree(annotation):
    assert torch.equal(annotation_mask(annotation, (8, 12)), BOX)


def test_annotation_mask__several_polygons_are_united():
    mask = annotation_mask({"segmentation": [*POLYGON, [8, 5, 12, 5, 12, 8, 8, 8]]}, (8, 12))
    assert mask.sum() == 12 + 12


def test_annotation_mask__box_is_cut_at_the_edge():
    mask = annotation_mask({"bbox": [-2, 6, 4, 3]}, (8, 12))
    assert mask[6:, :2].all()
    assert mask.sum() == 4


def test_annotation_mask__boxes_if_asked():
    triangle = {"segmentation": [[2, 1, 6, 1, 2, 4]], "bbox": [2, 1, 4, 3]}
    assert torch.equal(annotation_mask(triangle, (8, 12), boxes=True), BOX)
    assert annotation_mask(triangle, (8, 12)).sum() < 12


def test_annotation_mask__names_what_is_missing_or_misfit():
    with pytest.raises(DataError, match="annotation 5 has bbox None"):
        annotation_mask({"id": 5}, (8, 12))
    with pytest.raises(MaskError, match=r"\(8, 12\).*annotation 5.*\[12, 8\]"):
        annotation_mask({"id": 5, "segmentation": {"size": [12, 8], "counts": [96]}}, (8, 12))


def test_coco_masks__labels_follow_the_order_of_the_categories(write_coco, tmp_path):
    dataset = CocoMasks(tmp_path / "images", write_coco())
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.labels.tolist() == [0, 1]
    assert torch.equal(dataset[0]["mask"], BOX)
    chosen = CocoMasks(tmp_path / "images", write_coco(), categories=["dog", "cat"])
    assert chosen.labels.tolist() == [1, 0]
    assert len(CocoMasks(tmp_path / "images", write_coco(), categories=["dog"])) == 1


def test_coco_masks__label_is_the_largest_category_and_the_mask_its_union(write_coco, tmp_path):
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4]},
        {"id": 3, "image_id": 1, "category_id": 3, "bbox": [8, 4, 4, 4]},
    ]
    dataset = CocoMasks(tmp_path / "images", write_coco(annotations=annotations))
    assert [sample.id for sample in dataset.samples] == ["1"]
    assert dataset.class_names[dataset[0]["label"]] == "dog"
    assert dataset[0]["mask"].sum() == 32


def test_coco_masks__stated_area_decides_over_the_box(write_coco, tmp_path):
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "area": 3},
        {"id": 2, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]},
    ]
    dataset = CocoMasks(tmp_path / "images", write_coco(annotations=annotations))
    assert dataset.class_names[dataset[0]["label"]] == "dog"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"images": [{"id": 1, "file_name": "9.png", "width": 12, "height": 8}], "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}]}, r"1 images that do not exist, first .*9\.png"),
        ({"annotations": [{"image_id": 5, "category_id": 7, "bbox": [0, 0, 1, 1]}]}, "annotates image 5"),
        ({"annotations": [{"image_id": 1, "category_id": 99, "bbox": [0, 0, 1, 1]}]}, "category 99"),
        ({"annotations": []}, "are of no image"),
        ({"annotations": [{"image_id": 1}]}, "without category_id"),
        ({"categories": None}, "'categories'"),
    ],
    ids=["missing image", "unknown image", "unknown category", "nothing", "incomplete", "no list"],
)  # fmt: skip
def test_coco_masks__names_what_is_wrong_in_the_file(write_coco, tmp_path, lists, message):
    with pytest.raises(DataError, match=message):
        CocoMasks(tmp_path / "images", write_coco(**lists))


def test_coco_masks__names_an_image_of_another_size(write_coco, tmp_path):
    images = [{"id": k, "file_name": f"{k}.png", "width": 24, "height": 16} for k in (1, 2)]
    with pytest.raises(MaskError, match=r"24x16.*1\.png is 12x8"):
        CocoMasks(tmp_path / "images", write_coco(images=images))


def test_coco_masks__names_missing_paths_bad_json_and_categories(write_coco, tmp_path):
    path = write_coco()
    with pytest.raises(DataError, match="photos for images"):
        CocoMasks(tmp_path / "photos", path)
    with pytest.raises(DataError, match=r"no annotation file .*gone\.json"):
        CocoMasks(tmp_path / "images", tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"no category \['cow'\]; it has \['cat', 'dog'\]"):
        CocoMasks(tmp_path / "images", path, categories=["cow"])
    path.write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        CocoMasks(tmp_path / "images", path)


def test_coco_masks__names_a_corrupt_image(write_coco, tmp_path):
    path = write_coco()
    (tmp_path / "images" / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        CocoMasks(tmp_path / "images", path)
    with pytest.warns(UserWarning, match="Skipped 1"):
        assert len(CocoMasks(tmp_path / "images", path, skip_corrupt=True)) == 1


def as_coco(records: list[dict]) -> dict:
    """Standard COCO from relative polygons."""
    images, annotations = [], []
    for key, record in enumerate(records):
        width, height = record["width"], record["height"]
        images.append({"id": key, "file_name": record["file"], "width": width, "height": height})
        for category, *points in record.get("polygons") or []:
            segmentation = [(np.reshape(points, (-1, 2)) * (width, height)).flatten().tolist()]
            annotations.append(
                {"id": len(annotations), "image_id": key, "category_id": category, "segmentation": segmentation}
            )
    categories = [{"id": key, "name": f"category {key}"} for key in range(1, 91)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_masks__of_real_images_equal_the_masks_of_pycocotools(shared_data, tmp_path):
    content = json.loads((shared_data / "coco256" / "instances.json").read_text())
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(as_coco(content["images"][:40])))
    dataset = CocoMasks(shared_data / "coco256" / "images", path)
    assert len(dataset) > 10
    peer = COCO(str(path))
    for item in dataset:
        found = peer.loadAnns(peer.getAnnIds(imgIds=int(item["id"]), catIds=item["label"] + 1))
        expected = np.any([peer.annToMask(annotation) for annotation in found], axis=0)
        assert np.array_equal(item["mask"].numpy() == 1, expected)
