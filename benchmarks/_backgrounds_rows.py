"""The rows of the backgrounds benchmark: which network, told what, corrected how."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from _backgrounds_groups import GroupDRO, retrain_last_layer
from _backgrounds_segmenter import segmenter
from _composites import Composites
from _runs import CANDIDATES
from torch import nn

from camtrain.callbacks import AttentionAlignment, CueRandomization, LastLayerRetraining
from camtrain.cam import true_class
from camtrain.module import ImageClassifier


@dataclass(frozen=True)
class Network:
    """What is trained, and how."""

    name: str
    model: str
    weights: str | None
    head: str
    fine: str  # the last layer with a 12x12 map of 96-pixel images
    lr: float
    epochs: int


MOBILENET = Network(
    "mobilenet_v2", "mobilenet_v2", "weights/mobilenet_v2-b0353104.pth", "classifier.1", "network.features.6", 3e-4, 4
)
SCRATCH = Network("SmallResNet", "camtrain.networks.SmallResNet", None, "head", "network.blocks", 1e-3, 20)


@dataclass(frozen=True)
class Row:
    """One way to train: `told` what beyond the labels, with which callbacks, and what is done to the finished net."""

    name: str
    told: str = ""
    masks: float = 0.0
    callbacks: Callable[[Network, Composites], list[pl.Callback]] = lambda network, train: []
    correlated: bool = True
    module: type[ImageClassifier] = ImageClassifier
    balanced_batches: bool = False
    finish: Callable[[nn.Module, str, Composites, int], None] | None = None
    tuned: bool = False  # trained as one of the rows `weight_...`, with a share of the masks of its own


def aligned(masks: float = 1.0, fine: bool = False, overlap: float = 0.0, **arguments: Any) -> dict[str, Any]:
    """The fields of a row with AttentionAlignment, told a share of the masks, or with a segmenter like them."""

    def callbacks(network: Network, train: Composites) -> list[pl.Callback]:
        given = {**arguments, "layers": network.fine} if fine else arguments
        made = {"segmenter": segmenter(train, overlap)} if overlap else {}
        return [AttentionAlignment(**given, **made)]

    told = f"a segmenter of IoU {overlap:g}" if overlap else f"{100 * masks:g} % of masks" if masks else ""
    return {"masks": masks, "told": told, "callbacks": callbacks}


def refitted(masks: float = 1.0, aligned_too: bool = False) -> dict[str, Any]:
    """The fields of a row whose last layer is fitted anew at the end, on swapped images; with alignment before it."""

    def callbacks(network: Network, train: Composites) -> list[pl.Callback]:
        return [*([AttentionAlignment()] if aligned_too else []), LastLayerRetraining(when=None)]

    return {"masks": masks, "told": f"{100 * masks:g} % of masks", "callbacks": callbacks}


def randomized(network: Network, train: Composites) -> list[pl.Callback]:
    """Backgrounds exchanged among the images of a batch, from the first step on."""
    return [CueRandomization("background", start_when=0)]


ROWS = {
    "erm": Row("ERM"),
    "unbiased": Row("no correlation", correlated=False),
    "groupdro": Row("GroupDRO", "group labels", module=GroupDRO, balanced_batches=True),
    "dfr": Row("last layer retrained (DFR)", "group labels", finish=retrain_last_layer),
    "refit": Row("LastLayerRetraining", **refitted()),
    "refit_15": Row("LastLayerRetraining", **refitted(0.15)),
    "ours_refit": Row("ours, then LastLayerRetraining", **refitted(aligned_too=True)),
    "ours_refit_15": Row("ours, then LastLayerRetraining", **refitted(0.15, aligned_too=True)),
    "randomize": Row("CueRandomization", masks=1.0, told="100 % of masks", callbacks=randomized),
    "given_15": Row("ours (default)", **aligned(0.15)),
    "penalty": Row("contribution penalty", **aligned(fine=True, weight=3.0, twins=0.0)),
    "grad_cam": Row("Grad-CAM energy", **aligned(method="grad_cam", target=true_class, weight=3.0, twins=0.0)),
    "twins": Row("twins", **aligned(weight=0.0, twins=1.0)),
    "twins_5": Row("twins", **aligned(0.05, weight=0.0, twins=1.0)),
    "both": Row("penalty and twins", **aligned(fine=True, weight=3.0, twins=1.0)),
    "both_5": Row("penalty and twins", **aligned(0.05, fine=True, weight=3.0, twins=1.0)),
    "ours": Row("ours (default)", **aligned()),
    "ours_5": Row("ours, the rest made", **aligned(0.05, segmenter="auto")),
    "ours_1": Row("ours, the rest made", **aligned(0.01, segmenter="auto")),
    "ours_no_masks": Row("ours, all made", **aligned(0.0, segmenter="auto")),
    "ours_segmenter": Row("ours, all made", **aligned(0.0, overlap=0.8)),
    "ours_segmenter_6": Row("ours, all made", **aligned(0.0, overlap=0.6)),
    "given_10": Row("ours (default)", **aligned(0.1)),
    "given_5": Row("ours (default)", **aligned(0.05)),
    "given_1": Row("ours (default)", **aligned(0.01)),
    "tuned": Row("ours, weight tuned", masks=1.0, told="100 % of masks", tuned=True),
    "tuned_5": Row("ours, weight tuned", masks=0.05, told="5 % of masks", tuned=True),
    **{f"weight_{weight:g}": Row(f"ours, weight {weight:g}", **aligned(weight=weight)) for weight in CANDIDATES},
}
QUICK = ("erm", "unbiased", "ours", "ours_5")
FULL = tuple(name for name in ROWS if not name.startswith(("weight_", "refit", "ours_refit", "randomize", "given_15")))
