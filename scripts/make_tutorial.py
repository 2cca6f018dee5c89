"""Write and execute docs/tutorial.ipynb (needs nbformat, nbclient, ipykernel): python scripts/make_tutorial.py"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

TARGET = Path(__file__).resolve().parent.parent / "docs" / "tutorial.ipynb"

CELLS = [
    "# A shortcut, seen and believed\n\nGenerated scenes: boats and ducks lie on water, cars and hens on land, nearly "
    "always. A small network learns from them, and camtrain shows what it learned. Two minutes on a CPU.",
    """import warnings

import pytorch_lightning as pl

from camtrain import explain
from camtrain.callbacks import ExplanationMonitor
from camtrain.data.modules import ScenesDataModule
from camtrain.module import ImageClassifier
from camtrain.sinks import FAILURES, read_history

warnings.filterwarnings("ignore")
pl.seed_everything(0, verbose=False)
data = ScenesDataModule(correlation=0.95, batch_size=32, train_size=NUM, val_size=NUM // 2)""",
    "## Train, with one callback more\n\nThe module knows nothing of it. The monitor rides on the validation's own "
    "forward pass.",
    """module = ImageClassifier("camtrain.networks.SmallResNet", num_classes=4)
trainer = pl.Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    default_root_dir="tutorial",
    callbacks=[ExplanationMonitor(num_probes=4, num_failures=4)],
)
trainer.fit(module, datamodule=data)
{name: round(float(value), 3) for name, value in trainer.callback_metrics.items() if "grad_cam_" not in name}""",
    "Validation is balanced: accuracy there shows what is left without the background. `inside_energy` is the share of "
    "the heatmap's energy on the object, `right_ungrounded` the share of answers that are right for the wrong reason.",
    "## Look\n\nAn `Explanation` shows itself.",
    """batch = next(iter(data.val_dataloader()))
images = batch["image"][:4] if isinstance(batch, dict) else batch[0][:4]
explanation = explain(module, images, methods=["grad_cam", "layer_cam"])
explanation""",
    "## Read what was recorded\n\nEverything in the report is in plain files beside it.",
    """history = read_history("tutorial/camtrain_logs")
for epoch, one in history.panels[FAILURES].items():
    for case in one.items[:2]:
        print(epoch, case["reason"], "|", case["group_name"], "taken for", case["predicted_name"])""",
    """for row in history.classes[max(history.classes)]["rows"]:
    energy = row["inside_energy"]
    print(f"{row['class_name']:5} {row['right']:3} of {row['images']:3} right, inside energy {energy:.2f}")""",
    "The page itself is `tutorial/camtrain_logs/report.html`; in a notebook `ReportPage(path)` shows it:\n\n"
    '```python\nfrom camtrain.report import ReportPage\n\nReportPage("tutorial/camtrain_logs/report.html")\n```\n\n'
    "Next: [suspect](suspect.md) asks by interventions which class leans on its background, and "
    "[correct](correct.md) makes it stop.",
]


def notebook(images: int = 400) -> nbformat.NotebookNode:
    """The tutorial, not executed; so many training images."""
    cells = [
        new_code_cell(text.replace("NUM", str(images))) if _is_code(text) else new_markdown_cell(text) for text in CELLS
    ]
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    made: nbformat.NotebookNode = new_notebook(cells=cells)
    return made


def without_chatter(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Outputs without what programs say on standard error, and without the text of what shows itself as a picture."""
    for cell in made.cells:
        cell["outputs"] = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"] or []
        for one in cell["outputs"]:
            if "text/html" in one.get("data", {}):
                one["data"].pop("text/plain", None)
        if cell.cell_type == "markdown":
            del cell["outputs"]
    return made


def _is_code(text: str) -> bool:
    return text.startswith(("import", "module", "batch", "history", "for "))


def main() -> None:
    made = notebook()
    NotebookClient(made, timeout=600, resources={"metadata": {"path": tempfile.mkdtemp()}}).execute()
    nbformat.write(without_chatter(made), TARGET)
    print(f"{TARGET} {TARGET.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
