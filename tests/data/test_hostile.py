"""Files that once were read wrongly without a word, and the words that they are refused with now."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.data import MaskedImageFolder
from camtrain.data.batches import Batch, check_masks
from camtrain.data.files import ImageRule, list_images, read_image
from camtrain.data.masks import read_mask
from camtrain.errors import DataError, MaskError

SIZE = (8, 12)
OBJECT = np.zeros(SIZE, np.uint8)
OBJECT[2:6, 3:9] = 1


def put(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_text(content)
    else:
        Image.new("RGB", SIZE[::-1], (200, 100, 50)).save(path)


def png_of_16_bits(path, values):
    """By the PNG specification; Pillow writes no such file."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def tiff_of_16_bits(path, values, photometric):
    data = values.astype("<u2").tobytes()
    height, width, channels = values.shape
    bits = (258, channels, 16 if channels == 1 else 400)
    tags = [(256, 1, width), (257, 1, height), bits, (259, 1, 1), (262, 1, photometric), (273, 1, 500)]
    tags += [(277, 1, channels), (278, 1, height), (279, 1, len(data))]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in tags) + bytes(4)
    head = head.ljust(400, b"\0") + struct.pack(f"<{channels}H", *[16] * channels)
    path.write_bytes(head.ljust(500, b"\0") + data)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_images__of_several_channels_of_12_bits_in_16_are_refused(tmp_path, channels):
    values = np.full((*SIZE, channels), 4095)
    values[..., 3:] = 65535  # opaque, and so no sign of the range
    png_of_16_bits(tmp_path / "a.png", values)
    with pytest.raises(DataError, match=r"a\.png has several channels of 16 bits.*up to 15 of 255"):
        read_image(tmp_path / "a.png")
    with pytest.raises(MaskError, match="values below 256 would be lost"):
        read_mask(tmp_path / "a.png")
    png_of_16_bits(tmp_path / "a.png", values * 0 + 65535)
    assert read_image(tmp_path / "a.png").unique().tolist() == [255]
    with pytest.raises(DataError, match="image_range cannot be applied"):
        read_image(tmp_path / "a.png", ImageRule(value_range=[0, 4095]))


def test_images__in_tiff_of_12_bits_in_16_or_with_white_as_0_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tiff_of_16_bits(path, np.full((*SIZE, 3), 4095), 2)
    with pytest.raises(DataError, match="up to 15 of 255"):
        read_image(path)
    tiff_of_16_bits(path, OBJECT[..., None] * np.uint16(65535), 1)
    assert int((read_mask(path) == 1).sum()) == 24
    tiff_of_16_bits(path, OBJECT[..., None] * np.uint16(65535), 0)
    with pytest.raises(DataError, match="whose white is 0"):
        read_mask(path)


def test_images__in_tiff_with_a_quarter_turn_are_read_right_or_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    stored.save(tmp_path / "a.tif", exif=exif, compression="tiff_lzw")
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[3, 0], [4, 1], [5, 2]]
    stored.save(tmp_path / "a.tif", exif=exif)
    with pytest.raises(DataError, match="without compression, not in RGB, whose orientation is a quarter turn"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (OBJECT / 255, "nothing above 0.0039, 1 of 255.*ToTensor"),
        (np.where(OBJECT, 1, 2) / 255, "nothing above 0.0078, 2 of 255"),
        (OBJECT * 2.0 - 1, "no 0.*Normalize images alone"),
    ],
)
def test_masks_of_a_batch__that_were_transformed_as_images_are_refused(mask, message):
    masks = torch.from_numpy(mask).float()[None]
    with pytest.raises(MaskError, match=message):
        check_masks(Batch(torch.zeros(1, 3, *SIZE), masks=masks))
    check_masks(Batch(torch.zeros(1, 3, *SIZE), masks=torch.full((1, *SIZE), 0.05)))  # faint, and no kinds
    border = torch.ones(1, *SIZE)
    border[..., 0] = -1  # a crop of an object and its border
    check_masks(Batch(torch.zeros(1, 3, *SIZE), masks=border))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.png,crane, bird\n1.png,crane, machine\n", r"Row 2 of .*more cells.*in quotes"),
        ("file,label,label\n0.png,cat,dog\n", "several columns 'label'"),
        ("file,label\n0.png,cat\n1.png,nan\n", "Row 3 .* nothing in the column 'label'"),
    ],
)
def test_index__that_would_be_read_shifted_is_refused(tmp_path, text, message):
    for number in range(2):
        put(tmp_path / f"{number}.png")
    put(tmp_path / "index.csv", text)
    with pytest.raises(DataError, match=message):
        MaskedImageFolder(tmp_path, index="index.csv")


def test_class_folders__follow_links_and_say_which_photographs_are_left_out(tmp_path, caplog):
    put(tmp_path / "elsewhere/0.png")
    put(tmp_path / "data/cat/1.png")
    put(tmp_path / "data/dog/2.png")
    put(tmp_path / "data/dog/3.HEIC", "")
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/cat/itself").symlink_to(tmp_path / "data")
    with caplog.at_level("INFO", "camtrain"):
        dataset = MaskedImageFolder(tmp_path / "data")
    assert [sample.id for sample in dataset.samples] == ["cat/1.png", "cat/more/0.png", "dog/2.png"]
    assert "since such files are not read: 1 .heic" in caplog.text
    assert len(list_images(tmp_path / "data")) == 3


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (["cat/0.png", "dog/1.png"], ["train/0.png", "val/0.png"], "train/0.png and val/0.png, and only .*cannot be"),
        (["Cat/0.png", "dog/1.png"], ["Cat/0.png", "dog/1.png"], "class 'Cat' of the images is 'cat'"),
    ],
)
def test_annotations__that_only_seem_to_be_of_an_image_are_refused(tmp_path, files, names, message):
    for file in files:
        put(tmp_path / "images" / file)
    images = [{"id": key, "file_name": name, "height": 8, "width": 12} for key, name in enumerate(names)]
    box = {"bbox": [3, 2, 6, 4], "segmentation": [], "iscrowd": 0}
    annotations = [{"id": key, "image_id": key, "category_id": key, **box} for key in (0, 1)]
    categories = [{"id": key, "name": name} for key, name in enumerate(("cat", "dog"))]
    put(tmp_path / "coco.json", json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    with pytest.raises(DataError, match=message):
        MaskedImageFolder(tmp_path, "images", annotations="coco.json")


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ((0.25, 0.25, 0.75, 0.75), "corners are pixels"),
        ((9, 6, 4, 3), "upper left one first"),
        ((13, 9, 23, 15), "beyond an image of 12x8 pixels"),
    ],
)
def test_boxes__in_other_units_are_refused(tmp_path, corners, message):
    put(tmp_path / "images/0.png")
    tags = "".join(
        f"<{name}>{value}</{name}>" for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    text = f"<annotation><object><name>cat</name><bndbox>{tags}</bndbox></object></annotation>"
    put(tmp_path / "Annotations/0.xml", text)
    with pytest.raises((DataError, MaskError), match=message):
        MaskedImageFolder(tmp_path, "images", annotations="Annotations")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables__are_read_with_any_delimiter(tmp_path, delimiter):
    put(tmp_path / "images/0.png")
    text = "file,xmin,ymin,xmax,ymax,class\n0.png,3,2,9,6,cat\n".replace(",", delimiter)
    put(tmp_path / "boxes.csv", text)
    item = MaskedImageFolder(tmp_path, "images", annotations="boxes.csv")[0]
    assert np.array_equal(item["mask"].numpy(), OBJECT)


def test_yolo__has_whole_classes_in_text(tmp_path):
    put(tmp_path / "images/0.png")
    put(tmp_path / "data.yaml", "train: images\nnames: [dog, cat]\n")
    put(tmp_path / "labels/0.txt", "0.5 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match=r"Class 0\.5 has no name"):
        MaskedImageFolder(tmp_path, annotations="data.yaml")
    (tmp_path / "labels/0.txt").write_bytes("1 0.5 0.5 0.5 0.5".encode("utf-16"))
    with pytest.raises(DataError, match=r"0\.txt is no text in UTF-8"):
        MaskedImageFolder(tmp_path, annotations="data.yaml")
