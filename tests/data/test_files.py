import re
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.data.checking import check_samples
from camtrain.data.files import ImageRule, Sample, check_image, image_size, read_image
from camtrain.data.folders import MaskedImageFolder
from camtrain.errors import ConfigurationError, DataError, MaskError


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)
    return path


VALUES = np.array([[0, 1, 128, 255]], np.uint8)


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
    assert [look.sample.image for look in kept] == [good]


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
        ("{}.npy", "cat/0.npy, cat/1.npy, cat/2.npy, ..."),
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
        ("file,label,split\ncat/0.png,cat,somewhere\n", r"\['somewhere'\]"),
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


RAMP = np.linspace(0, 65535, 400).reshape(20, 20)


def test_read_image__of_16_bits_is_scaled_by_their_range(tmp_path):
    expected = torch.from_numpy((RAMP.astype(np.uint16) / 257).round().astype(np.uint8))
    for name in ("i.png", "i.tif", "i.pgm"):
        assert torch.equal(read_image(save(tmp_path / name, RAMP.astype(np.uint16)))[1], expected)
    assert torch.equal(read_image(save(tmp_path / "f.tif", (RAMP / 65535).astype(np.float32)))[0], expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((RAMP / 16).astype(np.uint16), r"16 bits, of which it uses values up to 4095.*image_range.*\[0, 4095\]"),
        ((RAMP / 100).astype(np.float32), r"floating point values from 0 to 655.*image_range"),
        ((RAMP - 1000).astype(np.int32), r"32 bits, and values from -1000 to 64535.*\[-1000, 64535\]"),
        (np.full((4, 4), np.nan, np.float32), "not finite"),
    ],
)
def test_read_image__of_more_than_8_bits_asks_where_the_range_is_in_doubt(tmp_path, values, words):
    path = save(tmp_path / "i.tif", values)
    with pytest.raises(DataError, match=words):
        read_image(path)
    with pytest.raises(DataError, match=words):
        check_samples([Sample(path, 0)])


def test_read_image__takes_the_range_that_is_named(tmp_path):
    values = np.array([[-200, -160, 40, 240, 300]], np.int32)
    rule = ImageRule(value_range=(-160, 240))
    assert read_image(save(tmp_path / "ct.tif", values), rule)[0].tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize(("channels", "shape"), [(1, (1, 4, 6)), (3, (3, 4, 6)), (4, (4, 4, 6))])
def test_read_image__of_as_many_channels_as_asked_for(tmp_path, channels, shape):
    path = save(tmp_path / "i.png", np.full((4, 6, 4), 7, np.uint8))
    assert read_image(path, ImageRule(channels=channels)).shape == shape
    with pytest.raises(ConfigurationError, match="channels is 1, 3 or 4; got 5"):
        ImageRule(channels=5)


def write_tiff(path, channels, photometric):
    """One row of two pixels: Pillow writes no more than four channels."""
    extra = channels - (3 if photometric == 2 else 1)
    tags = [(256, 1, 2), (257, 1, 1), (258, channels, None), (259, 1, 1), (262, 1, photometric), (273, 1, 200)]
    tags += [(277, 1, channels), (278, 1, 1), (279, 1, 2 * channels), (338, extra, None)]
    bits = 10 + 12 * len(tags) + 4  # where the words of eight bits stand, and after them those of no meaning
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for tag, count, value in tags:
        place = {258: bits, 338: bits + 20}.get(tag, value)
        if value is None and count <= 2:  # short lists stand in the tag itself
            place = 0 if tag == 338 else 8 | 8 << 16
        head += struct.pack("<HHII", tag, 3, count, place)
    head += struct.pack("<I", 0) + struct.pack(f"<{channels}H", *[8] * channels)
    path.write_bytes(head.ljust(200, b"\0") + bytes(range(2 * channels)))
    return path


@pytest.mark.parametrize(("channels", "photometric"), [(5, 2), (6, 2), (5, 1)])
def test_read_image__refuses_channels_that_would_be_dropped(tmp_path, channels, photometric):
    path = write_tiff(tmp_path / "bands.tif", channels, photometric)
    with pytest.raises(DataError, match=rf"bands\.tif has {channels} channels.*skip_corrupt"):
        read_image(path)
    with pytest.raises(DataError, match=f"has {channels} channels"):
        check_image(path, ImageRule())


def test_read_image__of_four_channels_without_a_meaning_is_refused_where_all_are_asked_for(tmp_path):
    path = write_tiff(tmp_path / "near_infrared.tif", 4, 2)
    assert read_image(path).flatten().tolist() == [0, 4, 1, 5, 2, 6]
    with pytest.raises(DataError, match="has 4 channels"):
        read_image(path, ImageRule(channels=4))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image__is_upright(tmp_path, suffix, orientation):
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[0, 0] = 255  # the first stored pixel; where it is shown is what the standard's table says
    shown = {1: (0, 0), 2: (0, 5), 3: (3, 5), 4: (3, 0), 5: (0, 0), 6: (0, 3), 7: (5, 3), 8: (5, 0)}[orientation]
    path = tmp_path / f"i.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.shape[1:] == image_size(path) == ((6, 4) if orientation > 4 else (4, 6))
    assert check_image(path, ImageRule())[0] == image_size(path)
    assert (image[0] == 255).nonzero().tolist() == [list(shown)]


def test_masked_image_folder__says_that_photographs_were_turned(tmp_path, caplog):
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20), np.uint8)
    image[:, :10], mask[:10] = 255, 255
    (tmp_path / "images/cat").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "images/cat/0.jpg", exif=exif)
    save(tmp_path / "masks/cat/0.png", mask)
    with caplog.at_level("INFO", "camtrain"):
        item = MaskedImageFolder(tmp_path, "images", "masks")[0]
    assert item["image"][:, item["mask"] == 1].mean() > 0.95
    assert "1 of 1 photographs have an EXIF orientation and are turned upright" in caplog.text
    save(tmp_path / "masks/cat/0.png", mask.T)  # drawn on the stored pixels
    with pytest.raises(MaskError, match="drawn on the stored pixels: set upright: false"):
        MaskedImageFolder(tmp_path, "images", "masks")
    item = MaskedImageFolder(tmp_path, "images", "masks", upright=False)[0]
    assert item["image"][:, item["mask"] == 1].mean() > 0.95


def test_read_image__refuses_several_pictures_and_decompression_bombs(tmp_path):
    frames = [Image.new("L", (8, 8), 50 * number) for number in range(3)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=rf"{name} holds 3 pictures"):
            read_image(tmp_path / name)
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    good = save(tmp_path / "good.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"bomb\.png is too large.*400000000 pixels"):
        check_samples([Sample(tmp_path / "bomb.png", 0)])
    samples = [Sample(path, 0) for path in (tmp_path / "bomb.png", tmp_path / "a.gif", good)]
    with pytest.warns(UserWarning, match="Skipped 2 of 3"):
        assert [look.sample.image for look in check_samples(samples, skip_corrupt=True)] == [good]
