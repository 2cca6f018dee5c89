import matplotlib as mpl
import numpy as np
import pytest
import torch

from camtrain.render import color_table, colorize, draw_contours, film_strip, overlay, side_by_side, to_uint8


def gray(value: int, size: int = 8, batch: int = 1) -> torch.Tensor:
    return torch.full((batch, 3, size, size), value, dtype=torch.uint8)


@pytest.mark.parametrize("name", ["turbo", "viridis"])
def test_color_table__is_that_of_matplotlib(name):
    theirs = mpl.colormaps[name](np.arange(256) / 255.0)[:, :3] * 255
    np.testing.assert_array_equal(color_table(name).numpy(), theirs.round())


def test_color_table__names_the_known_ones():
    with pytest.raises(ValueError, match="No colormap named 'jet'; known: turbo, viridis"):
        color_table("jet")


def test_colorize__clamps_and_keeps_nan_cold():
    colors = colorize(torch.tensor([[[-1.0, 0.0, float("nan"), 1.0, 9.0]]]))[0, :, 0].T
    cold, hot = color_table()[0].float(), color_table()[255].float()
    torch.testing.assert_close(colors, torch.stack([cold, cold, cold, hot, hot]))


@pytest.mark.parametrize("value", [0, 127, 255])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e4])
def test_overlay__paints_the_hottest_pixel_with_the_hottest_color(value, scale):
    heat = torch.rand(4, 8, 8) * 0.9
    peaks = [(0, 0), (7, 7), (3, 4), (5, 1)]
    for index, (row, column) in enumerate(peaks):
        heat[index, row, column] = 1.0
    picture = overlay(gray(value, batch=4), heat * scale, alpha=0.4)
    expected = (0.6 * value + 0.4 * color_table()[255].float()).round()
    for index, (row, column) in enumerate(peaks):
        torch.testing.assert_close(picture[index, :, row, column].float(), expected)


def test_overlay__is_the_float64_formula_everywhere():
    images, heat = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8), torch.rand(2, 6, 6)
    scaled = (heat - heat.amin((1, 2), keepdim=True)) / (
        heat.amax((1, 2), keepdim=True) - heat.amin((1, 2), keepdim=True)
    )
    colors = color_table().numpy()[(scaled.numpy() * 255).round().astype(int)].transpose(0, 3, 1, 2).astype(float)
    expected = np.round(0.3 * images.numpy() + 0.7 * colors)
    assert np.abs(overlay(images, heat, alpha=0.7).numpy() - expected).max() <= 1  # a rounding of float32


def test_overlay__of_alpha_zero_is_the_image():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(overlay(images, torch.rand(2, 4, 4), alpha=0.0), images)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_overlay__of_an_empty_map_is_the_plain_image_in_a_hatched_frame(value):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    heat = torch.stack([torch.full((4, 4), value), torch.rand(4, 4)])
    picture = overlay(images, heat)
    assert torch.equal(picture[0, :, 2:-2, 2:-2], images[0, :, 2:-2, 2:-2])
    assert set(picture[0, :, 0].unique().tolist()) == {96, 176}
    assert torch.equal(picture[1], overlay(images[1:], heat[1:])[0])


def test_overlay__of_an_empty_batch_is_empty():
    assert overlay(torch.zeros(0, 3, 8, 8), torch.zeros(0, 2, 2)).shape == (0, 3, 8, 8)


def test_draw_contours__surrounds_the_object_and_leaves_it_in_sight():
    mask = torch.zeros(1, 9, 9)
    mask[0, 3:6, 3:6] = 1
    picture = draw_contours(gray(90, 9), mask)[0, 0]
    assert (picture[3:6, 3:6] == 90).all()
    assert (picture == 255).sum() == 25 - 9
    assert (picture == 30).sum() == 49 - 25
    assert (picture == 90).sum() == 9 + 81 - 49


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.4])
def test_draw_contours__draws_nothing_without_an_object(value):
    assert torch.equal(draw_contours(gray(7), torch.full((1, 8, 8), value)), gray(7))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_draw_contours__reads_masks_of_every_dtype(dtype):
    mask = torch.zeros(1, 8, 8, dtype=dtype)
    mask[0, 4, 4] = 1
    assert (draw_contours(gray(0), mask)[0, 0] == 255).sum() == 8


def test_to_uint8__undoes_a_normalization():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    normalized = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(to_uint8(normalized, mean=mean, std=std), images)


def test_to_uint8__keeps_the_unit_range_and_stretches_others():
    unit = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2)
    assert to_uint8(unit)[0, 0].tolist() == [[51, 153]]
    assert to_uint8(unit * 10)[0, 0].tolist() == [[0, 255]]


def test_to_uint8__of_values_that_are_not_finite_is_black():
    assert to_uint8(torch.tensor([float("nan"), 1.0]).view(1, 1, 1, 2))[0, 0].tolist() == [[0, 255]]


def test_to_uint8__shows_other_channel_counts_as_gray():
    images = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert to_uint8(images).flatten().tolist() == [128, 128, 128]


def test_film_strip__joins_its_frames_in_order():
    frames = torch.stack([gray(value)[0] for value in (0, 50, 100)])
    strip = film_strip(frames, gap=2, fill=9)
    assert strip[0, 0].tolist() == [0] * 8 + [9] * 2 + [50] * 8 + [9] * 2 + [100] * 8


def test_side_by_side__of_nothing_says_so():
    with pytest.raises(ValueError, match="at least one batch"):
        side_by_side([])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_overlay__on_a_gpu_is_that_of_the_cpu():
    images, heat = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8), torch.rand(2, 4, 4)
    assert (overlay(images.cuda(), heat.cuda()).cpu().int() - overlay(images, heat).int()).abs().max() <= 1
