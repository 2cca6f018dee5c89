import pickle

import pytest
import torch

from camtrain.data import Canary, CanaryDataset
from camtrain.data.canary import KINDS
from camtrain.data.canary.cues import uniform
from camtrain.errors import BatchError, ConfigurationError

KEYS = torch.arange(400)
LABELS = KEYS % 4


def batch(count=8, channels=3, side=32):
    images = 0.2 + 0.6 * torch.rand(count, channels, side, side)
    masks = torch.zeros(count, side, side)
    masks[:, 8:24, 8:24] = 1
    return images, torch.arange(count) % 4, torch.arange(count), masks


@pytest.mark.parametrize("kind", KINDS)
def test_canary__changes_every_image_alike_whenever_it_comes(kind):
    images, labels, keys, masks = batch()
    canary = Canary(kind, 4, seed=3)
    planted = canary(images, labels, keys, masks)
    changed = (planted != images).flatten(1).any(dim=1)
    assert changed.tolist() == [not (kind == "sharpness" and label == 0) for label in labels.tolist()]  # 0 stays sharp
    backward = canary(images.flip(0), labels.flip(0), keys.flip(0), masks.flip(0)).flip(0)
    torch.testing.assert_close(backward, planted, rtol=0, atol=1e-6)
    assert planted.min() >= 0
    assert planted.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_canary__tells_the_classes_apart(kind):
    image = (0.2 + 0.6 * torch.rand(1, 3, 32, 32)).expand(4, -1, -1, -1)
    planted = Canary(kind, 4)(image, torch.arange(4), torch.full((4,), 7), torch.zeros(4, 32, 32))
    pairs = [(a, b) for a in range(4) for b in range(a)]
    assert all((planted[a] - planted[b]).abs().max() > 0.05 for a, b in pairs)


@pytest.mark.parametrize("strength", [0.6, 0.9, 1.0])
def test_shown__is_the_own_class_as_often_as_the_strength_says(strength):
    shown = Canary("corner", 4, strength).shown(LABELS, KEYS)
    assert (shown == LABELS).float().mean() == pytest.approx(strength, abs=0.06)
    others = shown[shown != LABELS]
    assert strength == 1 or others.bincount(minlength=4).min() > 0.1 * len(others)


def test_shown__of_some_classes_leaves_the_others_without():
    shown = Canary("corner", 4, 0.8, classes=(1, 2)).shown(LABELS, KEYS)
    plain = shown[(LABELS == 0) | (LABELS == 3)]
    assert (plain == -1).float().mean() == pytest.approx(0.8, abs=0.08)
    assert set(plain.unique().tolist()) == {-1, 1, 2}


def test_randomized__has_nothing_to_do_with_the_label():
    shown = Canary("corner", 4).randomized().shown(LABELS, KEYS)
    table = torch.zeros(4, 4).index_put((LABELS, shown), torch.tensor(1.0), accumulate=True)
    assert table.min() > 0.12 * 100
    assert table.max() < 0.4 * 100


def test_background__keeps_objects_and_unannotated_images():
    images, labels, keys, masks = batch()
    masks[0] = -1
    planted = Canary("background", 4)(images, labels, keys, masks)
    assert planted[0].equal(images[0])
    assert planted[1:, :, 8:24, 8:24].equal(images[1:, :, 8:24, 8:24])
    assert (planted[1:, :, :6] != images[1:, :, :6]).any()


def test_canary__in_normalized_images_stays_in_their_range():
    images, labels, keys, _ = batch()
    normalized = (images - 0.5) / 0.25
    planted = Canary("frame", 4)(normalized, labels, keys)
    edge = planted[:, :, 0]
    assert edge.min() < -1
    assert edge.max() > 1
    torch.testing.assert_close(planted[:, :, 8:24, 8:24], normalized[:, :, 8:24, 8:24])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tint"])
def test_canary__takes_gray_images(kind):
    images, labels, keys, masks = batch(channels=1, side=28)
    assert Canary(kind, 4)(images, labels, keys, masks[:, :28, :28]).shape == images.shape


def test_canary__says_what_it_lacks():
    images, labels, keys, _ = batch()
    with pytest.raises(BatchError, match="needs masks"):
        Canary("background", 4)(images, labels, keys)
    with pytest.raises(BatchError, match="these images have 1"):
        Canary("tint", 4)(images[:, :1], labels, keys)
    with pytest.raises(BatchError, match=r"\(B, C, H, W\); got shape \(8, 1, 3, "):
        Canary("sticker", 4)(images[:, None], labels, keys)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.full((8,), 4), "Label 4 is outside the canary's 4 classes"),
        (torch.zeros(8, 4), r"class index per image, \(8,\) integers; got torch.float32"),
    ],
)
def test_canary__refuses_labels_it_has_no_cue_for(labels, said):
    images, _, keys, _ = batch()
    with pytest.raises(BatchError, match=said):
        Canary("corner", 4)(images, labels, keys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "halo"}, "got 'halo'"),
        ({"strength": 1.5}, "got 1.5"),
        ({"classes": (7,)}, r"some of 0 to 3; got \(7,\)"),
        ({"classes": ()}, r"got \(\)"),
    ],
)
def test_arguments__that_cannot_be_meant_are_refused(arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        Canary(**{"kind": "corner", "num_classes": 4, **arguments})


def test_uniform__does_not_depend_on_its_neighbors_and_differs_between_streams():
    numbers = uniform(KEYS, 0, 0)
    assert numbers[7:9].equal(uniform(KEYS[7:9], 0, 0))
    assert abs(torch.corrcoef(torch.stack([numbers, uniform(KEYS, 0, 1), uniform(KEYS, 1, 0)])).triu(1)).max() < 0.15


def test_uniform__takes_any_seed():
    numbers = torch.stack([uniform(KEYS, seed, 0) for seed in (2**40, 2**32 - 1, 5)])
    assert numbers.mean(dim=1).tolist() == pytest.approx([0.5] * 3, abs=0.05)


class Items:
    class_names = ("a", "b", "c", "d")

    def __init__(self, mapping):
        self.mapping = mapping

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image, mask = torch.full((3, 16, 16), 0.5), torch.ones(16, 16)
        if not self.mapping:
            return image, index
        return {"image": image, "label": index, "mask": mask, "id": str(index)}


@pytest.mark.parametrize("mapping", [True, False])
def test_canary_dataset__changes_the_image_alone(mapping):
    dataset = CanaryDataset(Items(mapping), Canary("corner", 4))
    item, plain = dataset[2], dataset.dataset[2]
    image, before = (one["image"] if mapping else one[0] for one in (item, plain))
    assert (image != before).any()
    assert (image == dataset[2 - len(dataset)]["image"]).all() if mapping else item[1] == 2
    assert dataset.class_names == ("a", "b", "c", "d")
    assert len(pickle.loads(pickle.dumps(dataset))) == 4


def test_canary_dataset__refuses_images_that_are_no_tensors_yet():
    with pytest.raises(BatchError, match="holds str: convert"):
        CanaryDataset([("photo.png", 0)], Canary("corner", 4))[0]
