import re

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.data.files import Sample, check_samples, read_image, read_mask
from camtrain.data.folders import MaskedImageFolder
from camtrain.errors import DataError, MaskError


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)
    return path


VALUES = np.array([[0, 1, 128, 255]], np.uint8)


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (VALUES, None),
        (VALUES > 0, None),
        (VALUES.astype(np.uint16) * 256, None),
        (np.stack([VALUES * 0, VALUES, VALUES * 0], -1), None),
        (np.stack([VALUES, VALUES, VALUES, VALUES * 0 + 255], -1), None),
        (np.stack([VALUES, VALUES * 0 + 255], -1), None),
    ],
    ids=["gray", "bilevel", "16 bit", "color", "color with alpha", "gray with alpha"],
)
def test_read_mask__every_value_but_zero_is_the_object(tmp_path, values, mode):
    assert read_mask(save(tmp_path / "m.png", values, mode)).tolist() == [[0, 1, 1, 1]]


def test_read_mask__of_a_palette_reads_indices_not_colors(tmp_path):
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0])  # background white, objects black
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1, 1]]


def test_read_mask__soft_keeps_gray_values(tmp_path):
    mask = read_mask(save(tmp_path / "m.png", VALUES), soft=True)
    assert torch.allclose(mask, torch.tensor([[0, 1, 128, 255]]) / 255)


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P", "CMYK"])
def test_read_image__is_rgb_whatever_the_mode(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    path = save(tmp_path / f"i.{suffix}", np.full((4, 6, 3), 255, np.uint8), mode)
    assert read_image(path).shape == (3, 4, 6)
    assert read_image(path).min() >= 254


def corrupt(path):
    path.write_bytes(path.read_bytes()[:-30])


def big_image(path):
    return save(path, np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def test_check_samples__names_a_truncated_image(tmp_path):
    path = big_image(tmp_path / "a.png")
    corrupt(path)
    with pytest.raises(DataError, match=r"a\.png cannot be read.*skip_corrupt"):
        check_samples([Sample(path, 0)])
    assert len(check_samples([Sample(path, 0)], verify="headers")) == 1
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)


def test_check_samples__skips_corrupt_images_only_if_asked_and_says_so(tmp_path):
    good, bad = big_image(tmp_path / "good.png"), big_image(tmp_path / "bad.png")
    bad.write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"Skipped 1 of 2 images: .*bad\.png"):
        kept = check_samples([Sample(good, 0), Sample(bad, 1)], skip_corrupt=True)
    assert [sample.image for sample in kept] == [good]


@pytest.mark.parametrize("verify", ["decode", "headers"])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_check_samples__names_mask_and_image_of_different_sizes(tmp_path, verify, skip_corrupt):
    image, mask = big_image(tmp_path / "a.png"), save(tmp_path / "m.png", VALUES)
    with pytest.raises(MaskError, match=r"m\.png is 4x1.*a\.png is 32x32"):
        check_samples([Sample(image, 0, mask)], verify, skip_corrupt)


def test_check_samples__names_a_missing_file_and_an_unknown_mode(tmp_path):
    with pytest.raises(DataError, match=r"no file .*gone\.png"):
        check_samples([Sample(tmp_path / "gone.png", 0)])
    with pytest.raises(DataError, match="'fast'"):
        check_samples([], verify="fast")


def test_masked_image_folder__reads_parallel_folders(class_folders):
    dataset = MaskedImageFolder(class_folders, images="images", masks="masks")
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.labels.tolist() == [0] * 4 + [1] * 4
    item = dataset[1]
    assert item["id"] == "cat/1.png"
    assert "group" not in item
    assert item["image"][:, 0, 0].tolist() == [1, 0, 0]
    assert item["mask"][:, :6].min() == 1
    assert item["mask"][:, 6:].max() == 0


def test_masked_image_folder__an_image_without_a_mask_is_unannotated(class_folders):
    dataset = MaskedImageFolder(class_folders, images="images", masks="masks")
    assert dataset[7]["mask"].shape == (8, 12)
    assert (dataset[7]["mask"] == -1).all()


def test_masked_image_folder__without_masks_has_none(class_folders):
    dataset = MaskedImageFolder(class_folders, images="images")
    assert all((item["mask"] == -1).all() for item in dataset)


def test_masked_image_folder__a_share_keeps_its_masks(class_folders):
    dataset = MaskedImageFolder(class_folders, images="images", masks="masks", mask_fraction=0.25)
    assert sum(bool(dataset.annotated[i]) for i in range(8)) == 2
    assert all((dataset[i]["mask"] == -1).all() for i in range(8) if not dataset.annotated[i])


def test_masked_image_folder__reads_masks_beside_images(tmp_path):
    for k in range(2):
        save(tmp_path / "cat" / f"{k}.jpg", np.zeros((4, 4, 3), np.uint8))
    save(tmp_path / "cat" / "1_mask.png", np.eye(4, dtype=np.uint8) * 255)
    dataset = MaskedImageFolder(tmp_path, mask_suffix="_mask")
    assert len(dataset) == 2
    assert (dataset[0]["mask"] == -1).all()
    assert torch.equal(dataset[1]["mask"], torch.eye(4))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("{}.jpg", "cat/0.jpg, cat/1.jpg, cat/2.jpg, ..."),
        ("{}_mask.png", "cat/0_mask.png, "),
    ],
)
def test_masked_image_folder__refuses_masks_of_which_none_is_an_images(class_folders, name, found):
    for path in (class_folders / "masks").rglob("*.png"):
        path.rename(path.with_name(name.format(path.stem)))
    looked_for = r"looked for cat/0\.png, of cat/0\.png\. Save masks as PNG"
    with pytest.raises(DataError, match=rf"No file in .*masks is the mask.*found {re.escape(found)}.*{looked_for}"):
        MaskedImageFolder(class_folders, images="images", masks="masks")


def test_masked_image_folder__refuses_an_empty_folder_of_masks(class_folders):
    (class_folders / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty is the mask of an image: found no file; looked for cat/0\.png"):
        MaskedImageFolder(class_folders, images="images", masks="empty")
    with pytest.raises(DataError, match=r"looked for cat/0_m\.png, of cat/0\.png"):
        MaskedImageFolder(class_folders, images="images", mask_suffix="_m")


def test_masked_image_folder__needs_no_masks_in_a_split_of_its_own(tmp_path, caplog):
    for split in ("train", "val"):
        save(tmp_path / "images" / split / "cat" / "0.png", np.zeros((4, 4, 3), np.uint8))
    save(tmp_path / "masks" / "train" / "cat" / "0.png", np.eye(4, dtype=np.uint8))
    with caplog.at_level("INFO", "camtrain"):
        dataset = MaskedImageFolder(tmp_path, images="images", masks="masks", split="val")
    assert (dataset[0]["mask"] == -1).all()
    assert "annotated: 0 of 1 images" in caplog.text


def test_masked_image_folder__says_once_how_many_images_are_annotated(class_folders, caplog):
    with caplog.at_level("INFO", "camtrain"):
        MaskedImageFolder(class_folders, images="images", masks="masks").subset([0, 1])
    assert [record.message.partition(" images")[0] for record in caplog.records] == ["annotated: 7 of 8"]
    caplog.clear()
    with caplog.at_level("INFO", "camtrain"):
        few = MaskedImageFolder(class_folders, images="images", masks="masks", mask_fraction=0.25)
        MaskedImageFolder(class_folders, images="images")
    kept = sum(bool((item["mask"] >= 0).all()) for item in few)
    assert [record.message.partition(" images")[0] for record in caplog.records] == [f"annotated: {kept} of 8"]


def write_index(root, text):
    (root / "index.csv").write_text(text)
    return {"root": root, "images": "images", "masks": "masks", "index": "index.csv"}


def test_masked_image_folder__reads_an_index_with_masks_groups_and_splits(class_folders):
    arguments = write_index(
        class_folders,
        "file,label,mask,group,split\ncat/0.png,feline,cat/1.png,indoors,train\ncat/1.png,feline,,outdoors,train\n"
        "dog/0.png,canine,,indoors,test\n",
    )
    dataset = MaskedImageFolder(**arguments, split="train")
    assert dataset.class_names == ["canine", "feline"]
    assert dataset.group_names == ["indoors", "outdoors"]
    assert [(s.label, s.group, s.mask.name) for s in dataset.samples] == [(1, 0, "1.png"), (1, 1, "1.png")]
    assert dataset[1]["group"] == 1


def test_masked_image_folder__reads_folders_of_splits(tmp_path):
    for name in ("train/cat/0.png", "train/dog/0.png", "val/dog/1.png"):
        save(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert [(s.label, s.split) for s in MaskedImageFolder(tmp_path).samples] == [(0, "train"), (1, "train"), (1, "val")]
    assert MaskedImageFolder(tmp_path, split="val").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na,b\n", r"no column \['file'\].*\['name', 'label'\]"),
        ("file,label\n", "no rows"),
        ("file,label,split\ncat/0.png,cat,training\n", r"\['training'\]"),
        ("file,label\ncat/9.png,cat\n", r"no file .*9\.png"),
        ("file,label,mask\ncat/0.png,cat,gone.png\n", r"no file .*gone\.png"),
    ],
)
def test_masked_image_folder__names_what_is_wrong_in_an_index(class_folders, text, message):
    with pytest.raises(DataError, match=message):
        MaskedImageFolder(**write_index(class_folders, text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": "gone"}, "gone for the dataset"),
        ({"images": "photos"}, "photos for images"),
        ({"masks": "outlines"}, "outlines for masks"),
        ({"images": "images/cat"}, "no images in class folders"),
        ({"index": "list.csv"}, r"no index file .*list\.csv"),
    ],
)
def test_masked_image_folder__names_a_missing_folder_before_anything_else(class_folders, arguments, message):
    arguments = {"root": class_folders, **arguments}
    if arguments["root"] == "gone":
        arguments["root"] = class_folders / "gone"
    with pytest.raises(DataError, match=message):
        MaskedImageFolder(**arguments)


def test_masked_image_folder__subset_has_its_own_transform_and_masks(class_folders):
    dataset = MaskedImageFolder(class_folders, images="images", masks="masks")
    part = dataset.subset([1, 5], transform=lambda image, mask: (image[:, :2], mask[:2]), mask_fraction=0.0)
    assert [item["id"] for item in part] == ["cat/1.png", "dog/1.png"]
    assert part[0]["image"].shape == (3, 2, 12)
    assert (part[0]["mask"] == -1).all()
    assert dataset[1]["mask"].min() == 0


@pytest.mark.parametrize(("name", "classes"), [("sysu_shapes", 5), ("caltech101_masks", 24)])
def test_masked_image_folder__reads_real_sets(shared_data, name, classes):
    dataset = MaskedImageFolder(shared_data / name, "images", "masks", index="index.csv", verify="headers")
    assert len(dataset.class_names) == classes
    assert all(sample.mask is not None for sample in dataset.samples)
    assert 0 < dataset[0]["mask"].mean() < 1
