"""Does a student learn more from a teacher that also shows where it looks?

    python benchmarks/distillation.py --quick

A wide SmallResNet is trained on Fashion-MNIST; narrow ones learn from a few of its training images, with

* cross-entropy;
* cross-entropy and the distance of the student's Grad-CAM++ map of the label to the teacher's (Chattopadhyay et al.
  2018, section 6.2), both maps at unit norm, since raw maps of different networks differ in scale;
* knowledge distillation (Hinton et al. 2015): `(1 - s) CE + s T^2 KL` with `T = 4`, `s = 0.9`;
* knowledge distillation and the distance.

The weight of the distance is chosen for each of the two rows from the same candidates, by the accuracy on training
images that no student sees, on a seed that is not reported. A seed draws the student's images, its weights and the
order of its batches, alike in every row, so that `gain` is a difference of pairs. Accuracy is that on the test set,
`agreement` how often student and teacher answer alike, `similarity` the mean cosine of their maps. Mean and sample
standard deviation over seeds. Every finished student is in the `--json` file at once, and a rerun skips it.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _report import environment, parser, report
from _runs import Ledger, Run, mean_and_deviation
from rich.progress import track
from torch import Tensor
from torchvision import datasets

from camtrain.cam import capture, grad_cam_plus_plus, gradients_of, record_activations, true_class
from camtrain.data.decoy import read_digits
from camtrain.data.subsets import permutation
from camtrain.losses import heatmap_distance, unit_norm
from camtrain.networks import SmallResNet

CANDIDATES = (0.01, 0.1, 1.0, 10.0)
TUNING_SEED = 1000
HELD_OUT = 5000  # the last of the shuffled training images, for tuning
TEACHER_WIDTH, STUDENT_WIDTH = 24, 4
TEMPERATURE, SOFT = 4.0, 0.9
BATCH_SIZE = 128


@dataclass(frozen=True)
class Images:
    """Images `(N, 1, 28, 28)`, labels, and what the teacher says of them: logits and maps of the label."""

    images: Tensor
    labels: Tensor
    logits: Tensor
    maps: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Images":
        return Images(self.images[index], self.labels[index], self.logits[index], self.maps[index])


def cross_entropy(logits: Tensor, batch: Images) -> Tensor:
    """The loss without a teacher."""
    return F.cross_entropy(logits, batch.labels)


def knowledge(logits: Tensor, batch: Images) -> Tensor:
    """Knowledge distillation: the teacher's soft answers beside the labels."""
    student, teacher = (F.log_softmax(values / TEMPERATURE, dim=1) for values in (logits, batch.logits))
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - SOFT) * cross_entropy(logits, batch) + SOFT * TEMPERATURE**2 * soft


ROWS: dict[str, tuple[Callable[[Tensor, Images], Tensor], bool]] = {
    "cross_entropy": (cross_entropy, False),
    "cross_entropy + explanation": (cross_entropy, True),
    "distillation": (knowledge, False),
    "distillation + explanation": (knowledge, True),
}


def student_loss(net: SmallResNet, batch: Images, base: Callable[[Tensor, Images], Tensor], alpha: float) -> Tensor:
    """The base loss, and `alpha` times the distance of the maps (no second derivative is taken for `alpha` = 0)."""
    with record_activations(net.blocks) as activations:
        logits = net(batch.images)
    if alpha == 0:
        return base(logits, batch)
    gradients = gradients_of(true_class(logits, batch.labels), activations, create_graph=True)
    maps = grad_cam_plus_plus(activations[0], gradients[0])
    return base(logits, batch) + alpha * heatmap_distance(unit_norm(maps), unit_norm(batch.maps)).mean()


def train(
    width: int, data: Images, epochs: int, seed: int, loss: Callable[[SmallResNet, Images], Tensor]
) -> SmallResNet:
    """Adam with a learning rate that falls to 0 along a cosine."""
    torch.manual_seed(seed)
    net = SmallResNet(10, in_channels=1, width=width).to(data.images.device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    steps = epochs * -(-len(data) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in shuffled(data, epochs, seed):
        optimizer.zero_grad()
        torch.autograd.backward(loss(net, batch))
        optimizer.step()
        schedule.step()
    return net.eval()


def shuffled(data: Images, epochs: int, seed: int) -> Iterator[Images]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator).to(data.labels.device)
        yield from map(data.__getitem__, torch.split(order, BATCH_SIZE))


def show(net: SmallResNet, images: Tensor, labels: Tensor) -> Images:
    """What a network says of images: its logits, and its Grad-CAM++ map of the label."""
    logits, maps = [], []
    for some, answers in zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True):
        seen = capture(net, some, net.blocks, true_class, labels=answers)
        logits.append(seen.logits)
        maps.append(grad_cam_plus_plus(seen.activations[0], seen.gradients[0]))
    return Images(images, labels, torch.cat(logits), torch.cat(maps).detach())


def judge(net: SmallResNet, taught: Images) -> dict[str, float]:
    """Accuracy and agreement in percent, similarity of the maps in [0, 1]."""
    said = show(net, taught.images, taught.labels)
    answers = said.logits.argmax(dim=1)
    return {
        "accuracy": 100 * (answers == taught.labels).float().mean().item(),
        "agreement": 100 * (answers == taught.logits.argmax(dim=1)).float().mean().item(),
        "similarity": (unit_norm(said.maps) * unit_norm(taught.maps)).flatten(1).sum(dim=1).mean().item(),
    }


class Bench:
    """A teacher, and the students that the options ask for."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        names = ("images", "epochs", "teacher_images", "teacher_epochs", "device")
        self.scale = {name: getattr(options, name) for name in names}
        self.train, self.test = (self.read(train) for train in (True, False))
        self.ledger = Ledger(options.json, self.describe)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Normalized images and labels; those for training shuffled."""
        images, labels = read_digits(datasets.FashionMNIST, self.options.data, train=train, download=False)
        if train:
            order = permutation(len(labels), 0)
            images, labels = images[order], labels[order]
        normalized = (images[:, None].float() / 255 - 0.286) / 0.353
        return normalized.to(self.options.device), labels.to(self.options.device)

    def run(self) -> None:
        """Train the teacher, choose the weights, train the students."""
        self.teach()
        weights = {name: self.choose(name) if explains else 0.0 for name, (_, explains) in ROWS.items()}
        jobs = [(seed, name) for seed in range(self.options.seeds) for name in ROWS]
        for seed, name in track(jobs, "students"):
            self.once("test", name, seed, weights[name])

    def teach(self) -> None:
        """The teacher, and what it says of all images that are needed."""
        count, epochs = self.options.teacher_images, self.options.teacher_epochs
        images, labels = self.train
        blank = labels.new_zeros(len(labels), 0)
        data = Images(images[:count], labels[:count], blank[:count], blank[:count])
        net = train(
            TEACHER_WIDTH, data, epochs, TUNING_SEED, lambda net, batch: cross_entropy(net(batch.images), batch)
        )
        self.pool = show(net, images[:count], labels[:count])
        self.held = show(net, images[-HELD_OUT:], labels[-HELD_OUT:])
        self.judged = show(net, *self.test)
        self.teacher = judge(net, self.judged)["accuracy"]

    def choose(self, name: str) -> float:
        """The candidate with the highest accuracy on images that no student sees."""
        tried = {alpha: self.once("tune", name, TUNING_SEED, alpha)["accuracy"] for alpha in CANDIDATES}
        return max(tried, key=lambda alpha: tried[alpha])

    def once(self, kind: str, name: str, seed: int, alpha: float) -> Run:
        """One student, unless it is finished."""
        setting = {"kind": kind, "row": name, "seed": seed, "alpha": alpha, **self.scale}
        return self.ledger.once(
            setting, partial(self.student, self.held if kind == "tune" else self.judged, name, seed, alpha)
        )

    def student(self, judged: Images, name: str, seed: int, alpha: float) -> dict[str, float]:
        """Train and judge one."""
        chosen = permutation(len(self.pool), seed)[: self.options.images].to(self.options.device)
        loss = partial(student_loss, base=ROWS[name][0], alpha=alpha)
        net = train(STUDENT_WIDTH, self.pool[chosen], self.options.epochs, seed, loss)
        return judge(net, judged)

    def describe(self, runs: list[Run]) -> dict[str, Any]:
        """What the file holds beside the runs."""
        wanted = {"kind": "test", **self.scale}.items()
        tests = [run for run in runs if wanted <= run["setting"].items()]
        rows = [tabulated(name, found) for name in ROWS if (found := [r for r in tests if r["setting"]["row"] == name])]
        summary = {row["row"]: row["accuracy %"] for row in rows} | {"teacher": self.teacher, **gains(tests)}
        return {"rows": rows, "summary": summary, "environment": environment(self.options.device)}


def tabulated(name: str, runs: list[Run]) -> dict[str, Any]:
    """Means over seeds."""
    row: dict[str, Any] = {"row": name, "alpha": runs[0]["setting"]["alpha"], "seeds": len(runs)}
    for column, key in {"accuracy %": "accuracy", "agreement %": "agreement", "similarity": "similarity"}.items():
        mean, deviation = mean_and_deviation([run[key] for run in runs])
        row |= {column: mean, f"± {key}": "" if deviation is None else deviation}
    return row


def gains(tests: list[Run]) -> dict[str, Any]:
    """Points of accuracy that the explanation adds to each base, seed by seed: the mean and the deviation."""
    accuracies = {(run["setting"]["row"], run["setting"]["seed"]): run["accuracy"] for run in tests}
    found: dict[str, Any] = {}
    for base in ("cross_entropy", "distillation"):
        pairs = [
            (accuracies[f"{base} + explanation", seed], value)
            for (name, seed), value in accuracies.items()
            if name == base and (f"{base} + explanation", seed) in accuracies
        ]
        if pairs:
            mean, deviation = mean_and_deviation([with_term - without for with_term, without in pairs])
            found |= {f"{base}.gain": mean, f"{base}.gain_deviation": deviation}
    return found


def main() -> None:
    made = parser(__doc__, data=True, seeds=5)
    made.add_argument("--images", type=int, help="that a student learns from; default: 10 000, quick 2000")
    made.add_argument("--epochs", type=int, help="of a student; default: 20, quick 15")
    made.add_argument("--teacher-images", type=int, help="default: 55 000, quick 20 000")
    made.add_argument("--teacher-epochs", type=int, help="default: 15, quick 5")
    options = made.parse_args()
    sizes = (2000, 15, 20_000, 5) if options.quick else (10_000, 20, 55_000, 15)
    for name, default in zip(("images", "epochs", "teacher_images", "teacher_epochs"), sizes, strict=True):
        setattr(options, name, getattr(options, name) or default)
    bench = Bench(options)
    bench.run()
    found = bench.describe(bench.ledger.runs)
    bench.ledger.save()
    options.json = None  # the ledger has written it
    report(found["rows"], found["summary"], options, f"Students of {options.images} images, {options.epochs} epochs")


if __name__ == "__main__":
    main()
