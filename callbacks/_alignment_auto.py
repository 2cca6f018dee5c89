"""`layers="auto"` for a LightningModule that may have no `forward` of its own."""

import dataclasses
from collections.abc import Iterator

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from camtrain.cam import Layer, resolve_layers
from camtrain.errors import LayerError


def last_map(pl_module: LightningModule, images: Tensor, model: dict[str, nn.Module] | None = None) -> Layer:
    """The last layer with a map, found in a dry forward of the first part that takes images.

    Tried are `model`, else the module itself if it has a `forward`, else its children, largest first. LayerError says
    what each of them answered.
    """
    refused = []
    for name, module in (model or dict(_candidates(pl_module))).items():
        try:
            (layer,) = resolve_layers(module, images)
        except Exception as error:  # whatever a foreign forward raises
            refused.append(f"{name or type(pl_module).__name__}: {error}")
            continue
        return dataclasses.replace(layer, name=f"{name}.{layer.name}" if name else layer.name)
    raise LayerError(
        f"layers='auto' needs a part that takes images of shape {tuple(images.shape)}; tried "
        f"{'; '.join(refused) or 'none'}. Name the layer, as layers='net.layer4', or the part with model='net'."
    )


def _candidates(pl_module: LightningModule) -> Iterator[tuple[str, nn.Module]]:
    if type(pl_module).forward is not LightningModule.forward:
        yield "", pl_module
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in pl_module.named_children()}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sizes[name]:
            yield name, pl_module.get_submodule(name)
