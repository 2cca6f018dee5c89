import torch

from camtrain.reliance import blurred_background, filled_background, noise_background, place, swap_background


def square(side: int, start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, start:stop, start:stop] = 1
    return mask


def test_swap_background__keeps_every_object_pixel_and_nothing_far_from_it():
    images, donors = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    mask = square(16, 5, 11)
    swapped = swap_background(images, mask, donors, square(16, 0, 2), margin=2)
    assert (swapped[:, :, 5:11, 5:11] == 1).all()
    assert (swapped[:, :, :2] == 0).all()
    assert swapped[0, 0, 8, 3] == 2 / 3  # the last pixel of the margin is blended


def test_swap_background__brings_nothing_of_the_donors_object():
    donors = torch.zeros(1, 1, 16, 16)
    donors[:, :, 10:14, 10:14] = 100.0
    swapped = swap_background(torch.ones(1, 1, 16, 16), square(16, 2, 6), donors, square(16, 10, 14))
    assert swapped.max() == 1


def test_swap_background__with_a_donor_mask_one_pixel_too_small_still_brings_nothing():
    donors = torch.zeros(1, 1, 16, 16)
    donors[:, :, 9:15, 9:15] = 100.0
    swapped = swap_background(torch.ones(1, 1, 16, 16), square(16, 2, 6), donors, square(16, 10, 14))
    assert swapped.max() == 1


def test_place__leaves_an_unannotated_image_as_it_is():
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(place(images, torch.full((1, 8, 8), -1.0), torch.zeros(1, 3, 8, 8)), images)


def test_filled_background__of_a_full_mask_is_the_mean_color():
    image = torch.rand(1, 2, 8, 8)
    filled = filled_background(image, torch.ones(1, 8, 8))
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


def test_blurred_background__drops_structure_and_keeps_the_mean():
    stripes = torch.arange(32).remainder(2).float().expand(1, 1, 32, 32)
    blurred = blurred_background(stripes, torch.zeros(1, 32, 32))
    assert blurred.std() < 0.2 * stripes.std()
    assert abs(blurred.mean() - 0.5) < 0.01
