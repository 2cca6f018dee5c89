"""Explain every image of a dataset by a trained model, and write the report that a training writes.

Reliance on backgrounds is tested too, class by class: with masks where there are any, else with guesses of where the
object is. Without class folders images are explained without labels.

example: camtrain audit photos --model torchvision:resnet50 --weights model.pth --masks masks --out audit
         python -c "import pandas; print(pandas.read_parquet('audit/images.parquet').describe())"
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from camtrain.callbacks import ExplanationMonitor, RelianceDetector
from camtrain.callbacks.run_summary import advised, summary_table
from camtrain.cam import find_logits
from camtrain.commands.images import Relabeled, open_folder
from camtrain.commands.measuring import METRICS, chosen_metrics, evenly, measure, record_of
from camtrain.commands.models import add_model_arguments, class_names, device_of, load_model, model_names
from camtrain.commands.tables import columns_of, default_table, write_table
from camtrain.commands.words import count, positive
from camtrain.data.batches import read_batch
from camtrain.data.transforms import eval_transform
from camtrain.errors import ConfigurationError
from camtrain.sinks import FilesSink
from camtrain.sinks.environment import write_run_info
from camtrain.sinks.history import read_history
from camtrain.sinks.publishing import summary_of
from camtrain.sinks.records import MetricRow
from camtrain.sinks.report import REPORT_FILE, write_report
from camtrain.sinks.story import latest_verdicts

RELIANT_FOUND = 3


class Audited(pl.LightningModule):
    """Any network, validated."""

    def __init__(self, network: nn.Module, names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.class_names = list(names)
        self.mean, self.std = list(mean), list(std)

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits."""
        return find_logits(self.network(images))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy where there are labels."""
        read = read_batch(batch)
        logits = self(read.images)
        if read.labels is not None:
            _require_same_classes(logits, self.class_names)
            self.log("val/loss", F.cross_entropy(logits, read.labels), sync_dist=True, batch_size=len(read))
            right = (logits.argmax(1) == read.labels).float().mean()
            self.log("val/accuracy", right, sync_dist=True, batch_size=len(read))


class Audit(pl.LightningDataModule):
    """The images to audit, by their names and in the colors that people know."""

    def __init__(self, dataset: Any, names: Sequence[str], options: argparse.Namespace) -> None:
        super().__init__()
        self.dataset, self.class_names, self.options = dataset, list(names), options

    def val_dataloader(self) -> DataLoader[Any]:
        """The images in their order."""
        return DataLoader(self.dataset, self.options.batch_size, num_workers=self.options.workers)

    def denormalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1]."""
        mean, std = (torch.tensor(values, device=images.device) for values in (self.options.mean, self.options.std))
        return (images * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, 1)


def prepare(parser: argparse.ArgumentParser) -> None:
    """The words that it takes."""
    parser.add_argument("folder", type=Path, help="class folders with images, or just images")
    add_model_arguments(parser)
    parser.add_argument("--images", default="", help="folder of the class folders below FOLDER")
    parser.add_argument("--masks", help="folder of the masks below FOLDER, of the same layout")
    parser.add_argument("--mask-suffix", default="", help="what follows an image's stem in its mask's name")
    parser.add_argument("--index", help="CSV file below FOLDER with the columns file and label")
    parser.add_argument("--out", type=Path, default=Path("audit"), help="folder to write (default: %(default)s)")
    parser.add_argument("--table", default=None, help=".parquet or .csv below OUT (default: images.parquet)")
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--workers", type=count, default=0, help="processes that read images")
    parser.add_argument("--devices", type=positive, default=1, help="GPUs or processes to use")
    parser.add_argument("--num-probes", type=count, default=12)
    parser.add_argument("--num-failures", type=count, default=12)
    parser.add_argument(
        "--metrics", nargs="*", choices=METRICS, metavar="NAME",
        help=f"do the heatmaps tell the truth; all that apply, or some of {', '.join(METRICS)}",
    )  # fmt: skip
    parser.add_argument(
        "--metric-images", type=int, default=64, help="of so many images, evenly over all (default: %(default)s)"
    )
    parser.add_argument("--fail-on-reliant", action="store_true", help="exit code 3 where a class is reliant")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def act(options: argparse.Namespace) -> int:
    """Audit, write, tell."""
    layout = {name: getattr(options, name) for name in ("images", "masks", "mask_suffix", "index")}
    device_of(options.device)  # that there is one
    transform = eval_transform(options.size, options.mean, options.std)
    given = class_names(options.classes)
    network = load_model(options.model, options.weights, len(given) if given else None)
    named = model_names(network, options.classes)
    dataset = open_folder(options.folder, transform, named, **layout)
    masked = isinstance(dataset, Relabeled) and dataset.masked
    metrics = chosen_metrics(options.metrics, masked=masked)
    if options.metric_images < 1:
        raise ConfigurationError(f"--metric-images is at least 1, got {options.metric_images}.")
    names = dataset.class_names if isinstance(dataset, Relabeled) else named or []
    monitor = ExplanationMonitor(options.methods, options.layers, 1, options.num_probes, options.num_failures)
    callbacks: list[pl.Callback] = [monitor]
    if isinstance(dataset, Relabeled) and len(dataset.labels) > 1:
        callbacks.insert(0, RelianceDetector(lend_from_training=False))
    trainer = _trainer(options, callbacks)
    module = Audited(network, names, options.mean, options.std)
    trainer.validate(module, datamodule=Audit(dataset, names, options), verbose=False)
    if not trainer.is_global_zero:
        return 0
    columns = {} if monitor.images is None else columns_of(monitor.images, names)
    rows = _measure(options, module, dataset, columns, metrics) if metrics else ()
    return _tell(options, columns, rows)


def _require_same_classes(logits: Tensor, names: Sequence[str]) -> None:
    if logits.shape[1] != len(names):
        raise ConfigurationError(
            f"The model answers for {logits.shape[1]} classes, and the folder has {len(names)}: which are which is not "
            "known. Name the model's classes, in order, with --classes FILE."
        )


def _measure(
    options: argparse.Namespace, module: Audited, dataset: Any, columns: dict[str, list[Any]], metrics: Sequence[str]
) -> Sequence[MetricRow]:
    """Add the metrics to the columns and to the report."""
    measured = measure(
        module.to(device_of(options.device)).eval(),
        dataset,
        evenly(len(dataset), options.metric_images),
        metrics,
        methods=options.methods,
        layers=options.layers,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    known = measured.columns(columns.get("sample", []))
    columns |= {name: values for name, values in known.items() if name not in columns}
    record = record_of(columns, measured, metrics)
    place = options.out / "camtrain" / "validate"
    FilesSink(place).write(record)
    write_report(place)
    return record.rows


def _trainer(options: argparse.Namespace, callbacks: list[pl.Callback]) -> pl.Trainer:
    place = options.out / "camtrain" / "validate"
    write_run_info(place, {key: str(value) for key, value in vars(options).items()}, title=f"Audit of {options.model}")
    kind = {"auto": "auto", "cpu": "cpu"}.get(options.device, "gpu")
    return pl.Trainer(
        accelerator=kind,
        devices=options.devices,
        logger=False,
        default_root_dir=options.out,
        enable_progress_bar=not options.json,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def _tell(options: argparse.Namespace, columns: dict[str, list[Any]], metrics: Sequence[MetricRow]) -> int:
    place = options.out / "camtrain" / "validate"
    report = Path(shutil.copy(place / REPORT_FILE, options.out / REPORT_FILE))
    table = write_table(options.out / (options.table or default_table()), columns) if columns else None
    history = read_history(place)
    verdicts = latest_verdicts(history, history.epochs[-1] if history.epochs else None)
    reliant = [row.class_name for row in verdicts if row.verdict == "reliant"]
    if options.json:
        said = {f"{row.metric}/{row.method}": [row.mean, row.low, row.high, row.images] for row in metrics}
        found = {"report": str(report), "table": str(table), "reliant": reliant, **summary_of(history)}
        print(json.dumps(found | ({"metrics": said} if said else {}), indent=2))  # noqa: T201  what was asked for
    else:
        console = Console()
        console.print(summary_table(history))
        if metrics:
            console.print(_metric_table(metrics))
        console.print(f"report  {report}\ntable   {table}", highlight=False, markup=False, soft_wrap=True)
        for label, advice in advised(history):
            console.print(f"{label}  {advice}", highlight=False, markup=False, soft_wrap=True)
    return RELIANT_FOUND if reliant and options.fail_on_reliant else 0


def _metric_table(rows: Sequence[MetricRow]) -> Table:
    """Metrics by methods: the mean and its interval."""
    methods = dict.fromkeys(row.method for row in rows)
    cells = {(row.metric, row.method): f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f})" for row in rows}
    table = Table("", *methods)
    for metric in dict.fromkeys(row.metric for row in rows):
        table.add_row(metric, *(cells.get((metric, method), "–") for method in methods))
    return table
