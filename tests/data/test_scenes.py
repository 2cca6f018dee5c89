import numpy as np
import pytest
import torch

from camtrain.data.scenes import CLASSES, HOMES, PLACES, Scenes, assign_places, draw_scene
from camtrain.errors import DataError


def small(split="train", size=16, **arguments) -> Scenes:
    return Scenes(split, size=size, image_size=32, **arguments)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", CLASSES)
def test_draw_scene__mask_is_what_drawing_the_object_changed(kind, place):
    for index in range(3):
        scene = draw_scene(kind, place, (5, index), 48)
        empty = draw_scene(kind, place, (5, index), 48, with_object=False)
        changed = (scene.image != empty.image).any(2)
        assert not changed[scene.mask == 0].any()
        assert changed[scene.mask == 1].mean() > 0.97  # an object may have the color of what it hides
        assert np.array_equal(scene.mask, empty.mask)


@pytest.mark.parametrize("kind", CLASSES)
def test_draw_scene__the_object_does_not_depend_on_the_place(kind):
    land, water = (draw_scene(kind, place, (1, 2), 48) for place in ("land", "water"))
    assert np.array_equal(land.mask, water.mask)
    assert (land.image != water.image).any()
    inside = land.mask == 1
    difference = np.abs(land.image.astype(int) - water.image.astype(int))[inside]
    assert np.median(difference) == 0  # equal but for the rim, where the place shines through


def test_draw_scene__is_determined_by_its_key():
    first, again, other = (draw_scene("duck", "land", (0, k), 32) for k in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("size", [16, 33, 128])
def test_draw_scene__object_takes_a_sensible_share_of_any_size(size):
    shares = [draw_scene(kind, "land", (0, k), size).mask.mean() for k in range(4) for kind in CLASSES]
    assert min(shares) > 0.03
    assert max(shares) < 0.4


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.75, 0.95, 1.0])
def test_scenes__correlation_of_every_class_is_as_asked(correlation):
    scenes = Scenes(size=800, correlation=correlation)
    for label, kind in enumerate(CLASSES):
        groups = scenes.groups[scenes.labels == label]
        at_home = groups == label * 2 + PLACES.index(HOMES[kind])
        assert int(at_home.sum()) == round(200 * correlation)


def test_assign_places__any_leading_part_has_the_share():
    places = assign_places(torch.zeros(1000, dtype=torch.long), 0.83)  # boats: at home on water, 1
    for count in (1, 7, 50, 333, 1000):
        assert abs(int(places[:count].sum()) - 0.83 * count) <= 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_scenes__validation_and_test_are_balanced_by_default(split):
    assert torch.bincount(Scenes(split, size=80).groups).tolist() == [10] * 8


def test_scenes__group_names_follow_label_and_place():
    scenes = Scenes(size=8, correlation=1.0)
    assert [scenes.group_names[g] for g in scenes.groups[:4]] == [
        "boat on water",
        "duck on water",
        "car on land",
        "hen on land",
    ]


def test_scenes__correlation_changes_places_but_no_object():
    correlated, opposite = small(correlation=1.0), small(correlation=0.0)
    assert torch.equal(correlated.pictures.masks, opposite.pictures.masks)
    assert not torch.equal(correlated.pictures.images, opposite.pictures.images)


def test_scenes__size_does_not_change_the_first_images():
    assert torch.equal(small(size=4).pictures.images, small(size=8).pictures.images[:4])


def test_scenes__seeds_and_splits_share_no_image():
    pictures = [small(size=4).pictures.images, small(size=4, seed=1).pictures.images]
    pictures += [small(split, size=4, correlation=0.95).pictures.images for split in ("val", "test")]
    assert len({image.numpy().tobytes() for images in pictures for image in images}) == 16


def test_scenes__items_agree_with_gathered_batches():
    scenes = small(mask_fraction=0.5)
    batch = scenes.gather(torch.tensor([3, 0]))
    for row, index in enumerate((3, 0)):
        item = scenes[index]
        assert torch.equal(item["image"], batch["image"][row])
        assert torch.equal(item["mask"], batch["mask"][row])
        assert (item["label"], item["group"]) == (int(batch["label"][row]), int(batch["group"][row]))
        assert item["id"] == batch["id"][row] == f"train/{index:05d}"


def test_scenes__transform_sees_image_and_mask():
    seen = []
    scenes = small(
        transform=lambda image, mask: (seen.append((type(image).__name__, type(mask).__name__)), (image, mask))[1]
    )
    assert scenes[0]["image"].dtype == torch.uint8
    assert seen == [("Image", "Mask")]


def test_scenes__index_beyond_the_end_stops_iteration():
    assert len(list(small(size=3))) == 3
    assert small(size=3)[-1]["id"] == "train/00002"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "'dev'"),
        ({"size": 0}, "size=0"),
        ({"image_size": 4}, "image_size=4"),
        ({"seed": -1}, "seed=-1"),
        ({"correlation": 1.5}, r"correlation.*1\.5"),
        ({"mask_fraction": -0.5}, r"mask_fraction.*-0\.5"),
    ],
)
def test_scenes__names_a_bad_argument(arguments, message):
    with pytest.raises(DataError, match=message):
        Scenes(**arguments)


def test_scenes__mean_color_hardly_tells_the_class():
    """The nearest class mean of the object's color, fitted on the even images, is right on few of the odd ones."""
    scenes = Scenes(size=160, image_size=24)
    images, masks = scenes.pictures.images.double(), scenes.pictures.masks.double()
    color = (images * masks[:, None]).sum((2, 3)) / masks.sum((1, 2))[:, None]
    fitted = torch.arange(160) // 4 % 2 == 0
    means = torch.stack([color[fitted & (scenes.labels == label)].mean(0) for label in range(4)])
    nearest = torch.cdist(color[~fitted], means).argmin(1)
    assert (nearest == scenes.labels[~fitted]).double().mean() < 0.5  # a small CNN reaches 0.95
