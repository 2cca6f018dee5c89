import math

import pytest
import torch
from _zoo_bases import Scenes
from _zoo_places import grown, hot_spots, is_hit, planted_places, rows_of, summarize_places, tabulate_places, within
from _zoo_specimens import planted

from camtrain.data import Canary
from camtrain.reliance import Evidence
from camtrain.reliance.windows import windows

SIDE = 32


def scenes(count=12):
    g = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, SIDE, SIDE, generator=g)
    return Scenes(images, torch.arange(count) % 3, torch.zeros(count, SIDE, SIDE), torch.arange(count))


@pytest.mark.parametrize("kind", ["corner", "watermark", "sticker"])
def test_planted_places__hold_all_that_was_changed_and_nothing_else(kind):
    data, canary = scenes(), Canary(kind, 3, seed=5)
    changed = (planted(data, canary).images != data.images).any(dim=1)
    for one, (top, left, tall, wide) in zip(changed, planted_places(canary, data).int().tolist(), strict=True):
        inside = torch.zeros_like(one)
        inside[top : top + tall, left : left + wide] = True
        assert not (one & ~inside).any()
        assert one[inside].float().mean() > 0.6  # a disc fills less of its box
        assert max(tall, wide) <= SIDE / 3


def test_within__grown_places_hold_their_surroundings():
    places = grown(torch.tensor([[4.0, 4.0, 2.0, 2.0]]), 1.0)
    points = torch.tensor([[3.0, 3.0], [7.0, 7.0], [2.9, 5.0]])
    assert within(points, places.expand(3, 4)).tolist() == [True, True, False]


def test_hot_spots__are_row_and_column():
    heatmaps = torch.zeros(1, 3, 5)
    heatmaps[0, 2, 4] = 1
    assert hot_spots(heatmaps).tolist() == [[2.5, 4.5]]


def test_rows_of__finds_the_scene_of_each_image():
    data = scenes()
    assert rows_of(data.images[[7, 2]], data).tolist() == [7, 2]


def evidence(tops):
    boxes = windows(SIDE, SIDE, 0.25)
    lost = torch.zeros(len(tops), len(boxes))
    lost[torch.arange(len(tops)), torch.tensor(tops)] = 0.9
    return Evidence(0, "background", boxes, lost, torch.full((len(tops),), math.nan), torch.zeros(len(tops), 3, 32, 32))


def test_is_hit__asks_for_the_right_answer_and_the_right_place():
    yes, no = torch.ones(8, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)
    stays, moves = evidence([48] * 8), evidence([0, 48] * 4)
    assert is_hit("watermark", stays, yes)
    assert not is_hit("watermark", stays, no)
    assert not is_hit("watermark", moves, yes)
    assert is_hit("corner", moves, yes)
    assert not is_hit("sticker", stays, yes)
    half = torch.arange(8) < 6
    assert not is_hit("corner", moves, half)


def unit(kind, answer, reliant=True, **more):
    return {"kind": kind, "reliant": reliant, "answer": answer, "search_forwards": 400, **more}


def test_tabulate_places__counts_hits_of_reliant_classes_that_were_asked():
    images = {"images_searched": 12, "images_hit": 11, "images_heatmap_hit": 3}
    units = [
        unit("watermark", "stays", hit=True, heatmap_hit=False, **images),
        unit("watermark", "moves", hit=False, heatmap_hit=True, **images),
        unit("watermark", "stays", reliant=False, hit=True, heatmap_hit=True, **images),
        {"kind": "watermark", "reliant": True},
        unit("frame", "spread"),
        unit("frame", "stays"),
    ]
    watermark, frame = tabulate_places(units)
    assert (watermark["flagged"], watermark["hit"], watermark["mean heatmap"]) == (2, 1, 1)
    assert (watermark["a wrong place"], watermark["images hit"], watermark["heatmaps"]) == (1, 22, 6)
    assert (frame["flagged"], frame["a wrong place"], frame["all over"]) == (2, 1, 1)
    assert summarize_places(units) == {
        "located_patches_and_watermarks": "1 of 2",
        "located_by_mean_heatmap": "1 of 2",
    }


def test_tabulate_places__of_older_runs_is_empty():
    assert tabulate_places([{"kind": "corner", "reliant": True}]) == []
    assert summarize_places([{"kind": "corner", "reliant": True}]) == {}
