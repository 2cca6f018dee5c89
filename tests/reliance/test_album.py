"""What a round composes for the next: the same pictures, within its budget, and never those of other pools."""

import pickle
from importlib import import_module

import pytest
import torch

from camtrain.reliance import Album, ExaminationPlan, Pool, examine
from tests.reliance.worlds import World, mixture


def test_album__makes_once_what_fits_and_again_what_does_not():
    album, made = Album(budget=3 * 4), []

    def make():
        made.append(1)
        return torch.full((2,), 3.0)

    assert [album.get(key, make).tolist() for key in ("a", "a", "b", "b")] == [[3.0, 3.0]] * 4
    assert len(made) == 1 + 2  # the second pair of numbers finds no room
    assert album.bytes == 8


def test_album__keeps_pictures_in_half_the_bytes():
    album, picture = Album(), torch.rand(3, 64, 64)
    album.get("one", lambda: picture)
    again = album.get("one", lambda: None)
    assert album.bytes == 2 * picture.numel()
    assert again.dtype == torch.float32
    torch.testing.assert_close(again, picture, atol=5e-4, rtol=0)


def test_album__forgets_what_was_made_of_other_pools_and_goes_nowhere():
    world, album = World(classes=2, images=3, seed=0).pool(), Album()
    album.open(world)
    album.get("one", lambda: torch.ones(1))
    album.open(Pool(world.images, world.labels, world.masks))
    assert album.bytes == 4
    assert pickle.loads(pickle.dumps(album)).bytes == 0
    album.open(Pool(world.images + 1, world.labels, world.masks))
    assert album.bytes == 0


@pytest.mark.parametrize("guessed", [False, True])
def test_examine__a_second_round_composes_nothing_and_says_the_same(monkeypatch, guessed):
    module, composed = import_module("camtrain.reliance.intervene"), []
    for name in ("_onto_backgrounds", "_with_looks"):
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, inner=inner: composed.append(1) or inner(*args))
    plan = ExaminationPlan(album=Album(), guessed=guessed, stickers=False)
    pool, names = World(classes=3, images=12, seed=0).pool(), list("abc")
    first = examine(mixture(0.5), pool, names, range(3), plan=plan).verdicts
    assert composed
    composed.clear()
    second = examine(mixture(0.5), pool, names, range(3), plan=plan).verdicts
    assert composed == []
    assert [one.verdict for one in second] == [one.verdict for one in first]
    for one, other in zip(first, second, strict=True):
        assert one.effect == pytest.approx(other.effect, abs=2e-3)
