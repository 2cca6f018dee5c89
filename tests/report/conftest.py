import pytest
import torch

from camtrain.records import CELLS, Calibration, Classes, ClassRow, ConfidenceBin, Gallery, Scalars, Setup
from camtrain.sinks import FilesSink
from tests.sinks.conftest import make_document, make_panel, make_pass

__all__ = ["make_document", "make_panel", "make_pass", "write_audit"]


@pytest.fixture
def write_audit():
    """Writes an audit of so many images: cats that are right, the less sure the later, but each fifth is a dog."""

    def write(folder, count=130):
        answers = ["dog" if index % 5 == 0 else "cat" for index in range(count)]
        columns = {
            "sample": [f"cats/{index:03d}.jpg" for index in range(count)],
            "true": ["cat"] * count,
            "predicted": answers,
            "probability": [round(0.99 - 0.003 * index, 4) for index in range(count)],
            "true_probability": [0.5] * count,
            "right": [float(answer == "cat") for answer in answers],
            "inside_energy": [round(index / count, 4) for index in range(count)],
            "chance": [0.25] * count,
            "cell": [CELLS[0 if answer == "cat" else 3] for answer in answers],
        }
        wrong = answers.count("dog")
        lines = -(-count // 10)
        sheet = torch.zeros(3, 8 * lines, 160, dtype=torch.uint8)
        sheets = tuple(sheet[:, first : first + 80] for first in range(0, 8 * lines, 80))
        bins = (ConfidenceBin(0.0, 0.5, 0, 0.5, 0.5), ConfidenceBin(0.5, 1.0, count, 0.8, 0.8))
        row = ClassRow("cat", count, count - wrong, 0.5, {CELLS[0]: count - wrong, CELLS[3]: wrong}, 0.25)
        FilesSink(folder).write(
            Scalars({"val/accuracy": 0.8, "cam/inside_energy/grad_cam": 0.5, "cam/inside_energy_chance": 0.25}, 0, 0),
            Calibration(count, 0.8, 0.75, 0.85, 0.9, 0.1, bins, 0, 0),
            Classes((row,), (("cat", "cat", count - wrong), ("cat", "dog", wrong)), 0, 0),
            Gallery(columns, sheets, 8, count, 0, 0),
            Setup({"stage": "validate", "layers": {"net.4": "last"}, "methods": ["grad_cam"]}, 0, 0),
        )

    return write
