"""For each task a network on ResNet-18's trunk (of clips R3D-18's), and pictures of noise with labels of its form."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from camtrain.data.collate import collated
from camtrain.data.worlds import WORLDS
from camtrain.networks import BoxNet

TASKS = tuple(WORLDS)
CLASSES, WORDS, FRAMES = 10, 5, 4
OUTPUTS = {"binary": 1, "regression": 1, "captioning": CLASSES * WORDS}


class Headed(nn.Module):
    """A trunk, and the head of a task."""

    def __init__(self, task: str) -> None:
        super().__init__()
        whole = torchvision.models.video.r3d_18() if task == "clips" else torchvision.models.resnet18()
        self.task, self.features = task, nn.Sequential(*list(whole.children())[:-2])
        self.questions = nn.Embedding(4, 512)
        outputs = OUTPUTS.get(task, CLASSES)
        self.head = nn.Conv2d(512, outputs, 1) if task == "segmentation" else nn.Linear(512, outputs)

    def forward(self, images: Tensor, questions: Tensor | None = None) -> Tensor:
        maps = self.features(images)
        if self.task == "segmentation":
            return F.interpolate(self.head(maps), images.shape[2:], mode="bilinear", align_corners=False)
        if questions is not None:
            maps = maps * self.questions(questions)[:, :, None, None].sigmoid()
        answers: Tensor = self.head(maps.flatten(2).mean(2))
        return answers.view(len(answers), WORDS, CLASSES) if self.task == "captioning" else answers


class Validated(pl.LightningModule):
    """Nothing but a forward pass and what it takes to be given one."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.net: nn.Module = Headed(task)
        if task == "detection":
            trunk = torchvision.models.resnet18()
            self.net = BoxNet(3)
            self.net.stride = 32
            self.net.features = nn.Sequential(*list(trunk.children())[:-2], nn.Conv2d(512, 32, 1), nn.ReLU())
            nn.init.constant_(self.net.classes.bias, 1.0)  # boxes are answered, and explained

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step lets the Trainer come to validation; it teaches nothing."""
        return 0 * next(self.net.parameters()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if self.task == "detection":
            self.net(list(batch["image"]))
        elif "question" in batch:
            self.net(batch["image"], batch["question"])
        else:
            self.net(batch["image"])


def held_out(task: str, images: int, size: int, batch_size: int) -> DataLoader[Any]:
    """Pictures of noise, with labels and masks of the task's form."""
    size = size // 2 if task == "clips" else size
    shape = (FRAMES, size, size) if task == "clips" else (size, size)
    mask = torch.zeros(shape)
    mask[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    labels = {
        "binary": lambda: torch.randint(2, ()).float(),
        "multi_label": lambda: (torch.rand(CLASSES) < 0.3).float(),
        "regression": lambda: torch.randn(()),
        "segmentation": lambda: mask.long() * int(torch.randint(1, CLASSES, ())),
        "detection": lambda: {
            "boxes": torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.1, 0.5, 0.4, 0.9]]) * size,
            "labels": torch.tensor([1, 2]),
        },
        "captioning": lambda: torch.randint(CLASSES, (WORDS,)),
    }
    rows = [
        {
            "image": torch.rand(3, *shape),
            "label": labels.get(task, lambda: torch.randint(CLASSES, ()))(),
            **({} if task in ("detection", "segmentation") else {"mask": mask}),
            **({"question": torch.randint(4, ())} if task == "question_answering" else {}),
        }
        for _ in range(images)
    ]
    return DataLoader(rows, batch_size, collate_fn=collated)  # type: ignore[arg-type]
