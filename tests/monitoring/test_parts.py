"""The small readers that the monitor hands each batch to."""

import numpy as np
import pytest
import torch
from torch import nn

from camtrain.cam import Capture, Layer, grad_cam, hires_cam, pool_masks
from camtrain.data.batches import Batch
from camtrain.monitoring.drift import Traces, drift_scalars
from camtrain.monitoring.explainer import Explainer
from camtrain.monitoring.panels import Naming, panels
from camtrain.monitoring.selection import (
    Candidates,
    Case,
    Probes,
    Surprise,
    confidently_wrong,
    direction,
    diverse,
    keep,
    offer_to_all,
    right_for_the_wrong_reason,
)
from camtrain.monitoring.table import (
    Table,
    ceiling,
    class_rows,
    confusion,
    explain_batch,
    histograms,
    joined,
    remembered,
    scalars,
)
from camtrain.monitoring.validation_pass import Followed, ValidationPass
from camtrain.records import CELLS
from camtrain.render import overlay, to_uint8
from camtrain.tasks import SingleLabel

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
    names = samples or [f"s{i}" for i in range(count)]
    return explained_by(read, captured, METHODS, names, images)


def explained_by(read, captured, methods, names, images):
    task = SingleLabel()
    (units,) = task.units(captured.logits, read)
    return explain_batch(
        read, captured, task=task, units=units, methods=methods, samples=names, inputs=images, grounded_above=0.2
    )


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
    assert [row["chance"] for row in rows] == [0.5] * 4  # the left half
    assert rows[0]["ceiling/grad_cam"] == 1.0


def test_explained_batch__without_labels_and_masks_knows_less():
    captured = Capture(torch.zeros(4, 2), torch.zeros(4), (), (), ())
    read = Batch(four().batch.images)
    bare = explained_by(read, captured, {}, list("abcd"), None)
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


class Planned(Explainer):
    """Answers with one heatmap for every true class, and keeps what it was asked."""

    def __init__(self, heat):
        self.heat, self.asked = heat, []

    def true_heatmaps(self, images, labels):
        self.asked.append(labels.tolist())
        return self.heat.expand(len(images), 4, 4)


def one_pass(explained, followed, *, num_probes=0, num_failures=0):
    seen = ValidationPass(followed, num_probes=num_probes, num_failures=num_failures, expected=4)
    seen.update([explained], explained.samples)
    seen.remember(joined([seen.table()]))
    return seen


def test_pass__shows_the_true_class_beside_a_wrong_answer():
    explainer = Planned(torch.eye(4))
    seen = one_pass(four(), Followed(), num_failures=4)
    shown = {panel.sample: panel for panel in seen.failures([seen.offers(explainer, NAMING)])}
    assert explainer.asked == [[0, 1]]
    assert [panel.reason for panel in shown.values()] == ["confidently wrong"] * 2 + ["right for the wrong reason"]
    expected = overlay(shown["s2"].image[None], torch.eye(4)[None])[0]
    assert torch.equal(shown["s2"].true_overlay, expected)
    assert shown["s1"].true_overlay is None


def test_pass__shows_a_sample_for_its_first_reason_only():
    followed, explainer = Followed(), Planned(torch.ones(4, 4))
    worse = [0.45, 0.4, 0.3, 0.2]  # boats that were certain before, all taken for cars now
    for answers in ([0.9] * 4, worse):
        explained = batch(answers, [(0, 0), (0, 1), (0, 2), (0, 3)], [0] * 4)
        seen = one_pass(explained, followed, num_failures=2)
        panels = seen.failures([seen.offers(explainer, NAMING)])
    assert [panel.reason for panel in panels] == ["confidently wrong"] * 2 + ["surprise"] * 2
    assert len({panel.sample for panel in panels}) == 4
    assert sum(map(len, explainer.asked)) == 4


def test_pass__of_several_processes_shows_the_worst_of_all_and_goes_on_without_a_share():
    explainer = Planned(torch.ones(4, 4))
    parts = [batch([p], [(0, 0)], [0], samples=[name]) for p, name in ((0.3, "mild"), (0.1, "bad"))]
    seen = [one_pass(part, Followed(), num_failures=1) for part in parts]
    offers = [each.offers(explainer, NAMING) for each in seen]
    assert [panel.sample for panel in seen[0].failures([*offers, []])] == ["bad"]
    assert joined([each.table() for each in seen]).samples == ["mild", "bad"]


def test_pass__follows_probes_and_their_drift_over_a_resume():
    followed = Followed()
    first = one_pass(four(), followed, num_probes=2)
    assert [panel.since_last for panel in first.probe_panels(NAMING)] == [None, None]
    moved = batch([0.9, 0.8, 0.1, 0.1], [(0, 3)] * 4, [0, 0, 0, 1])
    second = one_pass(moved, Followed.restored(followed.state_dict()), num_probes=2)
    shown = second.probe_panels(NAMING)
    assert [panel.sample for panel in shown] == ["s0", "s3"]
    assert [panel.flipped for panel in shown] == [False, True]
    assert shown[0].since_last == shown[0].since_first
    assert shown[0].since_first.shift == pytest.approx(0.75 / np.sqrt(2))
    assert drift_scalars(shown)["cam/drift/flipped_probes"] == 0.5


def test_traces__remember_the_first_pass_and_the_last():
    traces = Traces()
    for column in (0, 1, 3):
        probes = Probes([], 1, 1)
        probes.choose(["s0"], 0)
        probes.update(batch([0.9], [(0, column)], [0]))
        (kept,) = probes.kept()
        panel = traces.moved(panels([kept], NAMING)[0], kept.heatmaps["grad_cam"].numpy())
    assert panel.since_first.shift == pytest.approx(0.75 / np.sqrt(2))
    assert panel.since_last.shift == pytest.approx(0.5 / np.sqrt(2))


def table(explained=None):
    return one_pass(four() if explained is None else explained, Followed()).table()


def test_table__counts_classes_confusions_and_energies():
    boat, car = class_rows(table(), NAMING.classes)
    assert (boat.class_name, boat.images, boat.right, boat.inside_energy) == ("boat", 3, 2, pytest.approx(1 / 3))
    assert boat.cells == dict(zip(CELLS, (1, 1, 0, 1), strict=True))
    assert car.accuracy == 0
    assert confusion(table(), NAMING.classes) == (("boat", "boat", 2), ("boat", "car", 1), ("car", "boat", 1))
    counts = histograms(table())["cam/inside_energy_histogram/grad_cam"]
    assert (counts[0], counts[-1], sum(counts)) == (2, 2, 4)


def test_scalars__are_means_over_the_images_with_an_answer():
    values = scalars(table(), list(METHODS))
    assert values["cam/inside_energy/grad_cam"] == 0.5
    assert values["cam/empty_maps/hires_cam"] == 0
    assert [values[f"cam/{cell.replace('/', '_')}"] for cell in CELLS] == [0.25] * 4
    assert list(scalars(table(batch([0.9], [(0, 0)], [0], masks=False)), list(METHODS))) == [
        "cam/empty_maps/grad_cam",
        "cam/empty_maps/hires_cam",
    ]
    assert np.isnan(scalars(joined([]), ["grad_cam"])["cam/empty_maps/grad_cam"])


def test_joined__counts_a_sample_of_two_processes_once_and_two_images_of_one_name_twice():
    twice = joined([table(), table()])
    assert twice.samples == ["s0", "s1", "s2", "s3"]
    assert np.array_equal(twice.numbers, table().numbers, equal_nan=True)
    alike = batch([0.9, 0.8], [(0, 0)] * 2, [0, 0], samples=["a", "a"])
    assert len(joined([table(alike)]).numbers) == 2


def test_joined__of_nothing_is_empty():
    nothing = ValidationPass(Followed(), num_probes=0, num_failures=0, expected=None).table()
    assert joined([nothing]).samples == joined([]).samples == []


def test_unknown_labels__are_of_no_class_not_wrong_and_in_no_cell():
    explained = batch([0.1, 0.2, 0.9], [(0, 0)] * 3, [-1, -100, 0])
    assert confidently_wrong(explained).tolist() == [-1, -1, -1]
    assert explained.cells.tolist() == [-1, -1, 0]
    assert table(explained)["label"].tolist() == [-1, -1, 0]
    assert [row.images for row in class_rows(table(explained), NAMING.classes)] == [1]
    assert confusion(table(explained), NAMING.classes) == (("boat", "boat", 1),)


def test_remembered__holds_loss_and_grounding_by_sample():
    kept = remembered(table())
    assert kept["s2"] == (pytest.approx(-np.log(0.1), rel=1e-4), False)
    assert [grounded for _, grounded in kept.values()] == [True, False, False, True]
    assert isinstance(table(), Table)


def test_explained__knows_the_level_by_chance_and_what_the_grid_leaves_of_a_perfect_map():
    masks = torch.zeros(3, 4, 4)
    masks[0, :2, :3] = 1  # 6 of 16 pixels; on 2 x 2 cells 1, .5, 0, 0
    masks[1] = -1
    masks[0, 2:] = -1  # of which nothing is known
    assert ceiling(pool_masks(masks, (2, 2))).tolist() == pytest.approx(
        [1.25 / 1.5, float("nan"), float("nan")], nan_ok=True
    )
