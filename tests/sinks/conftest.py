import pytest
import torch

from camtrain.records import CELLS, Classes, ClassRow, Document, Drift, Histograms, Setup, Strip
from camtrain.sinks import FAILURES, HEATMAPS, Alert, Example, FourCells, Panel, Panels, Scalars, Verdict, Verdicts

CORNER = "bottom right corner, 25 % x 25 % (11 of 12 images)"


def picture(seed: int = 0, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)


def panel(sample="s0", label=0, predicted=1, energy=0.2, cell=CELLS[3], mask=True, methods=("grad_cam", "hires_cam")):
    names = ["boat", "car"]
    return Panel(
        sample=sample,
        image=picture(),
        overlays={name: picture(index) for index, name in enumerate(methods, start=1)},
        label=label,
        predicted=predicted,
        label_name=names[label],
        predicted_name=names[predicted],
        probability=0.97,
        true_probability=0.97 if label == predicted else 0.02,
        inside_energy=dict.fromkeys(methods, energy) if mask else {},
        cell=cell,
        mask=(torch.arange(16).view(1, -1) < 8).expand(16, 16) if mask else None,
        group_name="boat on land",
        hot={name: torch.eye(16) > 0 for name in methods},
        true_overlay=None if label == predicted else picture(9),
        reason="surprise",
        since_last=Drift(0.75, 0.125),
        since_first=Drift(float("nan"), 0.25),
        flipped=False,
    )


def one_pass(epoch: int, step: int, verdict: str = "reliant", energy: float = 0.2):
    """Every kind of record, as the callbacks write them after a validation."""
    rows = (
        Verdict(0, "boat", verdict, 0.41, 0.35, 0.47, 0.02, 0.001, 64, where=CORNER, box=(0.75, 0.75, 0.25, 0.25)),
        Verdict(1, "car", "undecided", float("nan"), float("nan"), float("nan"), 0.0, float("nan"), 2, note="too few"),
    )
    example = Example("boat", picture(1), picture(2), before=0.98, after=0.11, caption="background of s3")
    strips = (Strip("boat", picture(3, 24), CORNER, 9, 11), Strip("car", picture(4, 24)[:, :, :16], "moves", 5, 8))
    scalars = {"val/accuracy": 0.8, "val/worst_group_accuracy": 0.4, "cam/inside_energy/grad_cam": energy}
    return (
        Scalars(scalars | {"reliance/flagged": float(verdict == "reliant")}, epoch, step),
        FourCells(dict(zip(CELLS, (5, 3, 1, 2), strict=True)), epoch, step),
        Panels(HEATMAPS, (panel("s0"), panel("s1", 0, 0, cell=CELLS[0])), epoch, step),
        Panels(FAILURES, (panel("s0"), panel("s2", 1, 1, cell=CELLS[1], energy=float("nan"))), epoch, step),
        Verdicts(rows, epoch, step, (example,), strips),
        Alert("boat leans on its background", "effect 0.41 [0.35, 0.47]", epoch, step),
        Histograms({"cam/inside_energy_histogram/grad_cam": [4, 0, 3, 1]}, epoch, step),
        Classes(
            (ClassRow("boat", 8, 6, energy, dict(zip(CELLS, (4, 2, 1, 1), strict=True))),),
            (("boat", "boat", 6), ("boat", "car", 2)),
            epoch,
            step,
        ),
        Setup({"layers": {"net.4": "the last map"}, "methods": ["grad_cam"], "versions": {"torch": "2"}}, epoch, step),
    )


def document(folder):
    path = folder / "report.html"
    path.write_text("<!doctype html>")
    return Document("report", (path,), {"camtrain/headline": "boat leans"}, 1, 10)


@pytest.fixture
def make_panel():
    return panel


@pytest.fixture
def make_document():
    return document


@pytest.fixture
def make_pass():
    return one_pass
