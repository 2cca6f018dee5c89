"""`camtrain audit`: explain every image of a dataset, and write the report that a training writes."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from camtrain.callbacks import ExplanationMonitor, RelianceDetector
from camtrain.cam import find_logits
from camtrain.cli.answers import output_of
from camtrain.cli.images import Relabeled, Unlabeled, data_settings, open_task
from camtrain.cli.options import AuditOptions
from camtrain.cli.tables import columns_of, default_table, write_table
from camtrain.data.batches import read_batch
from camtrain.data.collate import collated
from camtrain.data.tasked import MarkedImages, ValuedImages
from camtrain.data.transforms import eval_transform
from camtrain.errors import ConfigurationError
from camtrain.explanation import explain
from camtrain.loading import device_of, load_model, model_names, read_names, zoo_names
from camtrain.metrics.suite import CURVES, FAITHFUL, ON_MASKS, Suite, interval_of
from camtrain.records import Curve, MetricRow, Metrics, Verdict, read_history
from camtrain.records.folder import write_run_info
from camtrain.reliance import Criteria
from camtrain.report import REPORT_FILE, write_report
from camtrain.report.summary import images_held, latest_verdicts, summary_of
from camtrain.report.terminal import advised, summary_table
from camtrain.sinks import FilesSink
from camtrain.sinks.run import Run
from camtrain.tasks import Detection, MultiLabel, SingleLabel, Task, check_task, resolve_task

RELIANT_FOUND = 3

_log = logging.getLogger("camtrain")


def run(options: AuditOptions) -> int:
    """Audit, write, tell."""
    device_of(options.device)  # that there is one
    check_task(options.task)
    given = read_names(options.classes)
    classes = len(given) if given else 1 if options.task == "regression" else None
    network = load_model(options.model, options.weights, classes)
    if normalizes_itself(network):
        _log.info("the network normalizes images itself: --mean and --std are left out")
        options = replace(options, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    transform = eval_transform(options.size, options.mean, options.std)
    named = model_names(network, options.classes, options.weights)
    dataset = open_task(options.folder, transform, named, options.task, **options.layout)
    metrics = chosen_metrics(options.metrics, masked=dataset.masked)
    if options.metric_images < 1:
        raise ConfigurationError(f"--metric-images is at least 1, got {options.metric_images}.")
    if metrics and isinstance(dataset, ValuedImages | MarkedImages):
        raise ConfigurationError(f"--metrics asks one label an image, and this is {options.task}: audit it without.")
    output = output_of(network, options.size)
    outputs = torch.zeros(0) if options.task == "detection" else find_logits(output)
    if outputs.numel() == 1 and metrics:
        raise ConfigurationError("--metrics asks a logit of each class; this network has one: audit it without.")
    single = isinstance(dataset, Relabeled | Unlabeled)
    if single and named is None and (zoo := zoo_names(options.model, outputs.numel())):
        named = zoo
        if isinstance(dataset, Relabeled) and set(dataset.class_names) <= set(zoo):
            dataset = Relabeled(dataset.dataset, zoo)
    names = dataset.class_names if isinstance(dataset, Relabeled | MarkedImages) else named or []
    shown = (options.num_probes, options.num_failures)
    monitor = ExplanationMonitor(options.methods, options.layers, 1, *shown, task=options.task)
    callbacks: list[pl.Callback] = [monitor]
    if not isinstance(dataset, Unlabeled) and not (isinstance(dataset, Relabeled) and len(dataset.labels) < 2):
        detector = RelianceDetector(
            images_per_class=options.images_per_class,
            max_images=options.max_images,
            lend_from_training=False,
            looks=[] if options.looks == ("none",) else options.looks,
            stickers=options.stickers,
            alpha=options.alpha,
            tau=options.tau,
            limit=options.limit,
            num_examples=options.examples,
            regions=options.regions,
            seed=options.seed,
            task=options.task,
        )
        callbacks.insert(0, detector)
    trainer = _trainer(options, callbacks)
    module = Audited(network, names, options)
    trainer.validate(module, datamodule=Audit(dataset, names, options), verbose=False)
    if not trainer.is_global_zero:
        return 0
    columns = {} if monitor.images is None else columns_of(monitor.images, names, module.form)
    rows = _measure(options, module, dataset, columns, metrics) if metrics else ()
    return _tell(options, columns, rows)


class Audited(pl.LightningModule):
    """Any network, validated."""

    def __init__(self, network: nn.Module, names: Sequence[str], options: AuditOptions) -> None:
        super().__init__()
        self.network, self.task, self.form = network, options.task, "choice"
        self.class_names = list(names)
        self.mean, self.std = list(options.mean), list(options.std)

    def forward(self, images: Tensor) -> Any:
        """The network's logits; of a detector, which takes a list of images where it is torchvision's, all of it."""
        if self.task == "detection":
            return self.network(list(images) if normalizes_itself(self.network) else images)
        return find_logits(self.network(images))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy where there are labels."""
        read = read_batch(batch)
        logits = self(read.images)
        if read.labels is not None:
            task = resolve_task(self.task, logits, read)
            self.form = task.form
            if not isinstance(task, SingleLabel):
                self._require_named(task, logits)
                if not isinstance(task, Detection):
                    losses = task.losses(logits, read.labels)
                    self.log("val/loss", losses.mean(), sync_dist=True, batch_size=len(read))
                return
            logits = task.read(logits)
            _require_same_classes(logits, self.class_names)
            self.log("val/loss", F.cross_entropy(logits, read.labels), sync_dist=True, batch_size=len(read))
            right = (logits.argmax(1) == read.labels).float().mean()
            self.log("val/accuracy", right, sync_dist=True, batch_size=len(read))

    def _require_named(self, task: Task, output: Any) -> None:
        """That the task is the one that files were read for, and its classes are those that have names."""
        if task.name != self.task:
            raise ConfigurationError(f"These labels are of another task: say --task {task.name}.")
        if isinstance(task, MultiLabel):
            _require_same_classes(task.read(output), self.class_names)
        if isinstance(task, Detection) and (count := task.count(output)) > len(self.class_names):
            raise ConfigurationError(
                f"The model answers label {count - 1}, and --classes names {len(self.class_names)}, for labels 0 to "
                f"{len(self.class_names) - 1}: name them all, __background__ first where 0 is the background."
            )


class Audit(pl.LightningDataModule):
    """The images to audit, by their names and in the colors that people know."""

    def __init__(self, dataset: Any, names: Sequence[str], options: AuditOptions) -> None:
        super().__init__()
        self.dataset, self.class_names, self.options = dataset, list(names), options

    def val_dataloader(self) -> DataLoader[Any]:
        """The images in their order."""
        return DataLoader(self.dataset, self.options.batch_size, num_workers=self.options.workers, collate_fn=collated)

    def denormalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1]."""
        mean, std = (torch.tensor(values, device=images.device) for values in (self.options.mean, self.options.std))
        return (images * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, 1)


def normalizes_itself(network: nn.Module) -> bool:
    """Whether it is one of torchvision's detectors, which take images in [0, 1], each of its own size."""
    return isinstance(getattr(network, "transform", None), GeneralizedRCNNTransform)


def _require_same_classes(logits: Tensor, names: Sequence[str]) -> None:
    if logits.shape[1] != len(names):
        raise ConfigurationError(
            f"The model answers for {logits.shape[1]} classes, and the folder has {len(names)}: which are which is not "
            "known. Name the model's classes, in order, with --classes FILE."
        )


def _measure(
    options: AuditOptions, module: Audited, dataset: Any, columns: dict[str, list[Any]], metrics: Sequence[str]
) -> Sequence[MetricRow]:
    """Add the metrics to the columns and to the report."""
    network = module.to(device_of(options.device)).eval()
    rows = evenly(len(dataset), options.metric_images)
    measured = measure(network, dataset, rows, Suite(tuple(metrics)), options)
    added = measured.columns(columns.get("sample", []))
    columns |= {name: values for name, values in added.items() if name not in columns}
    record = record_of(columns, measured, metrics)
    place = options.out / "camtrain" / "validate"
    FilesSink(place).write(record)
    write_report(place)
    return record.rows


def trained_on(options: AuditOptions) -> str:
    """What to say where the folder is the one that a checkpoint was trained on, as its run's configuration has it."""
    for file in filter(None, (options.weights, options.model)):
        for place in list(Path(file).resolve().parents)[:3] if Path(file).is_file() else ():
            root = data_settings(place / "camtrain").get("root")
            if root and Path(root).resolve() == options.folder.resolve():
                return (
                    f"{options.folder} is the folder that this checkpoint was trained on: the network has seen a part "
                    "of these images, and does better on them than on new ones."
                )
    return ""


def _short(spec: str) -> str:
    """A model as people call it: of a file its name and the run's that it lies in.

    >>> _short("torchvision:resnet18"), _short("runs/demo/abc123/checkpoints/last.ckpt")
    ('torchvision:resnet18', 'abc123 last.ckpt')
    """
    path = Path(spec)
    if path.suffix not in (".ckpt", ".pt", ".pth"):
        return spec
    run = path.parent.parent.name if path.parent.name == "checkpoints" else path.parent.name
    return f"{run} {path.name}".strip()


def _words(options: AuditOptions) -> dict[str, str]:
    return {name: str(list(value) if isinstance(value, tuple) else value) for name, value in asdict(options).items()}


def _trainer(options: AuditOptions, callbacks: list[pl.Callback]) -> pl.Trainer:
    place = options.out / "camtrain" / "validate"
    title = f"Audit of {_short(options.model)} on {options.folder.resolve().name}"
    seen = trained_on(options)
    write_run_info(place, _words(options), title=title, remarks=[seen] if seen else [])
    kind = {"auto": "auto", "cpu": "cpu"}.get(options.device, "gpu")
    trainer = pl.Trainer(
        accelerator=kind,
        devices=options.devices,
        logger=False,
        default_root_dir=options.out,
        enable_progress_bar=not options.json,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    run = Run.of(trainer)
    run.folder, run.quiet = options.out / "camtrain", True
    return trainer


def _tell(options: AuditOptions, columns: dict[str, list[Any]], metrics: Sequence[MetricRow]) -> int:
    place = options.out / "camtrain" / "validate"
    table = write_table(options.out / (options.table or default_table()), columns) if columns else None
    files = {} if table is None else {"every image in a table": table.relative_to(options.out).as_posix()}
    report = write_report(place, options.out / REPORT_FILE, files=files)
    history = read_history(place)
    verdicts = latest_verdicts(history, history.epochs[-1] if history.epochs else None)
    reliant = [row.class_name for row in verdicts if row.verdict == "reliant"]
    if options.json:
        means = {f"{row.metric}/{row.method}": [row.mean, row.low, row.high, row.images] for row in metrics}
        answer = {"report": str(report), "table": str(table), "reliant": reliant, **summary_of(history)}
        print(json.dumps(answer | ({"metrics": means} if means else {}), indent=2))  # noqa: T201  what was asked for
    else:
        console = Console()
        console.print(summary_table(history))
        if metrics:
            console.print(_metric_table(metrics))
        console.print(f"report  {report}\ntable   {table}", highlight=False, markup=False, soft_wrap=True)
        for label, advice in [*advised(history, undecided=False), *_to_decide(verdicts, images_held(history, None))]:
            console.print(f"{label}  {advice}", highlight=False, markup=False, soft_wrap=True)
    return RELIANT_FOUND if reliant and options.fail_on_reliant else 0


def _to_decide(verdicts: Sequence[Verdict], held: Mapping[str, int]) -> list[tuple[str, str]]:
    """What would decide the classes that are undecided: images of the folder that were not judged, or more images.

    >>> row = Verdict(0, "cat", "undecided", 0.1, 0.0, 0.2, 0.0, 0.2, 12)
    >>> _to_decide([row], {"cat": 24})
    [('to decide', 'cat has 24 images, of which 12 were judged: --images-per-class 24 --max-images 600')]
    """
    rows = [row for row in verdicts if row.verdict == "undecided" and row.class_name in held]
    few = [row.class_name for row in rows if held[row.class_name] < Criteria().min_images]
    rows = [row for row in rows if row.class_name not in few]
    more = [row for row in rows if row.images < held[row.class_name]]
    lines = []
    if more:
        most = max(held[row.class_name] for row in more)
        counts = (f"{row.class_name} has {held[row.class_name]} images, of which {row.images}" for row in more[:3])
        total = max(600, sum(held.values()))
        lines.append(("to decide", f"{', '.join(counts)} were judged: --images-per-class {most} --max-images {total}"))
    if used_up := [f"{row.class_name} ({row.images})" for row in rows if row not in more]:
        lines.append(("to decide", f"all images of {', '.join(used_up[:5])} were judged: audit more of them"))
    if few:
        listed = ", ".join(few[:3]) + (f" and {len(few) - 3} classes more" if len(few) > 3 else "")
        lines.append(
            ("to decide", f"a verdict takes {Criteria().min_images} images of a class: audit more of {listed}")
        )
    return lines


def _metric_table(rows: Sequence[MetricRow]) -> Table:
    """Metrics by methods: the mean and its interval."""
    methods = dict.fromkeys(row.method for row in rows)
    cells = {(row.metric, row.method): f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f})" for row in rows}
    table = Table("", *methods)
    for metric in dict.fromkeys(row.metric for row in rows):
        table.add_row(metric, *(cells.get((metric, method), "–") for method in methods))
    return table


# The metrics of --metrics: columns of the table, rows and curves of the report.


@dataclass
class MeasuredImages:
    """The values of each image by `<metric>/<method>`, NaN without an answer, and its confidences along the curves."""

    samples: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    confidences: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)  # curve, method: (B, P) each
    fractions: list[float] = field(default_factory=list)

    def columns(self, samples: Sequence[str]) -> dict[str, list[float | None]]:
        """A column for each metric and method, in the order of these samples: None for those not measured."""
        rows = {sample: row for row, sample in enumerate(self.samples)}
        return {
            name: [_defined(each[rows[sample]]) if sample in rows else None for sample in samples]
            for name, each in self.values.items()
        }


def chosen_metrics(names: Sequence[str] | None, *, masked: bool) -> tuple[str, ...]:
    """The metrics to take: none without the flag; with the bare flag all, of the masks where there are any.

    Raises ConfigurationError for a metric that needs masks where there are none.

    >>> chosen_metrics([], masked=False)
    ('average_drop', 'confidence_increase', 'insertion', 'deletion', 'road')
    """
    if names is None:
        return ()
    if not names:
        return (*FAITHFUL, *ON_MASKS) if masked else FAITHFUL
    if not masked and (needy := [name for name in names if name in ON_MASKS]):
        raise ConfigurationError(f"--metrics {' '.join(needy)} asks masks, and there are none: name them by --masks.")
    return tuple(dict.fromkeys(names))


def evenly(count: int, most: int) -> list[int]:
    """The rows of at most so many images, spread over all.

    >>> evenly(10, 4)
    [0, 2, 5, 7]
    """
    chosen = min(count, most)
    return [index * count // chosen for index in range(chosen)]


def measure(
    network: nn.Module, dataset: Dataset[Any], rows: Sequence[int], suite: Suite, options: AuditOptions
) -> MeasuredImages:
    """The suite's metrics of these rows of a dataset of named images, of the predicted class."""
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    layers: Any = options.layers
    measured = MeasuredImages()
    for items in DataLoader(Subset(dataset, rows), options.batch_size, num_workers=options.workers):
        batch = read_batch(items)
        images = batch.images.to(device)
        explained = explain(network, images, layers=layers, methods=list(options.methods))
        layers = list(explained.layers)
        masks = None if batch.masks is None else batch.masks.to(explained.logits.device)
        answers = suite.measure(network, images, explained, masks=masks)
        measured.samples += batch.ids or []
        for name, each in answers.values.items():
            measured.values.setdefault(name, []).extend(each.tolist())
        for method, curves in answers.curves.items():
            measured.fractions = curves.fractions.tolist()
            for kind in CURVES:
                if kind in suite.metrics:
                    measured.confidences.setdefault((kind, method), []).append(getattr(curves, kind).cpu())
    return measured


def record_of(columns: Mapping[str, Sequence[Any]], measured: MeasuredImages, metrics: Sequence[str]) -> Metrics:
    """Means with intervals over what the columns hold, and the mean curves with theirs."""
    rows = []
    for metric in metrics:
        for name in columns:
            if name.startswith(f"{metric}/"):
                mean = interval_of(metric, [value for value in columns[name] if value is not None])
                rows.append(MetricRow(metric, name.partition("/")[2], mean.mean, mean.low, mean.high, mean.count))
    curves = [
        _curve(kind, method, measured.fractions, torch.cat(parts))
        for (kind, method), parts in measured.confidences.items()
    ]
    return Metrics(tuple(rows), tuple(curves), epoch=0, step=0)


def _curve(kind: str, method: str, fractions: Sequence[float], confidences: Tensor) -> Curve:
    defined = confidences[~confidences.isnan().any(dim=1)].double()
    points = [interval_of(kind, column) for column in defined.T]
    means, lows, highs = (tuple(getattr(point, end) for point in points) for end in ("mean", "low", "high"))
    return Curve(kind, method, tuple(fractions), means, lows, highs)


def _defined(value: float) -> float | None:
    return None if value != value else value
