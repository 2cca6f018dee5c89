import pytest
import torch
from torch.utils.data import DataLoader

from camtrain.data.worlds import WORLDS, TaskWorld, shape_masks
from camtrain.errors import DataError


@pytest.mark.parametrize("task", WORLDS)
def test_world__is_the_same_for_the_same_seed_and_differs_between_splits(task):
    first, again, other = TaskWorld(task, size=8), TaskWorld(task, size=8), TaskWorld(task, "val", size=8)
    assert torch.equal(first.drawn.images, again.drawn.images)
    assert not torch.equal(first.drawn.images, other.drawn.images)
    assert 0 <= first.drawn.images.min() <= first.drawn.images.max() <= 1


@pytest.mark.parametrize("task", WORLDS)
def test_world__shortcut_is_true_as_often_as_was_asked_for(task):
    assert TaskWorld(task, size=200).drawn.agrees.all()
    balanced = TaskWorld(task, "val", size=300).drawn.agrees.float().mean()
    chance = {"regression": 0.0, "captioning": 1 / 3, "question_answering": 1 / 3}.get(task, 0.5)
    assert balanced == pytest.approx(chance, abs=0.1)


@pytest.mark.parametrize("task", WORLDS)
def test_world__nothing_but_the_object_changes_on_the_mask(task):
    """Without its mask's pixels a picture tells nothing of the object: they have one color."""
    world = TaskWorld(task, "val", size=6)
    for image, mask in zip(world.drawn.images, world.drawn.masks, strict=True):
        each = mask if mask.ndim == 3 and task == "multi_label" else mask.unsqueeze(0)
        for where in each:
            if (where == 1).any():
                inside = image[:, where == 1] if where.shape == image.shape[1:] else image
                assert inside.std(dim=1).max() < 1e-6


def test_world__collates_to_a_batch_that_is_read():
    from camtrain.data import read_batch

    batch = next(iter(DataLoader(TaskWorld("binary", size=4, mask_fraction=0.5), 4)))
    read = read_batch(batch)
    assert read.labels.tolist() == [0, 1, 0, 1]
    assert (read.masks.amax((1, 2)) == -1).sum() == 2


def test_shape_masks__areas_are_alike():
    areas = shape_masks(torch.arange(3), torch.full((3, 2), 32.0), torch.full((3,), 10.0), 64).sum((1, 2))
    assert (areas / areas.mean()).sub(1).abs().max() < 0.12


def test_world__refuses_what_it_has_not():
    with pytest.raises(DataError, match="'chess'"):
        TaskWorld("chess")
    with pytest.raises(DataError, match="image_size >= 24"):
        TaskWorld("binary", image_size=8)
