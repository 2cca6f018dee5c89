import torch

from camtrain.reliance import Pool
from camtrain.swaps.compositing import fill_with_texture, place
from camtrain.swaps.infills import noise_background
from tests.reliance.worlds import on_background


def square(side: int, start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, start:stop, start:stop] = 1
    return mask


def swapped(
    images: torch.Tensor, masks: torch.Tensor, donors: torch.Tensor, lent: torch.Tensor, margin: int
) -> torch.Tensor:
    label = torch.tensor([0])
    return on_background(Pool(images, label, masks), 0, Pool(donors, label, lent), 0, margin=margin)


def test_place__keeps_every_object_pixel_and_nothing_far_from_it():
    images, donors = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    mask = square(16, 5, 11)
    image = swapped(images, mask, donors, square(16, 0, 2), margin=2)
    assert (image[:, :, 5:11, 5:11] == 1).all()
    assert (image[:, :, :2] == 0).all()
    assert image[0, 0, 8, 3] == 2 / 3  # the last pixel of the margin is blended


def test_place__brings_nothing_of_the_donors_object():
    donors = torch.zeros(1, 1, 16, 16)
    donors[:, :, 10:14, 10:14] = 100.0
    image = swapped(torch.ones(1, 1, 16, 16), square(16, 2, 6), donors, square(16, 10, 14), margin=1)
    assert image.max() == 1


def test_place__with_a_donor_mask_one_pixel_too_small_still_brings_nothing():
    donors = torch.zeros(1, 1, 16, 16)
    donors[:, :, 9:15, 9:15] = 100.0
    image = swapped(torch.ones(1, 1, 16, 16), square(16, 2, 6), donors, square(16, 10, 14), margin=1)
    assert image.max() == 1


def test_place__leaves_an_unannotated_image_as_it_is():
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(place(images, torch.full((1, 8, 8), -1.0), torch.zeros(1, 3, 8, 8)), images)


def test_fill_with_texture__of_a_full_mask_is_the_mean_color():
    image = torch.rand(1, 2, 8, 8)
    filled = fill_with_texture(image, torch.ones(1, 8, 8))
    torch.testing.assert_close(filled, image.mean(dim=(2, 3), keepdim=True).expand_as(image))


def test_noise_background__has_the_moments_of_the_background_alone():
    generator = torch.Generator().manual_seed(0)
    image = 2 + 0.5 * torch.randn(1, 1, 64, 64, generator=generator)
    image[:, :, 20:40, 20:40] = 50.0
    noise = noise_background(image, square(64, 20, 40), generator=generator)
    assert abs(noise.mean() - 2) < 0.03
    assert abs(noise.std() - 0.5) < 0.03


def test_noise_background__is_the_same_for_the_same_generator_state():
    image, mask = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8)
    first, second = (noise_background(image, mask, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
