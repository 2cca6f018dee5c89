"""One way to explain a batch per library: camtrain's, and that of pytorch-grad-cam, torchcam and captum.

Each contender is a function without arguments made by `contenders(model, images, layer)`; a peer that is not installed
is left out, one that cannot read the layer raises when it is called. All explain the predicted class with random
weights. Peers get the layer by module, and `Layer.to_map` as their reshape function where the output is not `(B, K,
*S)`.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import Layer

Contender = Callable[[], Any]
BOTH = ("grad_cam", "grad_cam_plus_plus")
PEERS = {"pytorch_grad_cam": "grad-cam", "torchcam": "torchcam", "captum": "captum"}


def installed() -> list[str]:
    return [name for name in PEERS if importlib.util.find_spec(name)]


def contenders(model: nn.Module, images: Tensor, layer: Layer) -> dict[str, Contender]:
    ours: dict[str, Contender] = {
        "camtrain, one method": lambda: explain(model, images, layers=layer.name, methods="grad_cam"),
        "camtrain, both methods": lambda: explain(model, images, layers=layer.name, methods=BOTH),
        "camtrain, both, layers='auto'": lambda: explain(model, images, methods=BOTH),
    }
    makers = {"pytorch_grad_cam": _pytorch_grad_cam, "torchcam": _torchcam, "captum": _captum}
    for name in installed():
        ours |= makers[name](model, images, layer)
    return ours


def _reshape(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    return None if layer.layout is None or layer.layout.name == "channels first" else layer.to_map


def _pytorch_grad_cam(model: nn.Module, images: Tensor, layer: Layer) -> dict[str, Contender]:
    import pytorch_grad_cam

    def run(*names: str) -> Any:
        maps = []
        for name in names:
            kind = getattr(pytorch_grad_cam, name)
            with kind(model=model, target_layers=[layer.module], reshape_transform=_reshape(layer)) as method:
                maps.append(method(input_tensor=images, targets=None))
        return maps

    return {
        "pytorch-grad-cam, one method": lambda: run("GradCAM"),
        "pytorch-grad-cam, both methods": lambda: run("GradCAM", "GradCAMPlusPlus"),
    }


def _torchcam(model: nn.Module, images: Tensor, layer: Layer) -> dict[str, Contender]:
    from torchcam import methods

    def made(name: str) -> Any:
        return getattr(methods, name)(model, target_layer=layer.module, reshape_transform=_reshape(layer))

    def run(*names: str) -> Any:
        maps = []
        for name in names:
            with made(name) as extractor:
                logits = model(images)
                maps.append(extractor(logits.argmax(dim=1).tolist(), logits))
        return maps

    def shared() -> Any:
        with made("GradCAM") as first, made("GradCAMpp") as second:
            logits = model(images)
            classes = logits.argmax(dim=1).tolist()
            return first(classes, logits, retain_graph=True), second(classes, logits)

    return {
        "torchcam, one method": lambda: run("GradCAM"),
        "torchcam, both methods": lambda: run("GradCAM", "GradCAMpp"),
        "torchcam, both on one forward": shared,
    }


def _captum(model: nn.Module, images: Tensor, layer: Layer) -> dict[str, Contender]:
    from captum.attr import LayerGradCam

    def one() -> Any:
        if _reshape(layer) is not None:
            raise NotImplementedError("captum averages over the last axes, which are not space here")
        with torch.no_grad():
            classes = model(images).argmax(dim=1)
        return LayerGradCam(model, layer.module).attribute(images, target=classes, relu_attributions=True)

    return {"captum, one method": one}
