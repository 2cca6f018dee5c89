"""The small readers that the monitor hands each batch to."""

import numpy as np
import pytest
import torch
from torch import nn

from camtrain.callbacks._diverse import Case, direction, diverse
from camtrain.callbacks._drifting import Drifting, drift_scalars
from camtrain.callbacks._explained import explained_batch
from camtrain.callbacks._kept import (
    Candidates,
    Probes,
    Surprise,
    confidently_wrong,
    keep,
    offer_to_all,
    right_for_the_wrong_reason,
)
from camtrain.callbacks._ledger import Ledger, Table, class_rows, confusion, histograms, joined, remembered
from camtrain.callbacks._lightning import Attempt
from camtrain.callbacks._observations import Observations
from camtrain.callbacks._pictures import Naming, panels
from camtrain.cam import Capture, Layer, grad_cam, hires_cam
from camtrain.data.batches import Batch
from camtrain.records import CELLS
from camtrain.render import overlay, to_uint8

NAMING = Naming(["boat", "car"], ["on water"])
METHODS = {"grad_cam": grad_cam, "hires_cam": hires_cam}


def spot(row, column, size=4):
    activations = torch.zeros(1, size, size)
    activations[0, row, column] = 1.0
    return activations


def batch(answers, spots, labels, *, masks=True, samples=None, size=8):
    """Images whose evidence lies in one cell each; the object is the left half of every image."""
    count = len(labels)
    logits = torch.tensor([[p, 1 - p] for p in answers]).log()
    activations = torch.stack([spot(*where) for where in spots])
    layer = Layer("layer", nn.Identity())
    captured = Capture(logits, logits.amax(1), (activations,), (torch.ones_like(activations),), (layer,))
    inside = (torch.arange(size) < size // 2).float().repeat(count, size, 1)
    images = torch.linspace(0, 1, count * 3 * size * size).view(count, 3, size, size)
    read = Batch(images, torch.tensor(labels), inside if masks else None, torch.zeros(count, dtype=torch.long))
    return explained_batch(read, captured, METHODS, samples or [f"s{i}" for i in range(count)], 0.2)


def four():
    """boat right on the object, boat right off it, boat taken for car, car taken for boat."""
    return batch([0.9, 0.8, 0.1, 0.7], [(0, 0), (0, 3), (1, 3), (2, 1)], [0, 0, 0, 1])


def test_explained_batch__has_a_row_of_numbers_for_each_image():
    explained = four()
    rows = [dict(zip(explained.columns, row, strict=True)) for row in explained.numbers.tolist()]
    assert [row["label"] for row in rows] == [0, 0, 0, 1]
    assert [row["predicted"] for row in rows] == [0, 0, 1, 0]
    assert rows[2]["loss"] == pytest.approx(-np.log(0.1), rel=1e-4)
    assert [CELLS[int(row["cell"])] for row in rows] == [CELLS[0], CELLS[1], CELLS[3], CELLS[2]]
    assert [row["inside_energy/grad_cam"] for row in rows] == [1, 0, 0, 1]
    assert rows[0]["annotated"] == 1


def test_explained_batch__without_labels_and_masks_knows_less():
    captured = Capture(torch.zeros(4, 2), torch.zeros(4), (), (), ())
    bare = explained_batch(Batch(four().batch.images), captured, {}, list("abcd"), 0.2)
    row = dict(zip(bare.columns, bare.numbers[0].tolist(), strict=True))
    assert (row["label"], row["cell"], row["group"], row["annotated"]) == (-1, -1, -1, 0)
    assert row["loss"] != row["loss"]


def test_scores__rank_what_went_wrong():
    explained = four()
    assert confidently_wrong(explained).tolist() == pytest.approx([-1, -1, 0.9, 0.7])
    assert right_for_the_wrong_reason(explained).tolist() == pytest.approx([-1, 0.8, -1, -1])


def test_surprise__is_a_risen_loss_or_evidence_that_left_the_object():
    surprise, explained = Surprise(), four()
    assert surprise(explained).tolist() == [-1] * 4  # nothing to compare with
    surprise.earlier = {"s0": (2.0, True), "s1": (0.2, True), "s2": (0.3, False)}
    scores = surprise(explained).tolist()
    assert scores[0] == -1
    assert scores[1] == pytest.approx(1 + (-np.log(0.8) - 0.2), abs=1e-4)
    assert scores[2] == pytest.approx(-np.log(0.1) - 0.3, abs=1e-4)
    assert scores[3] == -1  # not seen before


def test_candidates__keep_the_highest_of_all_batches():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, generator=generator).tolist()
    candidates = [Candidates("wrong", 2, confidently_wrong), Candidates("none", 0, confidently_wrong)]
    for start in range(0, 60, 6):
        answers = [1 - 0.5 - value / 2 for value in scores[start : start + 6]]
        samples = [f"s{start + i}" for i in range(6)]
        offer_to_all(candidates, batch(answers, [(0, 0)] * 6, [0] * 6, samples=samples))
    best = sorted(range(60), key=lambda index: -scores[index])[:8]
    assert [kept.sample for kept in candidates[0].ranked()] == [f"s{index}" for index in best]
    assert candidates[1].ranked() == []


def test_diverse__spreads_over_classes_and_heatmaps():
    left, right = direction(spot(0, 0)[0].numpy()), direction(spot(0, 3)[0].numpy())
    boat, car = (0, 1), (1, 0)  # taken for each other
    cases = [
        Case("a", 1.0, boat, left),
        Case("b", 0.9, boat, left),
        Case("c", 0.8, boat, right),
        Case("d", 0.3, car, left),
    ]
    assert diverse(cases, 2) == [0, 2]  # the same classes, but another place
    assert diverse(cases, 9) == [0, 2, 3, 1]
    assert diverse([], 3) == []


def test_diverse__keeps_what_was_shown_unless_another_is_clearly_worse():
    flat = np.zeros(4, np.float32)
    cases = [Case("new", 0.9, (0, 1), flat), Case("old", 0.85, (0, 1), flat)]
    assert diverse(cases, 1) == [0]
    assert diverse(cases, 1, {"old"}) == [1]
    assert diverse([Case("new", 0.99, (0, 1), flat), cases[1]], 1, {"other"}) == [0]


def test_panels__of_a_batch_are_those_of_one_image_at_a_time():
    explained = four()
    together = panels(keep(explained, [3, 1]), NAMING, "because")
    for row, panel in zip((3, 1), together, strict=True):
        pixels = to_uint8(explained.batch.images[[3, 1]])
        expected = overlay(pixels, explained.heatmaps["hires_cam"][[3, 1]])[0 if row == 3 else 1]
        assert torch.equal(panel.overlays["hires_cam"], expected)
        assert panel.hot["grad_cam"].shape == (8, 8)
        assert panel.hot["grad_cam"][:, :4].any() == (row == 3)
        assert (panel.mask[:, :4] == 1).all()
        assert panel.group_name == "on water"
        assert panel.reason == "because"
    assert (together[0].label_name, together[0].predicted_name, together[0].cell) == ("car", "boat", CELLS[2])


def test_panels__of_an_unannotated_image_have_no_mask_and_no_energy():
    explained = four()
    explained.batch.masks[1] = -1
    (panel,) = panels(keep(explained, [1]), NAMING)
    assert panel.mask is None
    assert panel.inside_energy == {}


def test_observations__show_the_true_class_beside_a_wrong_answer():
    seen, asked = Observations(0, 4), []

    def true_heatmaps(images, labels):
        asked.append(labels.tolist())
        return torch.eye(4).expand(len(images), 4, 4)

    seen.reset(4)
    seen.update(four(), 0, with_probes=True)
    found = {panel.sample: panel for panel in seen.failure_panels(NAMING, true_heatmaps, list)}
    assert asked == [[0, 1]]
    assert [panel.reason for panel in found.values()] == ["confidently wrong"] * 2 + ["right for the wrong reason"]
    expected = overlay(found["s2"].image[None], torch.eye(4)[None])[0]
    assert torch.equal(found["s2"].true_overlay, expected)
    assert found["s1"].true_overlay is None


def test_observations__show_a_sample_for_its_first_reason_only():
    seen, forwards = Observations(0, 2), []

    def true_heatmaps(images, labels):
        forwards.append(len(images))
        return torch.ones(len(images), 4, 4)

    worse = [0.45, 0.4, 0.3, 0.2]  # boats that were certain before, all taken for cars now
    for answers in ([0.9] * 4, worse):
        seen.reset(4)
        seen.update(batch(answers, [(0, 0), (0, 1), (0, 2), (0, 3)], [0] * 4), 0, with_probes=False)
        found = seen.failure_panels(NAMING, true_heatmaps, list)
        seen.numbers(list)
    assert [panel.reason for panel in found] == ["confidently wrong"] * 2 + ["surprise"] * 2
    assert len({panel.sample for panel in found}) == 4
    assert sum(forwards) == 4


def test_observations__follow_probes_and_their_drift_over_a_resume():
    first, second = Observations(2, 0), Observations(2, 0)
    first.reset(4)
    first.update(four(), 0, with_probes=True)
    assert [panel.since_last for panel in first.probe_panels(NAMING)] == [None, None]
    second.load_state_dict(first.state_dict())
    second.reset(4)
    second.update(batch([0.9, 0.8, 0.1, 0.1], [(0, 3)] * 4, [0, 0, 0, 1]), 0, with_probes=True)
    shown = second.probe_panels(NAMING)
    assert [panel.sample for panel in shown] == ["s0", "s3"]
    assert [panel.flipped for panel in shown] == [False, True]
    assert shown[0].since_last == shown[0].since_first
    assert shown[0].since_first.shift == pytest.approx(0.75 / np.sqrt(2))
    assert drift_scalars(shown)["cam/drift/flipped_probes"] == 0.5


def test_drifting__remembers_the_first_pass_and_the_last():
    drifting = Drifting()
    for column in (0, 1, 3):
        probes = Probes(1)
        probes.reset(1)
        probes.update(batch([0.9], [(0, column)], [0]), 0)
        (panel,) = drifting.moved(probes.kept(), panels(probes.kept(), NAMING))
    assert panel.since_first.shift == pytest.approx(0.75 / np.sqrt(2))
    assert panel.since_last.shift == pytest.approx(0.5 / np.sqrt(2))


def table():
    ledger = Ledger()
    ledger.update(four())
    return ledger.table()


def test_ledger__counts_classes_confusions_and_energies():
    boat, car = class_rows(table(), NAMING.classes)
    assert (boat.class_name, boat.images, boat.right, boat.inside_energy) == ("boat", 3, 2, pytest.approx(1 / 3))
    assert boat.cells == dict(zip(CELLS, (1, 1, 0, 1), strict=True))
    assert car.accuracy == 0
    assert confusion(table(), NAMING.classes) == (("boat", "boat", 2), ("boat", "car", 1), ("car", "boat", 1))
    counts = histograms(table())["cam/inside_energy_histogram/grad_cam"]
    assert (counts[0], counts[-1], sum(counts)) == (2, 2, 4)


def test_ledger__of_two_processes_counts_a_sample_once():
    twice = joined([table(), table()])
    assert twice.samples == ["s0", "s1", "s2", "s3"]
    assert np.array_equal(twice.numbers, table().numbers, equal_nan=True)


def test_ledger__of_nothing_is_empty():
    empty = joined([Ledger().table()])
    assert empty.samples == []
    assert joined([]).samples == []


def test_remembered__holds_loss_and_grounding_by_sample():
    kept = remembered(table())
    assert kept["s2"] == (pytest.approx(-np.log(0.1), rel=1e-4), False)
    assert [grounded for _, grounded in kept.values()] == [True, False, False, True]
    assert isinstance(table(), Table)


def test_attempt__undoes_every_failure_and_reports_the_first():
    undone = []
    attempt = Attempt("Monitor", lambda: undone.append(len(undone)))

    def _draw(value):
        return 1 / value

    attempt(_draw, 1)
    assert undone == []
    with pytest.warns(UserWarning, match=r"Monitor failed in draw \(ZeroDivisionError: .*training goes on"):
        attempt(_draw, 0)
    attempt(_draw, 0)
    assert undone == [0, 1]
