"""A module that somebody else wrote, and batches with masks, for the tests of alignment."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from camtrain.cam import log_probability
from camtrain.data import MaskedPair


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


class Given(nn.Module):
    """Keeps the images it is given."""

    def __init__(self):
        super().__init__()
        self.net, self.given = network(), []

    def forward(self, x):
        self.given.append(x.detach().clone())
        return self.net(x)


class Explained:
    """A target that keeps the logits it was asked about."""

    def __init__(self):
        self.logits = []

    def __call__(self, logits, labels):
        self.logits.append(logits.detach().clone())
        return log_probability(logits, labels)


class Foreign(pl.LightningModule):
    """A module that somebody else wrote: its own loss, an (x, y) batch, no forward."""

    def __init__(self, net=None):
        super().__init__()
        self.net = net or network()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def samples(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 8, 8, generator=generator)
    masks = torch.zeros(count, 8, 8)
    masks[:, 2:6, 1:5] = 1
    return images, torch.arange(count) % 3, masks


def pair(images, labels, masks):
    return MaskedPair((images, labels), masks=masks)


def mapping(images, labels, masks):
    return {"image": images, "label": labels, "mask": masks}


def loader(*batches):
    return DataLoader(list(batches), batch_size=None, collate_fn=lambda batch: batch)


def fit(make_trainer, module, callback, *batches, **kwargs):
    trainer = make_trainer(callbacks=[callback] if callback else [], **kwargs)
    trainer.fit(module, loader(*batches))
    return trainer
