import numpy as np
import pytest
from PIL import Image

from camtrain.data.folders import MaskedImageFolder
from camtrain.data.layouts import MaskFinder, read_class_folders, split_of
from camtrain.errors import DataError, MaskError

OBJECT = np.zeros((8, 12), np.uint8)
OBJECT[2:6, 3:9] = 255  # 24 pixels


def put(root, *names, mask=False):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(OBJECT if mask else np.zeros((8, 12, 3), np.uint8)).save(root / name)


def test_split_of__knows_the_common_names_in_any_case():
    words = ("Train", "TRAINING", "train2017", "train_images", "valid", "validation", "Val", "dev", "Test", "testing")
    assert [split_of(word) for word in words] == ["train"] * 4 + ["val"] * 4 + ["test"] * 2
    assert [split_of(word) for word in ("trainer", "evaluation", "cat", "train_station", "")] == [None] * 5


@pytest.mark.parametrize(
    "names", [("Train", "Val"), ("training", "validation"), ("TRAIN", "valid"), ("train2017", "val2017")]
)
def test_class_folders__in_splits_of_any_common_name(tmp_path, caplog, names):
    for name in names:
        put(tmp_path, f"{name}/cat/0.png", f"{name}/dog/0.png")
    with caplog.at_level("INFO", "camtrain"):
        dataset = MaskedImageFolder(tmp_path)
    assert dataset.class_names == ["cat", "dog"]
    assert [sample.split for sample in dataset.samples] == ["train"] * 2 + ["val"] * 2
    assert f"{names[1]} is read as val" in caplog.text
    assert "splits: train 2, val 2 images" in caplog.text
    assert len(MaskedImageFolder(tmp_path, split="val")) == 2


def test_class_folders__refuse_folders_that_nobody_asked_to_leave_out(tmp_path):
    put(tmp_path, "train/cat/0.png", "val/cat/0.png", "extra/cat/0.png")
    with pytest.raises(DataError, match=r"splits train, val.*images in extra.*exclude: \[extra\]"):
        MaskedImageFolder(tmp_path)
    assert len(MaskedImageFolder(tmp_path, exclude=["extra"])) == 2


def test_class_folders__may_be_called_train_where_they_hold_images(tmp_path):
    put(tmp_path, "bus/0.png", "train/0.png")
    dataset = MaskedImageFolder(tmp_path)
    assert dataset.class_names == ["bus", "train"]
    assert [sample.split for sample in dataset.samples] == [None, None]


def test_class_folders__of_masks_beside_splits_are_no_images(tmp_path):
    put(tmp_path, "train/cat/0.png", "val/cat/0.png")
    put(tmp_path, "masks/train/cat/0.png", "masks/val/cat/0.png", mask=True)
    dataset = MaskedImageFolder(tmp_path, masks="masks")
    assert [int((item["mask"] == 1).sum()) for item in dataset] == [24, 24]


@pytest.mark.parametrize("tail", ["_mask", "_mask_1", "_superpixels", "_segmentation", "-gt", "_Mask", ".seg"])
def test_class_folders__refuse_masks_that_would_be_trained_as_images(tmp_path, tail):
    put(tmp_path, "cat/0.png", f"cat/0{tail}.png", "dog/1.png")
    with pytest.raises(DataError, match=rf"cat/0{tail}\.png looks like the mask.*mask_suffix"):
        MaskedImageFolder(tmp_path)
    assert len(MaskedImageFolder(tmp_path, exclude=["*_*", "*-gt*", "*.seg*"])) == 2
    assert len(MaskedImageFolder(tmp_path, exclude=[])) == 3


def test_class_folders__refuse_a_folder_of_masks_as_a_class(tmp_path):
    put(tmp_path, "images/0.png", "images/1.png", "masks/0.png", "masks/1.png")
    with pytest.raises(DataError, match=r"folder masks .*Set images: images and masks: masks"):
        MaskedImageFolder(tmp_path)


def test_class_folders__join_several_masks_of_an_image(tmp_path):
    put(tmp_path, "benign/benign (1).png", "benign/benign (2).png")
    put(tmp_path, "benign/benign (1)_mask.png", "benign/benign (2)_mask.png", mask=True)
    second = np.zeros((8, 12), np.uint8)
    second[0, :2] = 255
    Image.fromarray(second).save(tmp_path / "benign/benign (1)_mask_1.png")
    dataset = MaskedImageFolder(tmp_path, mask_suffix="_mask")
    assert [sample.image.name for sample in dataset.samples] == ["benign (1).png", "benign (2).png"]
    assert [int(item["mask"].sum()) for item in dataset] == [26, 24]


@pytest.mark.parametrize("name", ["0.gif", "0.tif", "0.bmp", "0.jpg.png", "../0.png"])
def test_masks__are_found_by_the_images_name_whatever_their_suffix(tmp_path, name):
    put(tmp_path, "images/cat/0.jpg")
    put(tmp_path, f"masks/cat/{name}", mask=True)
    assert int(MaskedImageFolder(tmp_path, "images", "masks")[0]["mask"].sum()) == 24


def test_masks__of_one_name_or_of_two_images_are_refused(tmp_path):
    put(tmp_path, "images/cat/0.jpg", "images/dog/0.jpg")
    put(tmp_path, "masks/0.png", mask=True)
    with pytest.raises(DataError, match=r"0\.png would be the mask of two images, cat/0\.jpg and dog/0\.jpg"):
        MaskedImageFolder(tmp_path, "images", "masks")
    put(tmp_path, "masks/0.gif", mask=True)
    with pytest.raises(DataError, match="masks of one name"):
        MaskFinder(tmp_path / "masks")(MaskedImageFolder(tmp_path / "images").samples[0].image.relative_to(tmp_path))


def test_class_folders__that_are_numbers_are_in_the_order_of_numbers(tmp_path, caplog):
    put(tmp_path, *(f"{number}/0.png" for number in (0, 1, 2, 10)))
    with caplog.at_level("INFO", "camtrain"):
        assert MaskedImageFolder(tmp_path).class_names == ["0", "1", "2", "10"]
    assert "torchvision's ImageFolder" in caplog.text


def test_class_folders__of_one_name_are_refused(tmp_path):
    put(tmp_path, "train/Cat/0.png", "val/cat/0.png")
    with pytest.raises(DataError, match="'Cat' and 'cat': two of one name"):
        MaskedImageFolder(tmp_path)


def test_class_folders__side_by_side_are_two_classes_whatever_their_case(tmp_path, caplog):
    put(tmp_path, *(f"{split}/{name}/0.png" for split in ("train", "val") for name in ("Cardigan", "cardigan")))
    with caplog.at_level("INFO", "camtrain"):
        dataset = MaskedImageFolder(tmp_path)
    assert dataset.class_names == ["Cardigan", "cardigan"]
    assert dataset.labels.tolist() == [0, 1, 0, 1]
    assert "Cardigan and cardigan are two classes" in caplog.text


def index(root, text):
    (root / "index.csv").write_text(text)
    return {"root": root, "index": "index.csv"}


@pytest.fixture
def flat(tmp_path):
    put(tmp_path, *(f"{number}.png" for number in range(12)))
    put(tmp_path, *(f"m/{number}.png" for number in range(12)), mask=True)
    return tmp_path


def test_index__numbers_are_sorted_as_numbers(flat):
    rows = "".join(f"{number}.png,{number}\n" for number in range(12))
    dataset = MaskedImageFolder(**index(flat, f"file,label\n{rows}"))
    assert dataset.class_names == [str(number) for number in range(12)]
    assert dataset.labels.tolist() == list(range(12))


@pytest.mark.parametrize(
    "header", ["image_path,class,mask_path,subset", "Filename;Target;Segmentation;Split", "img\tspecies\tmask\tpart"]
)
def test_index__of_any_column_names(flat, header):
    mark = next(mark for mark in ",;\t" if mark in header)
    rows = "\n".join(mark.join(row) for row in (["0.png", "cat", "m/0.png", "Training"], ["1.png", "dog", "", "valid"]))
    words = {"label_column": "species", "split_column": "part"} if "species" in header else {}
    dataset = MaskedImageFolder(**index(flat, f"{header}\n{rows}\n"), **words)
    assert (dataset.class_names, [sample.split for sample in dataset.samples]) == (["cat", "dog"], ["train", "val"])
    assert int((dataset[0]["mask"] == 1).sum()) == 24
    assert bool((dataset[1]["mask"] == -1).all())


def test_index__of_wilds_is_read_as_it_is(flat, caplog):
    text = "img_id,img_filename,y,split,place,place_filename\n"
    text += "".join(f"{n},{n}.png,{n % 2},{n % 3},{n // 6},/o/x.jpg\n" for n in range(12))
    with caplog.at_level("INFO", "camtrain"):
        dataset = MaskedImageFolder(**index(flat, text))
    assert [sample.split for sample in dataset.samples[:3]] == ["train", "val", "test"]
    assert dataset.group_names == ["y 0, place 0", "y 0, place 1", "y 1, place 0", "y 1, place 1"]
    assert dataset.labels.tolist() == [0, 1] * 6
    assert "0 is train, 1 val, 2 test" in caplog.text
    assert "image is the column img_filename" in caplog.text


def test_index__finds_files_by_stem(flat):
    assert MaskedImageFolder(**index(flat, "image_id,dx\n0,mel\n1,nv\n")).samples[1].image == flat / "1.png"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("file,label\n0.png,cat\n0.png,dog\n", {}, r"gives 0\.png the labels 'cat' and 'dog'"),
        ("file,label,mask\n0.png,cat,a.png\n0.png,cat,b.png\n", {}, r"gives 0\.png the masks 'a.png' and 'b.png'"),
        ("file,label\n0.png,\n", {}, "Row 2 .* nothing in the column 'label'"),
        ("file,label,split\n0.png,cat,train\n1.png,cat,\n", {}, r"got \[''\]"),
        ("file,label,split\n0.png,cat,0\n1.png,cat,1\n", {}, r"got \['0', '1'\]"),
        ("path,image,label\n0.png,1.png,cat\n", {}, r"\['path', 'image'\].*image_column"),
        ("file,label\n0.png,cat\n", {"label_column": "breed"}, "no column 'breed'.*label_column"),
        ("file,label\n0.png,Cat\n1.png,cat\n", {}, "two of one name"),
    ],
)
def test_index__says_what_is_wrong(flat, text, words, message):
    with pytest.raises(DataError, match=message):
        MaskedImageFolder(**index(flat, text), **words)


def test_values_by_class__are_those_of_the_images_class(tmp_path):
    labels = np.zeros((8, 12), np.uint8)
    labels[:2], labels[2:5] = 8, 12
    for name in ("cat", "dog"):
        put(tmp_path, f"images/{name}/0.png")
        (tmp_path / "masks" / name).mkdir(parents=True)
        Image.fromarray(labels).save(tmp_path / "masks" / name / "0.png")
    dataset = MaskedImageFolder(tmp_path, "images", "masks", mask_values={"cat": 8, "dog": [12]})
    assert [int(item["mask"].sum()) for item in dataset] == [24, 36]
    with pytest.raises(ValueError, match=r"classes \['cat'\]; the images have \['cat', 'dog'\]"):
        MaskedImageFolder(tmp_path, "images", "masks", mask_values={"cat": 8})
    with pytest.raises(MaskError, match="in none of 2 masks"):
        MaskedImageFolder(tmp_path, "images", "masks", mask_values=[3])
    with pytest.raises(MaskError, match=r"0\.png has the values 0 \(38%\).*\(2 of 2 images"):
        MaskedImageFolder(tmp_path, "images", "masks")


def test_read_class_folders__leaves_out_hidden_and_foreign_folders(tmp_path):
    put(tmp_path, "cat/0.png", ".thumbnails/0.png", "__MACOSX/0.png")
    assert read_class_folders(tmp_path, MaskFinder(None)).class_names == ["cat"]
