import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from camtrain.reliance import Pool, Swap, choose_donors, examine, intervene
from camtrain.swaps.looks import LOOKS, sharpen
from tests.reliance.worlds import World, read_object

NAMES = list("abcd")


def images_and_masks(count=3, channels=3):
    masks = torch.zeros(count, 24, 24)
    masks[:, 8:16, 8:16] = 1
    return torch.rand(count, channels, 24, 24), masks


@pytest.mark.parametrize("look", LOOKS.values(), ids=list(LOOKS))
def test_give__of_its_own_look_leaves_an_image(look):
    images, masks = images_and_masks()
    own = look.measure(images, masks)
    torch.testing.assert_close(look.give(images, own, own), images)


@pytest.mark.parametrize("name", ["tint", "brightness"])
def test_give__makes_the_look_that_was_wanted(name):
    images, masks = images_and_masks()
    look = LOOKS[name]
    own, wanted = look.measure(images, masks), look.measure(images.flip(0).square(), masks)
    torch.testing.assert_close(look.measure(look.give(images, own, wanted), masks), wanted)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 3.0])
def test_sharpen__makes_the_sharpness_that_was_wanted(share):
    images, masks = images_and_masks()
    look = LOOKS["sharpness"]
    own = look.measure(images, masks)
    found = look.measure(look.give(images, own, share * own), masks)
    torch.testing.assert_close(found[:, 0] / own[:, 0], torch.full((3,), share), atol=0.1, rtol=0.1)


def test_sharpen__takes_no_more_blur_for_a_level_that_rises_again():
    """An object that bleeds into the background can make a stronger blur look sharper there."""
    images, _ = images_and_masks(1)
    own, wanted = torch.tensor([[1.0, 0.5, 0.6, 0.3, 0.2]]), torch.full((1, 5), 0.55)
    once = sharpen(images, own, torch.full((1, 5), 0.5))
    torch.testing.assert_close(sharpen(images, own, wanted), torch.lerp(images, once, 0.9))


def test_sharpen__to_less_blurs_as_a_lens_does():
    images, masks = images_and_masks()
    blurred, look = gaussian_blur(images, [9, 9], [1.0, 1.0]), LOOKS["sharpness"]
    found = look.give(images, look.measure(images, masks), look.measure(blurred, masks))
    assert (found - blurred).square().mean() < 0.05 * (images - blurred).square().mean()


@pytest.mark.parametrize("look", LOOKS.values(), ids=list(LOOKS))
def test_measure__does_not_see_the_object(look):
    images, masks = images_and_masks()
    changed = images.clone()
    changed[:, :, 11:13, 11:13] = 9.0  # deep enough inside that no neighborhood reaches out
    torch.testing.assert_close(look.measure(changed, masks)[:, 0], look.measure(images, masks)[:, 0])


def test_intervene__gives_images_the_look_of_the_lenders():
    images, masks = images_and_masks(2)
    labels, seen = torch.tensor([0, 1]), []
    pool, lenders = Pool(images, labels, masks), Pool(images + 3, labels, masks)
    design = choose_donors(labels, (0, 1), lenders=labels, generator=torch.Generator().manual_seed(0))

    def predict(shown: Tensor) -> Tensor:
        seen.append(shown[:, :, :4].mean())
        return shown.mean(dim=(2, 3))

    before = torch.full(design.classes.shape, 0.5)
    intervene(predict, pool, design, Swap(LOOKS["brightness"].name), before=before, lenders=lenders)
    assert all(2.5 < level - images[:, :, :4].mean() < 3.5 for level in seen)


def pictures(seed: int, images: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Noise pictures with a square object each, of which the brightness and the detail can tell the class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(images)
    masks = torch.zeros(len(labels), 24, 24)
    masks[:, 8:16, 8:16] = 1
    return torch.randn(len(labels), 3, 24, 24, generator=g), labels, masks


def test_examine__names_the_brightness():
    noise, labels, masks = pictures(0)
    shown = noise + labels.view(-1, 1, 1, 1)

    def predict(images: Tensor) -> Tensor:
        return -20 * (images[:, :, :6].mean(dim=(1, 2, 3)).unsqueeze(1) - torch.arange(4)).square()

    found = examine(predict, Pool(shown, labels, masks), NAMES, range(4)).verdicts
    assert {(one.verdict, one.cue) for one in found} == {("reliant", "background brightness")}


def test_examine__finds_a_sharpness_that_is_read_from_the_object():
    noise, labels, masks = pictures(0)
    shown = noise * (1 + labels).view(-1, 1, 1, 1)

    def predict(images: Tensor) -> Tensor:
        detail = images[:, :, 8:16, 8:16].std(dim=(1, 2, 3)).unsqueeze(1)
        return -20 * (detail - 1 - torch.arange(4)).square()

    found = examine(predict, Pool(shown, labels, masks), NAMES, range(4)).verdicts
    assert {(one.verdict, one.cue) for one in found} == {("reliant", "sharpness")}


def test_examine__clears_a_model_whose_objects_the_looks_disturb():
    """Backgrounds differ in detail from class to class; their detail makes objects harder to tell, of every class."""
    world = World(classes=4, images=30, seed=0)
    pool = world.pool()
    detail = torch.randn(pool.images.shape, generator=torch.Generator().manual_seed(0))
    around = (1 - pool.masks).unsqueeze(1) * (0.1 + 0.2 * pool.labels).view(-1, 1, 1, 1)
    found = examine(read_object, Pool(pool.images + around * detail, pool.labels, pool.masks), NAMES, range(4))
    assert {one.verdict for one in found.verdicts} == {"not reliant"}


def test_examine__of_gray_images_tries_no_tint():
    noise, labels, masks = pictures(0, images=12)
    seen = []

    def predict(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images[:, :, 8:16, 8:16].mean(dim=(1, 2, 3)).unsqueeze(1) * torch.arange(4)

    examine(predict, Pool(noise[:, :1], labels, masks), NAMES, range(4))
    assert sum(seen) == 48 * (1 + 4 + 2 * 4)
