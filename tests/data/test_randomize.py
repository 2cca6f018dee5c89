import pytest
import torch

from camtrain.data import RandomizeCue
from camtrain.errors import ConfigurationError
from camtrain.swaps.compositing import dilate
from camtrain.swaps.looks import LOOKS


def batch(count=60, classes=3):
    """Objects of no class on backgrounds whose tint, brightness and sharpness all tell the class."""
    labels = torch.arange(count) % classes
    masks = torch.zeros(count, 16, 16)
    masks[:, 4:10, 4:10] = 1
    level = (labels / classes).view(-1, 1, 1, 1)
    images = 0.3 * level + (0.02 + 0.1 * level) * torch.randn(count, 3, 16, 16)
    images[:, 0] += 0.5 * level[:, 0]
    return torch.where(masks.unsqueeze(1) > 0, 0.5 + 0.1 * torch.rand(count, 3, 16, 16), images), labels, masks


def told(images, labels, masks, look):
    """The share of the look's variance that the class explains, in [0, 1]."""
    values = LOOKS[look].measure(images, dilate(masks, 2))[:, 0]
    between = torch.stack([values[labels == c].mean() for c in labels.unique()]).var(correction=0)
    return (between / values.var(correction=0)).item()


@pytest.mark.parametrize("cue", ["tint", "brightness", "sharpness"])
@pytest.mark.parametrize("masked", [True, False])
def test_randomize_cue__makes_the_look_say_nothing_of_the_class(cue, masked):
    images, labels, masks = batch()
    known = masks if masked else None
    seen = masks if masked and cue != "sharpness" else torch.zeros_like(masks)
    outside = torch.zeros_like(masks) if not masked else masks
    before = told(images, labels, outside, cue)
    changed, same_labels, same_masks = RandomizeCue(cue, p=2 / 3)(images, labels, known)
    assert same_labels is labels
    assert same_masks is known
    assert before > 0.6
    assert told(changed, labels, outside, cue) < 0.4 * before
    inside = seen.bool().unsqueeze(1).expand_as(images)
    assert torch.equal(changed[inside], images[inside])  # of annotated images only the background changes


def test_randomize_cue__of_the_background_swaps_it_behind_the_objects():
    images, labels, masks = batch()
    changed, _, _ = RandomizeCue("background", p=1.0)(images, labels, masks)
    assert told(changed, labels, masks, "tint") < 0.5
    assert torch.equal(changed[:, :, 5:9, 5:9], images[:, :, 5:9, 5:9])


@pytest.mark.parametrize("cue", ["background", "tint", "sharpness"])
def test_randomize_cue__changes_as_many_images_as_p_says(cue):
    images, labels, masks = batch(300)
    given = images.clone()
    for p in (0.0, 0.3, 1.0):
        changed = (RandomizeCue(cue, p=p)(images, labels, masks)[0] != images).flatten(1).any(dim=1)
        assert changed.float().mean().item() == pytest.approx(p, abs=0.1)
    assert torch.equal(images, given)


def test_randomize_cue__takes_the_names_that_verdicts_use():
    assert RandomizeCue("background tint").look is RandomizeCue("tint").look is LOOKS["tint"]


def test_randomize_cue__of_one_image_or_multi_hot_labels():
    images, labels, masks = batch(6)
    assert torch.equal(RandomizeCue("tint", p=1.0)(images[:1], labels[:1], masks[:1])[0], images[:1])
    hot = torch.eye(3)[labels]
    assert not torch.equal(RandomizeCue("tint", p=1.0)(images, hot, masks)[0], images)


@pytest.mark.parametrize(
    ("arguments", "said"), [({"cue": "smell"}, "cue is one of background, tint.*'smell'"), ({"p": 1.5}, "p is a prob")]
)
def test_randomize_cue__refuses_what_it_does_not_know(arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        RandomizeCue(**arguments)


def test_randomize_cue__of_the_background_needs_masks():
    with pytest.raises(ConfigurationError, match="needs masks"):
        RandomizeCue()(torch.zeros(2, 3, 8, 8), torch.arange(2), None)


def test_randomize_cue__leaves_no_rim_of_the_old_look_around_the_object():
    images, masks = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8)
    images[1] = 0.5
    masks[:, 3:5, 3:5] = 1
    changed, _, _ = RandomizeCue("brightness", p=1.0)(images, torch.tensor([0, 1]), masks)
    assert (changed[0][:, masks[0] == 0] == 0.5).all()
    assert (changed[0][:, masks[0] == 1] == 0).all()
