import numpy as np
import pytest
import torch
from torchvision import datasets

from camtrain.data.decoy import DecoyFashionMNIST, DecoyMNIST, plant_decoys
from camtrain.errors import DataError

# Written out from the construction, 255 - 25 * label, not computed.
GRAY = [255, 230, 205, 180, 155, 130, 105, 80, 55, 30]
CORNERS = {0: (0, 0), 1: (0, 24), 2: (24, 0), 3: (24, 24)}


def corner_values(image):
    """Gray value of each corner's 4x4 square where it is one value, else None."""
    squares = [image[y : y + 4, x : x + 4] for y, x in CORNERS.values()]
    return [int(s[0, 0]) if (s == s[0, 0]).all() else None for s in squares]


@pytest.mark.parametrize("label", range(10))
@pytest.mark.parametrize("corner", range(4))
def test_plant_decoys__draws_the_value_of_the_label_in_the_corner(label, corner):
    images, masks = plant_decoys(
        torch.zeros(1, 28, 28, dtype=torch.uint8), torch.tensor([label]), torch.tensor([corner])
    )
    y, x = CORNERS[corner]
    expected = np.zeros((28, 28))
    expected[y : y + 4, x : x + 4] = GRAY[label]
    assert np.array_equal(images[0].numpy(), expected)
    assert np.array_equal(masks[0].numpy(), expected == 0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_decoy_mnist__tells_the_label_in_training_and_validation(digits, split):
    dataset = DecoyMNIST(digits, split)
    for index in range(0, len(dataset), 7):
        item = dataset[index]
        values = corner_values((item["image"][0] * 255).round())
        assert GRAY[item["label"]] in values
        assert item["group"] == 0


def test_decoy_mnist__test_decoys_are_random_and_grouped_by_whether_they_match(digits):
    dataset = DecoyMNIST(digits, "test")
    shown = [next(v for v in corner_values(image[0]) if v is not None) for image in dataset.pictures.images]
    told = torch.tensor([GRAY.index(value) for value in shown])
    assert torch.equal(dataset.groups == 0, told == dataset.labels)
    assert 0.02 < (told == dataset.labels).double().mean() < 0.2
    assert len(told.unique()) == 10


def test_decoy_mnist__mask_is_zero_exactly_where_the_image_was_changed(digits):
    original = datasets.MNIST(str(digits), train=False).data
    images, masks = DecoyMNIST(digits, "test").pictures
    assert torch.equal(images[:, 0] != original, masks == 0)  # the noise lies below the smallest decoy value
    assert (masks == 0).sum((1, 2)).eq(16).all()


def test_decoy_mnist__uses_all_corners_equally(digits):
    counts = torch.bincount(DecoyMNIST(digits, "train").corners, minlength=4)
    assert counts.min() > 60  # 90 expected


def test_decoy_mnist__without_decoys_is_the_original(digits):
    dataset = DecoyMNIST(digits, "test", decoy=False)
    assert torch.equal(dataset.pictures.images[:, 0], datasets.MNIST(str(digits), train=False).data)
    assert dataset.pictures.masks.all()
    assert (dataset.groups == 1).all()


def test_decoy_mnist__twins_with_and_without_decoys_share_their_images(digits):
    with_decoys, without = DecoyMNIST(digits, "train", size=50), DecoyMNIST(digits, "train", decoy=False, size=50)
    assert torch.equal(with_decoys.labels, without.labels)
    assert torch.equal(with_decoys.originals, without.originals)


def test_decoy_mnist__is_determined_by_the_seed(digits):
    a, b, c = (DecoyMNIST(digits, "train", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.pictures.images, b.pictures.images)
    assert not torch.equal(a.corners, c.corners)


def test_decoy_mnist__validation_is_held_out(digits):
    train, val = DecoyMNIST(digits, "train", val_fraction=0.25), DecoyMNIST(digits, "val", val_fraction=0.25)
    assert len(train) == 300
    assert len(val) == 100
    seen = {image.numpy().tobytes() for image in train.originals}
    assert not seen & {image.numpy().tobytes() for image in val.originals}


def test_decoy_mnist__a_share_keeps_its_masks(digits):
    dataset = DecoyMNIST(digits, "train", mask_fraction=0.1)
    batch = dataset.gather(torch.arange(len(dataset)))
    unannotated = (batch["mask"] == -1).flatten(1).all(1)
    assert int((~unannotated).sum()) == 36
    assert torch.equal(unannotated, ~dataset.annotated)


def test_decoy_fashion_mnist__names_its_classes(digits):
    assert DecoyFashionMNIST.class_names[9] == "Ankle boot"
    assert len(DecoyFashionMNIST(digits, "test")) == 300


def test_decoy_mnist__missing_files_name_the_folder_and_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"MNIST.raw.*download=True"):
        DecoyMNIST(tmp_path)


def test_decoy_mnist__a_truncated_file_is_named(digits):
    file = digits / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"MNIST.raw"):
        DecoyMNIST(digits, "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "'dev'"),
        ({"size": 0}, "got 0"),
        ({"size": 10_000}, "360 images"),
        ({"mask_fraction": 2.0}, "2"),
    ],
)
def test_decoy_mnist__names_a_bad_argument(digits, arguments, message):
    with pytest.raises(DataError, match=message):
        DecoyMNIST(digits, **arguments)


def test_decoy_fashion_mnist__reads_the_real_files(shared_data):
    dataset = DecoyFashionMNIST(shared_data, "test")
    assert len(dataset) == 10_000
    assert (dataset.groups == 0).double().mean() == pytest.approx(0.1, abs=0.015)
