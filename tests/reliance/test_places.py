import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from camtrain.reliance import (
    Evidence,
    ExaminationPlan,
    Findings,
    Pace,
    Pool,
    Verdict,
    examine,
    exemplars,
    gather_evidence,
    join_evidence,
    region_of,
    with_regions,
)
from camtrain.reliance.locate import hottest, pointing
from camtrain.reliance.pictures import clusters, likeness
from camtrain.reliance.windows import apart, containing, place_name, windows
from tests.reliance.worlds import World, read_background

SIDE, CLASSES = 24, 4
PATCH = 4


@cache
def corners(images: int, seed: int, moving: bool) -> tuple[Pool, Tensor]:
    """Gray noise with a gray object in the middle and a patch in the class's color in a corner, and its places."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(images)
    pictures = 0.4 + 0.05 * torch.randn(len(labels), 3, SIDE, SIDE, generator=g)
    masks = torch.zeros(len(labels), SIDE, SIDE)
    masks[:, 8:16, 8:16] = 1
    pictures[:, :, 8:16, 8:16] = 0.6
    places = (SIDE - PATCH) * torch.randint(2, (len(labels), 2), generator=g)
    if not moving:
        places[:] = SIDE - PATCH
    for picture, label, (top, left) in zip(pictures, labels.tolist(), places.tolist(), strict=True):
        picture[:, top : top + PATCH, left : left + PATCH] = COLORS[label].view(3, 1, 1)
    return Pool(pictures, labels, masks), places


COLORS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


def reads_patches(images: Tensor) -> Tensor:
    """How much of each color there is anywhere."""
    far = (images.unsqueeze(1) - COLORS.view(1, CLASSES, 3, 1, 1)).square().sum(dim=2)
    return (far < 0.05).float().sum(dim=(2, 3))


def found(pool: Pool, predict=reads_patches, count: int = CLASSES) -> Findings:
    return examine(predict, pool, [f"class {c}" for c in range(count)], range(count), plan=ExaminationPlan(looks=()))


@cache
def found_in(images: int, moving: bool) -> Findings:
    return found(corners(images, 0, moving)[0])


def evidence_of(moving: bool, class_index: int = 1, **kwargs) -> Evidence:
    findings, pool = found_in(15, moving), corners(15, 0, moving)[0]
    return gather_evidence(reads_patches, findings, findings.verdicts[class_index], pool, pool, **kwargs)


def evidence_by(predict, pool: Pool) -> Evidence:
    findings = found(pool, predict)
    return gather_evidence(predict, findings, findings.verdicts[1], pool, pool)


def drawn(lost: list[list[float]], won: float = math.nan) -> Evidence:
    boxes = windows(8, 8, 0.5)
    rows = torch.tensor(lost)
    filled = torch.cat([rows, torch.zeros(len(rows), len(boxes) - rows.shape[1])], dim=1)
    alone = torch.full((len(rows),), won)
    return Evidence(0, "background", boxes, filled, alone, torch.zeros(len(rows), 3, 8, 8))


@pytest.mark.parametrize("class_index", range(CLASSES))
def test_region_of__a_patch_that_stays_is_found_in_its_corner(class_index):
    region = region_of(evidence_of(False, class_index))
    assert (region.answer, region.pointing, region.images) == ("stays", 12, 12)
    assert region.box == (0.75, 0.75, 0.25, 0.25)
    assert region.where == "bottom right corner, 25 % x 25 % (12 of 12 images)"


def test_region_of__a_patch_that_moves_is_found_in_every_image():
    pool, places = corners(15, 0, moving=True)
    evidence = evidence_of(True)
    region = region_of(evidence)
    assert region.answer == "moves"
    assert region.box is None
    assert region.where == f"moves from image to image ({region.pointing} of 12 images)"
    rows = (evidence.images[:, None] == pool.images[None]).all(dim=(2, 3, 4)).int().argmax(dim=1)
    tops = evidence.boxes[hottest(evidence.lost)][:, :2]
    inside = (tops <= places[rows]) & (places[rows] + PATCH <= tops + SIDE // 4)
    assert inside.all(dim=1)[pointing(evidence.lost, evidence.boxes)].all()


def test_region_of__a_color_of_the_whole_background_has_no_place():
    pool = World(classes=4, images=15, seed=0).pool()
    region = region_of(evidence_by(lambda images: 6 * images.mean(dim=(2, 3)), pool))
    assert region.answer == "spread"
    assert region.where == "all over the background"


def test_region_of__a_strip_that_is_read_has_no_place_either():
    region = region_of(evidence_by(read_background, World(classes=4, images=15, seed=0).pool()))
    assert region.box is None
    assert region.answer in ("spread", "unclear")


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ([[0.9, 0.0]] * 8, "stays"),
        ([[0.9, 0.0]] * 4 + [[0.0] * 8 + [0.9]] * 4, "moves"),
        ([[0.9, 0.0]] * 5 + [[0.1, 0.0]] * 3, "unclear"),  # 5 of 8 may be a third by chance
        ([[0.9, 0.0]] + [[0.1, 0.1]] * 7, "spread"),
        ([[0.9, 0.0]] * 3, "unclear"),  # too few images
        ([[0.5, 0.0, 0.3]] * 8, "unclear"),  # the best window apart from it is more than half as good
        ([[0.2, 0.0]] * 8, "spread"),
    ],
)
def test_region_of__decides_by_its_rule(rows, answer):
    padded = [row + [0.0] * (9 - len(row)) for row in rows]
    evidence = drawn(padded, won=0.3)
    if answer == "unclear" and padded[0][2]:
        evidence = replace(evidence, won=torch.full((8,), 0.9))
    assert region_of(evidence).answer == answer


def test_region_of__a_class_told_by_the_lack_of_others_cues_is_not_said_to_be_spread():
    assert region_of(drawn([[0.1, 0.0]] * 12, won=0.95)).answer == "unclear"


def test_region_of__without_images_is_unclear():
    pool = World(classes=2, images=12, seed=0).pool()
    findings = found(pool, read_background, count=2)
    nobody = replace(findings.verdicts[0], cue="sharpness of something else")
    region = region_of(gather_evidence(read_background, findings, nobody, pool, pool))
    assert (region.answer, region.where, region.images) == ("unclear", "", 0)


def test_gather_evidence__of_two_classes_finds_the_patch():
    pool, _ = corners(15, 0, moving=False)
    two = Pool(*(part[pool.labels < 2] for part in (pool.images, pool.labels, pool.masks)))
    findings = found(two, count=2)
    region = region_of(gather_evidence(reads_patches, findings, findings.verdicts[0], two, two))
    assert region.answer == "stays"


def test_gather_evidence__costs_what_it_says():
    seen: list[int] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(len(images))
        return reads_patches(images)

    pool, findings = corners(15, 0, moving=False)[0], found_in(15, moving=False)
    evidence = gather_evidence(predict, findings, findings.verdicts[0], pool, pool, images=6, pace=Pace(16))
    assert evidence.forwards == sum(seen)
    assert max(seen) <= 16
    assert 6 * 20 < sum(seen) <= 6 * 50


def test_gather_evidence__never_touches_the_object():
    pool, findings = corners(15, 0, moving=False)[0], found_in(15, moving=False)
    middles: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        middles.append(images[:, :, 8:16, 8:16])
        return reads_patches(images)

    gather_evidence(predict, findings, findings.verdicts[0], pool, pool)
    assert (torch.cat(middles) == 0.6).all()


def test_join_evidence__of_two_processes_counts_both():
    one = evidence_of(False, images=5)
    joined = join_evidence([one, one])
    assert region_of(joined).images == 10
    assert joined.forwards == 2 * one.forwards


def test_with_regions__fills_in_the_verdicts_that_were_looked_for():
    findings = found_in(15, moving=False)
    told = with_regions(findings.verdicts, [region_of(evidence_of(False, 2))])
    assert [one.box is not None for one in told] == [False, False, True, False]
    assert told[2].where.startswith("bottom right corner")


@pytest.mark.parametrize(("height", "width"), [(40, 40), (64, 64), (224, 224), (33, 50), (7, 9)])
def test_windows__reach_every_border_and_overlap_by_half(height, width):
    boxes = windows(height, width, 0.25)
    assert 48 <= len(boxes) <= 49
    covered = torch.zeros(height, width)
    for top, left, tall, wide in boxes.tolist():
        covered[top : top + tall, left : left + wide] += 1
    assert covered.min() >= 1
    assert covered[0, 0] == covered[-1, -1] == 1
    assert containing(boxes, windows(height, width, 0.5)).any(dim=1).all()


def test_apart__is_no_common_pixel():
    boxes = windows(8, 8, 0.25)
    pixels = torch.zeros(len(boxes), 8, 8)
    for mask, (top, left, tall, wide) in zip(pixels, boxes.tolist(), strict=True):
        mask[top : top + tall, left : left + wide] = 1
    common = torch.einsum("ahw,bhw->ab", pixels, pixels)
    assert torch.equal(apart(boxes), common == 0)


@pytest.mark.parametrize(
    ("box", "name"),
    [
        ((0.0, 0.0, 0.25, 0.25), "top left corner"),
        ((0.75, 0.375, 0.25, 0.25), "right edge"),
        ((0.375, 0.75, 0.25, 0.25), "bottom edge"),
        ((0.375, 0.375, 0.25, 0.25), "middle"),
    ],
)
def test_place_name__is_what_a_person_says(box, name):
    assert place_name(box) == f"{name}, 25 % x 25 %"


def test_exemplars__of_a_moving_patch_are_the_windows_that_hold_it():
    evidence = evidence_of(True, 2)
    shown = exemplars(evidence, region_of(evidence))
    assert shown is not None
    assert len(shown.pictures) >= 0.8 * shown.images
    for picture, (top, left, tall, wide) in zip(shown.pictures, shown.boxes.tolist(), strict=True):
        window = picture[:, top : top + tall, left : left + wide]
        blue = (window - COLORS[2].view(3, 1, 1)).square().sum(dim=0) < 0.05
        assert blue.sum() == PATCH**2


def test_exemplars__of_a_cue_without_a_place_are_none():
    evidence = drawn([[0.1, 0.0]] * 8)
    assert exemplars(evidence, region_of(evidence)) is None


def test_exemplars__leave_out_a_window_that_looks_different():
    g = torch.Generator().manual_seed(0)
    pictures = 0.5 + 0.05 * torch.randn(9, 3, 32, 32, generator=g)
    pictures[:, 0, 25:31, 25:31] += 2
    pictures[4] = 0.5 + 0.05 * torch.randn(3, 32, 32, generator=g)
    boxes = windows(32, 32, 0.25)
    lost = torch.zeros(9, len(boxes))
    lost[:, -1] = 0.9
    evidence = Evidence(0, "background", boxes, lost, torch.full((9,), math.nan), pictures)
    shown = exemplars(evidence, region_of(evidence))
    assert shown is not None
    assert (len(shown.pictures), shown.images) == (8, 9)
    assert (shown.pictures[:, 0, 28, 28] > 2).all()


def test_likeness__is_blind_to_contrast_and_tint_of_outlines():
    g = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 16, 16, generator=g)
    other = torch.rand(3, 16, 16, generator=g)
    tinted = 0.5 * picture + torch.tensor([0.1, 0.5, 0.0]).view(3, 1, 1)
    alike = likeness(torch.stack([picture, tinted, other]), torch.tensor([[4, 4, 8, 8]] * 3))
    assert alike[0, 1] == pytest.approx(1, abs=1e-4)
    assert alike[0, 2] < 0.8
    assert len(likeness(torch.zeros(0, 3, 8, 8), torch.zeros(0, 4, dtype=torch.int64))) == 0


def test_clusters__of_one_or_none():
    assert clusters(torch.ones(1, 1)).tolist() == [0]
    assert clusters(torch.zeros(0, 0)).tolist() == []


def test_verdict__has_no_place_unless_one_was_found():
    assert Verdict(0, "a", "reliant", 0.3, 0.2, 0.4, 0.0, 0.01, 9, "background", "").where == ""
