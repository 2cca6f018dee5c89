"""LeGrad: heatmaps from the gradients of a transformer's attention."""

import inspect
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camtrain.cam.capture import gradients_of, record_activations
from camtrain.cam.layers import LayerSpec, resolve_layers
from camtrain.cam.ownership import call
from camtrain.cam.passes import image_of, undisturbed, with_images
from camtrain.cam.targets import Target, predicted_class, score_of
from camtrain.errors import MethodError

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


class AttentionRecorder(TorchFunctionMode):
    """While active, keeps every square attention matrix, `(B, heads, N, N)` or `(B * heads, N, N)`, in the graph.

    Fused attention is computed in its explicit form; a softmax over a square matrix is attention as it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record attention, run everything else."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        return self._kept(result) if func in _SOFTMAX else result

    def _kept(self, attention: Tensor) -> Tensor:
        if attention.ndim >= 3 and attention.shape[-1] == attention.shape[-2] > 1 and attention.requires_grad:
            self.attention.append(attention)
        return attention

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._kept(attention_weights(query, key, *args, **kwargs)).to(value.dtype) @ _grouped(value, query)

    def _multi_head(self, *args: Any, **kwargs: Any) -> Any:
        """`nn.MultiheadAttention` in its explicit form; what it returns is a view of the attention that it used."""
        given = _MULTI_HEAD.bind(*args, **kwargs)
        given.apply_defaults()
        asked = {name: given.arguments[name] for name in ("need_weights", "average_attn_weights")}
        given.arguments.update(need_weights=True, average_attn_weights=False)
        output, weights = cast(tuple[Tensor, Tensor], F.multi_head_attention_forward(*given.args, **given.kwargs))
        self._kept(weights if weights._base is None else weights._base)
        returned = weights.mean(dim=-3) if asked["average_attn_weights"] else weights
        return output, returned if asked["need_weights"] else None


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The attention `(..., N, M)` inside `scaled_dot_product_attention`, in at least float32, without dropout.

    >>> attention_weights(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4))
    tensor([[[[0.5000, 0.5000],
              [0.5000, 0.5000]]]])
    """
    similarity = query @ _grouped(key, query).transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    if is_causal:
        attn_mask = torch.ones(similarity.shape[-2:], dtype=torch.bool, device=similarity.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        similarity = similarity.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        similarity = similarity + attn_mask
    return similarity.softmax(dim=-1)


def _grouped(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values repeated for grouped queries (fewer heads than the query's)."""
    if tensor.ndim < 4 or tensor.shape[-3] == query.shape[-3]:
        return tensor
    return tensor.repeat_interleave(query.shape[-3] // tensor.shape[-3], dim=-3)


def le_grad(
    model: nn.Module,
    images: Any,
    layers: LayerSpec = "auto",
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
) -> Float[Tensor, "B *S"]:
    """LeGrad: the mean over heads and queries of `relu(d score / d attention)`, summed over all self-attention.

    For transformers in which every patch attends to every patch: torchvision's, timm's and transformers' ViTs, and any
    model whose attention runs through `scaled_dot_product_attention`, `nn.MultiheadAttention` or a softmax over
    `(B, heads, N, N)`. `layers` names a layer that has the grid of the patches ("auto" finds one); every attention
    counts. Tokens beyond the patches (class, registers) are taken to come first.
    Raises MethodError where there is no attention, or it is over windows or pooled tokens (Swin, MViT).
    Source: Bousselham et al. 2024, with the score of the whole model.

    >>> class Tiny(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.patches = nn.Conv2d(3, 8, 4, 4)
    ...         self.block = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    ...
    ...     def forward(self, images):
    ...         return self.block(self.patches(images).flatten(2).transpose(1, 2)).mean(dim=1)
    >>> le_grad(Tiny(), torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 4, 4])
    """
    layer = resolve_layers(model, images, layers)[0]
    with undisturbed(model, images) as (net, inputs), torch.enable_grad():
        leaf = image_of(inputs).detach().clone().requires_grad_()  # frozen parameters must not hide the attention
        given = with_images(inputs, leaf, torch.arange(len(leaf)))
        with record_activations([layer]) as recorded, AttentionRecorder() as recorder:
            scores = score_of(target, call(net, given), labels)
        grid = layer.to_map(recorded[0]).shape[2:]
        check_attention(recorder.attention, len(leaf), grid.numel(), type(net).__name__)
        gradients = gradients_of(scores, recorder.attention)
    received = torch.stack([_received(gradient, len(leaf)) for gradient in gradients]).sum(dim=0)
    return received[:, -grid.numel() :].reshape(len(leaf), *grid)


def check_attention(attention: Sequence[Tensor], size: int, cells: int, model: str) -> None:
    """MethodError unless all attention is over the same tokens of the whole image."""
    shapes = sorted({tuple(each.shape) for each in attention})
    if not shapes:
        raise MethodError(f"LeGrad reads self-attention, and {model} ran none that can be seen: take another method.")
    whole = all(shape[0] == size if len(shape) == 4 else shape[0] % max(size, 1) == 0 for shape in shapes)
    tokens = {shape[-1] for shape in shapes}
    if not whole or len(tokens) > 1 or min(tokens) < cells:
        raise MethodError(
            f"LeGrad needs attention over all {cells} patches, (B={size}, heads, N, N); that of {model} has the shapes "
            f"{shapes[:4]} (windows or pooled tokens): take another method."
        )


def _received(gradient: Tensor, size: int) -> Float[Tensor, "B N"]:
    """How much attention to each token raises the score, averaged over heads and queries."""
    heads = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).relu()
    tokens = gradient.shape[-1]
    return heads.reshape(size, gradient.numel() // max(size * tokens, 1), tokens).mean(dim=1)
