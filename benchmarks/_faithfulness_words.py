"""A captioner and a network that answers questions, of the examples: does a word's heatmap agree with occlusion.

Both are trained in seconds on drawn pictures with two objects each; the outlines are exact.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _faithfulness_rows import Sheet, add, given
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import answer_log_probability, caption_token, occlusion_map
from camtrain.metrics import inside_energy, rank_correlation

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
METHODS = (
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "elementwise_cam",
    "guided_backpropagation",
    "guided_grad_cam",
)
SPOKEN = ((0, 0), (1, 0), (3, 1), (4, 1))  # the position of a word, and the object that it speaks of
WINDOW = 8


def captioned(methods: Sequence[str], options: Any) -> Sheet:
    """The four words that name an object, of captions that the network made."""
    import captioning
    from _common import draw_pictures

    torch.manual_seed(0)
    net = captioning.trained(0, steps=options.training_steps)
    pictures = draw_pictures(options.pictures, 2, seed=1)
    _, order = captioning.captions(pictures)
    masks = pictures.masks.gather(1, order[..., None, None].expand_as(pictures.masks))
    inputs = (pictures.images, nn.functional.pad(net.say(pictures.images), (1, 0))[:, :-1])
    asked = [(inputs, caption_token(word), masks[:, of]) for word, of in SPOKEN]
    return _compared(net, "encoder", asked, methods)


def answered(methods: Sequence[str], options: Any) -> Sheet:
    """The answers to a question about either object."""
    import vqa
    from _common import draw_pictures

    torch.manual_seed(0)
    net = vqa.trained(0, steps=options.training_steps)
    pictures = draw_pictures(options.pictures, 2, seed=1)
    asked = []
    for of in range(2):
        inputs = {"image": pictures.images, "question": pictures.shapes[:, of]}
        with torch.no_grad():
            answers = net(**inputs).argmax(dim=1)
        asked.append((inputs, answer_log_probability(answers), pictures.masks[:, of]))
    return _compared(net, "encoder", asked, methods)


def _compared(net: nn.Module, layer: str, asked: list[tuple[Any, Any, Tensor]], methods: Sequence[str]) -> Sheet:
    """Each picture's mean over what is asked of it."""
    parts: list[dict[str, Mapping[str, Tensor]]] = []
    for inputs, target, masks in asked:
        found = explain(net, inputs, layers=layer, methods=given(methods), target=target)
        occluded = occlusion_map(net, inputs, window=WINDOW, target=target)
        parts.append(
            {
                name: {
                    "occlusion_correlation": rank_correlation(heat, occluded),
                    "inside_energy": inside_energy(heat, masks),
                }
                for name, heat in found.heatmaps.items()
            }
        )
    sheet: Sheet = {name: {} for name in methods}
    for name in methods:
        for metric in parts[0][name]:
            add(sheet[name], **{metric: torch.stack([part[name][metric] for part in parts]).nanmean(dim=0)})
    return sheet
