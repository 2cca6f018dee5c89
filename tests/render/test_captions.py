import torch

from camtrain.cli.film import _line
from camtrain.render.film import captioned


def test_captioned__leaves_the_picture_and_adds_a_line_with_the_scale():
    picture = torch.randint(0, 256, (3, 200, 300), dtype=torch.uint8)
    page = captioned(picture, "hen 98 %")
    assert torch.equal(page[:, :200], picture)
    assert page.shape == (3, 222, 300)
    scale = page[:, 211].float()  # the middle of the line
    coldest, hottest = torch.tensor([[48.0, 18, 59], [122, 4, 3]])
    places = [((scale - color[:, None]).abs().amax(0) < 12).nonzero()[0].item() for color in (coldest, hottest)]
    assert 150 < places[0] < places[1] < 300


def test_captioned__enlarges_what_is_too_small_to_read_below():
    picture = torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8)
    page = captioned(picture, "hen", least=100)
    assert torch.equal(page[:, :80:5, ::5], picture)
    assert page.shape == (3, 102, 100)


def test_captioned__cuts_a_text_that_is_too_long_before_the_scale():
    picture = torch.zeros(3, 8, 300, dtype=torch.uint8)
    short, long = (captioned(picture, text)[:, 8:, 190:] for text in ("", "a very long name " * 20))
    assert torch.equal(short, long)
    assert not torch.equal(captioned(picture, "a"), captioned(picture, "b"))


def test_line__says_the_epoch_and_the_answer():
    assert _line(3, {"predicted_name": "boat", "probability": 0.966}) == "epoch 3  boat 97 %"
    assert _line(0, {"predicted_name": None, "probability": 0.5}) == "epoch 0"
