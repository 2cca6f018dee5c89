import copy
import dataclasses
import pickle
from types import SimpleNamespace

import pytest
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.data._utils.pin_memory import pin_memory

from camtrain.data.batches import Batch, MaskedPair, check_images, check_masks, class_names, read_batch
from camtrain.errors import BatchError, MaskError

IMAGES, LABELS, MASKS = torch.rand(2, 3, 4, 6), torch.tensor([1, 0]), torch.rand(2, 4, 6)


def test_read_batch__of_a_pair_a_triple_and_images_alone():
    pair, triple, bare = read_batch((IMAGES, LABELS)), read_batch([IMAGES, LABELS, MASKS]), read_batch(IMAGES)
    assert pair.images is IMAGES
    assert pair.labels is LABELS
    assert pair.masks is None
    assert triple.masks is MASKS
    assert bare.labels is None
    assert len(bare) == 2


@pytest.mark.parametrize("plural", ["", "s"])
def test_read_batch__of_a_mapping_takes_singular_and_plural_keys(plural):
    values = {"image": IMAGES, "label": LABELS, "mask": MASKS, "group": LABELS, "id": ["a", "b"]}
    batch = read_batch({**{f"{key}{plural}": value for key, value in values.items()}, "caption": ["x", "y"]})
    assert batch.images is IMAGES
    assert batch.labels is LABELS
    assert batch.masks is MASKS
    assert batch.groups is LABELS
    assert batch.ids == ["a", "b"]


def test_read_batch__numbers_become_labels_and_names():
    batch = read_batch({"image": IMAGES, "label": [1, 0], "id": torch.tensor([7, 9])})
    assert batch.labels.tolist() == [1, 0]
    assert batch.ids == ["7", "9"]


def test_read_batch__squeezes_the_channel_of_masks_and_casts_integers():
    batch = read_batch((IMAGES, LABELS, torch.tensor([0, 1]).repeat(12).view(1, 1, 4, 6).expand(2, 1, 4, 6).bool()))
    assert batch.masks.shape == (2, 4, 6)
    assert batch.masks.dtype == torch.float32
    assert batch.masks[1, 0].tolist() == [0, 1, 0, 1, 0, 1]


def test_read_batch__keeps_double_precision_masks_and_integer_minus_one():
    assert read_batch((IMAGES, LABELS, MASKS.double())).masks.dtype == torch.float64
    assert (read_batch((IMAGES, LABELS, torch.full((2, 4, 6), -1))).masks == -1).all()


def test_read_batch__of_a_video_has_masks_with_time():
    assert read_batch((torch.rand(2, 3, 5, 4, 6), LABELS, torch.rand(2, 5, 4, 6))).masks.shape == (2, 5, 4, 6)


def test_read_batch__calls_the_adapter_first():
    adapter = lambda batch: {"image": batch["pixels"], "label": batch["y"]}  # noqa: E731
    assert read_batch({"pixels": IMAGES, "y": LABELS}, adapter).labels is LABELS
    assert read_batch("x", lambda _: Batch(IMAGES)).images is IMAGES


def test_read_batch__is_idempotent():
    once = read_batch((IMAGES, LABELS, MASKS))
    again = read_batch(once)
    assert all(getattr(again, one.name) is getattr(once, one.name) for one in dataclasses.fields(once))


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ("text", "str"),
        ((IMAGES, LABELS, MASKS, LABELS), r"tuple of 4"),
        ((), "tuple of 0"),
        ({"pixels": IMAGES}, r"NoneType"),
        ((IMAGES, {"boxes": 1}), r"keys \['boxes'\]"),
        ((LABELS, IMAGES), r"\(2,\)"),
        ((IMAGES, LABELS, LABELS), r"\(2,\)"),
    ],
)
def test_read_batch__of_another_shape_says_what_it_found_and_the_remedy(batch, found):
    with pytest.raises(BatchError, match=found) as caught:
        read_batch(batch)
    assert "batch_adapter" in str(caught.value)


def test_read_batch__refuses_masks_of_several_channels():
    with pytest.raises(MaskError, match=r"\(2, 3, 4, 6\)"):
        read_batch((IMAGES, LABELS, torch.zeros(2, 3, 4, 6)))


def test_check_masks__accepts_soft_and_missing_masks():
    check_masks(Batch(IMAGES, masks=torch.stack([torch.rand(4, 6), torch.full((4, 6), -1.0)])))
    check_masks(Batch(IMAGES))
    check_masks(Batch(torch.zeros(0, 3, 4, 6), masks=torch.zeros(0, 4, 6)))


@pytest.mark.parametrize(("value", "shown"), [(255.0, "255.0"), (-0.5, "-0.5"), (float("nan"), "nan"), (1.01, "1.0")])
def test_check_masks__names_the_image_and_the_bad_value(value, shown):
    masks = torch.zeros(2, 4, 6)
    masks[1, 2, 3] = value
    with pytest.raises(MaskError, match=rf"image 1 has {shown}"):
        check_masks(Batch(IMAGES, masks=masks))


def test_check_masks__takes_unknown_pixels():
    masks = torch.zeros(2, 4, 6)
    masks[0, 0, 0] = -1
    check_masks(Batch(IMAGES, masks=masks))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.tensor([0, 255]).repeat(2, 4, 3), r"has 255\.0\. Divide 8-bit masks by 255\."),
        (torch.tensor([0, 15, 0]).repeat(2, 4, 2), r"values 0 \(67%\), 15 \(33%\).*label_map_to_masks"),
        (torch.tensor([1, 2, 3]).repeat(2, 4, 2), r"values 1 \(33%\), 2 \(33%\), 3 \(33%\).*label_map_to_masks"),
        (torch.rand(2, 4, 6) * 200, "largest value that they may have"),
    ],
)
def test_check_masks__says_what_to_do_about_values_that_are_no_masks(masks, message):
    with pytest.raises(MaskError, match=message):
        check_masks(read_batch((IMAGES, LABELS, masks)))


def test_read_batch__names_the_axis_of_a_masks_channel_and_reads_pixel_values():
    with pytest.raises(MaskError, match=r"second axis.*squeeze\(-1\)"):
        read_batch((IMAGES, LABELS, torch.zeros(2, 4, 6, 1)))
    assert read_batch({"pixel_values": IMAGES, "labels": LABELS}).images is IMAGES


def test_check_images__names_the_type_of_bytes():
    check_images(Batch(IMAGES))
    with pytest.raises(BatchError, match=r"got torch\.uint8.*batch_adapter"):
        check_images(Batch((IMAGES * 255).byte()))


def test_class_names__are_found_through_parts_of_a_dataset():
    data = TensorDataset(IMAGES, LABELS)
    data.classes = ["cat", "dog"]
    assert class_names(Subset(Subset(data, [0, 1]), [0]), 3) == ["cat", "dog", "class 2"]


def test_check_masks__names_both_sizes():
    with pytest.raises(MaskError, match=r"\(2, 4, 6\).*\(2, 6, 4\)"):
        check_masks(Batch(IMAGES, masks=torch.zeros(2, 6, 4)))


def pair() -> MaskedPair:
    return MaskedPair((IMAGES, LABELS), masks=MASKS, groups=LABELS, ids=["a", "b"])


def test_masked_pair__behaves_as_the_list_of_two_that_a_loader_makes():
    images, labels = pair()
    assert images is IMAGES
    assert pair()[1] is labels
    assert len(pair()) == 2
    loaded = next(iter(DataLoader(TensorDataset(IMAGES, LABELS), 2)))
    assert isinstance(pair(), type(loaded))


def test_masked_pair__carries_the_rest_through_read_batch():
    batch = read_batch(pair())
    assert batch.masks is MASKS
    assert batch.groups is LABELS
    assert batch.ids == ["a", "b"]


def test_masked_pair__moves_everything():
    moved = pair().to("meta")
    assert [t.device.type for t in (*moved, moved.masks, moved.groups)] == ["meta"] * 4
    assert moved.ids == ["a", "b"]


def test_masked_pair__survives_lightnings_transfer_as_it_is_written():
    moved = apply_to_collection(pair(), MaskedPair, lambda data: data.to(torch.float64))
    assert moved.masks.dtype == torch.float64


def test_masked_pair__survives_a_worker():
    copy = pickle.loads(pickle.dumps(pair()))
    assert torch.equal(copy.masks, MASKS)
    assert copy.ids == ["a", "b"]
    assert torch.equal(copy[0], IMAGES)


def test_masked_pair__keeps_its_masks_where_torch_pins_it(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self + 1)
    pinned = pin_memory(pair())
    assert torch.equal(pinned[0], IMAGES + 1)
    asks = pin_memory(type("Asked", (list,), {"pin_memory": lambda self: True})()) is True  # torch 2.6 asks no list
    assert torch.equal(pinned.masks, MASKS + 1 if asks else MASKS)


def test_masked_pair__keeps_its_masks_where_a_copy_is_filled_as_torch_2_6_pins():
    clone = copy.copy(original := pair())
    for index, item in enumerate(original):
        clone[index] = item + 1
    assert torch.equal(read_batch(clone).images, IMAGES + 1)
    assert (read_batch(clone).masks is MASKS, clone.ids, original[0] is IMAGES) == (True, ["a", "b"], True)


def test_masked_pair__of_three_is_refused():
    with pytest.raises(BatchError, match="got 3"):
        MaskedPair((IMAGES, LABELS, MASKS))


def test_class_names__from_either_attribute_padded_and_cut():
    assert class_names(SimpleNamespace(class_names=["cat", "dog"]), 2) == ["cat", "dog"]
    assert class_names(SimpleNamespace(classes=["cat"]), 2) == ["cat", "class 1"]
    assert class_names(SimpleNamespace(class_names=["cat", "dog"]), 1) == ["cat"]
    assert class_names(nn.Identity(), 1) == ["class 0"]
