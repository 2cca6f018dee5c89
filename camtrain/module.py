"""LightningModules over any network: for image classification, and for every task."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningCLI, LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from camtrain.cam import find_logits
from camtrain.data.batches import Adapter, Batch, read_batch
from camtrain.errors import BatchError, ConfigurationError
from camtrain.loading import build_network, load_weights
from camtrain.metrics import WorstGroupAccuracy
from camtrain.tasks import Detection, check_task, resolve_task

__all__ = ["ImageClassifier", "TaskModule"]

_NOT_IN_A_CHECKPOINT = ("weights", "optimizer", "lr_scheduler", "batch_adapter")


class ImageClassifier(LightningModule):
    """Cross-entropy over any network: accuracy, and worst-group accuracy where the batches name groups.

    Logs `<stage>/loss` and `<stage>/accuracy` for the stages train, val and test, each a mean over the epoch, and
    `val/worst_group_accuracy` and `test/worst_group_accuracy` where batches carry groups and their number is known.

    Args:
        model: a name in `torchvision.models`, the import path of a class that takes `num_classes`, or a network.
        num_classes: how many logits; None takes the number of `class_names`.
        class_names: names by class index; the command line takes them from the data.
        model_kwargs: passed on to what builds the network.
        weights: a file, or the name of torchvision weights; what does not fit (a head for other classes) is said.
        num_groups: how many groups; None takes the data module's `num_groups`.
        label_smoothing: of the training loss, in [0, 1).
        optimizer: called with the parameters that are trained.
        lr_scheduler: called with the optimizer, stepped every epoch.
        batch_adapter: for batches that `camtrain.data.batches.read_batch` cannot read.

    Raises:
        ConfigurationError: for a network or weights that do not exist, or where the number of classes is not known.

    >>> module = ImageClassifier("camtrain.networks.DecoyNet", num_classes=10)
    >>> module(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        model_kwargs: dict[str, Any] | None = None,
        weights: str | None = None,
        num_groups: int | None = None,
        label_smoothing: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        batch_adapter: Adapter | None = None,
    ) -> None:
        super().__init__()
        unnamed = () if isinstance(model, str) else ("model",)
        self.save_hyperparameters(ignore=[*_NOT_IN_A_CHECKPOINT, *unnamed])
        classes = _number_of_classes(num_classes, class_names)
        self.network = build_network(model, classes, **(model_kwargs or {}))
        if weights is not None:
            loaded = load_weights(self.network, weights, model if isinstance(model, str) else None)
            rank_zero_info(f"{weights}: {loaded}")
        self.class_names = class_names
        self.num_groups = num_groups
        self.label_smoothing = label_smoothing
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.batch_adapter = batch_adapter
        self.metrics = nn.ModuleDict({f"{stage}/accuracy": _accuracy(classes) for stage in ("train", "val", "test")})

    def setup(self, stage: str) -> None:
        """Add worst-group accuracy where the number of groups is known."""
        data = getattr(self.trainer, "datamodule", None)
        groups = self.num_groups or getattr(data, "num_groups", None)
        if groups:
            for name in ("val", "test"):
                self.metrics[f"{name}/worst_group_accuracy"] = WorstGroupAccuracy(groups).to(self.device)

    def forward(self, images: Tensor) -> Any:
        """Whatever the network returns for these images."""
        return self.network(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self._step("train", batch, self.label_smoothing)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracies."""
        self._step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracies."""
        self._step("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities, `(B, C)`."""
        return find_logits(self(read_batch(batch, self.batch_adapter).images)).softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """The optimizer over the parameters that are trained, and its schedule."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        schedule = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
        return LightningCLI.configure_optimizers(self, optimizer, schedule)

    def _step(self, stage: str, batch: Any, label_smoothing: float = 0.0) -> Tensor:
        read = read_batch(batch, self.batch_adapter)
        logits = find_logits(self(read.images))
        loss = _cross_entropy(logits, read.labels, label_smoothing)
        self.log(f"{stage}/loss", loss.detach(), **_per_epoch(f"{stage}/loss", read), sync_dist=True)
        self._count(f"{stage}/accuracy", read, logits, read.labels)
        if read.groups is not None:
            self._count(f"{stage}/worst_group_accuracy", read, logits, read.labels, read.groups)
        return loss

    def _count(self, name: str, batch: Batch, *values: Any) -> None:
        if name in self.metrics:
            metric = cast("Metric", self.metrics[name])
            metric.update(*values)
            self.log(name, metric, **_per_epoch(name, batch))


class TaskModule(LightningModule):
    """Any network on any task, by the task's own loss; a detector by its own, as torchvision's return it.

    Logs `train/loss`, `val/loss` and `test/loss`; what the answers are worth, `ExplanationMonitor` says. A detector has
    a loss in training alone.

    Args:
        model: the import path of a class that takes `num_classes`, a name in `torchvision.models`, or a network.
        task: "single_label", "binary", "multi_label", "regression", "segmentation", "detection", "captioning" or
            "question_answering".
        num_classes: how many numbers the network answers: 1 for a single logit or a value; of a detector with the
            background.
        model_kwargs: passed on to what builds the network.
        inputs: what of a batch the network takes behind the images, by its keys, as ["question"].
        optimizer: called with the parameters that are trained.

    >>> module = TaskModule("camtrain.networks.TaskNet", "regression", 1)
    >>> module(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        model: str | nn.Module,
        task: str,
        num_classes: int,
        model_kwargs: dict[str, Any] | None = None,
        inputs: Sequence[str] = (),
        optimizer: OptimizerCallable = torch.optim.AdamW,
    ) -> None:
        super().__init__()
        check_task(task)
        unnamed = () if isinstance(model, str) else ("model",)
        self.save_hyperparameters(ignore=[*_NOT_IN_A_CHECKPOINT, *unnamed])
        self.network = build_network(model, num_classes, **(model_kwargs or {}))
        self.task, self.inputs, self.optimizer = task, tuple(inputs), optimizer

    def forward(self, *inputs: Any) -> Any:
        """Whatever the network returns."""
        return self.network(*inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self._step("train", batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Ask the network, and log the loss."""
        self._step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Ask the network, and log the loss."""
        self._step("test", batch)

    def configure_optimizers(self) -> Any:
        """The optimizer over the parameters that are trained."""
        return self.optimizer([p for p in self.parameters() if p.requires_grad])

    def _step(self, stage: str, batch: Any) -> Tensor:
        read = read_batch(batch)
        if self.task == Detection.name:
            pictures, training = list(read.images), stage == "train"
            answer = self(pictures, read.labels) if training else self(pictures)
            loss = sum(answer.values(), torch.zeros((), device=self.device)) if training else torch.zeros(())
        else:
            answer, training = self(read.images, *(batch[name] for name in self.inputs)), True
            loss = resolve_task(self.task, answer, read).losses(answer, read.labels).mean()
        if training:
            self.log(f"{stage}/loss", loss.detach(), **_per_epoch(f"{stage}/loss", read), sync_dist=True)
        return loss


def _per_epoch(name: str, batch: Batch) -> dict[str, Any]:
    shown = name in ("train/loss", "val/accuracy", "val/worst_group_accuracy")
    return {"on_step": False, "on_epoch": True, "batch_size": len(batch), "prog_bar": shown}


def _accuracy(num_classes: int) -> MulticlassAccuracy:
    return MulticlassAccuracy(num_classes, average="micro", validate_args=False)  # the loss refuses bad labels


def _number_of_classes(num_classes: int | None, class_names: Sequence[str] | None) -> int:
    found = num_classes if num_classes is not None else len(class_names or ())
    if found < 2:
        given = "the data names none" if num_classes is None and not class_names else f"got {found}"
        raise ConfigurationError(
            f"A classifier needs two classes or more; {given}. Set num_classes (--model.num_classes)."
        )
    return found


def _cross_entropy(logits: Tensor, labels: Tensor | None, label_smoothing: float) -> Tensor:
    if labels is None:
        raise BatchError("Training and evaluation need labels and the batch has none; pass a batch_adapter.")
    try:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    except IndexError as error:
        raise BatchError(
            f"Labels run from 0 to {logits.shape[1] - 1} for {logits.shape[1]} classes; "
            f"the batch has {int(labels.min())} to {int(labels.max())}. Set num_classes."
        ) from error
