"""Of the calls that a training step makes: the one whose output holds the logits, and the images it was given."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam import Activations, Layer, record_activations
from camtrain.cam.hooks import hooked, is_same
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError
from camtrain.tasks.answers import as_rows, depends_on
from camtrain.tasks.calls import Call, Calls

_BEHIND = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Sigmoid, nn.LogSigmoid, nn.modules.loss._Loss)


@contextmanager
def recording(modules: Mapping[str, nn.Module], layers: Sequence[Layer]) -> Iterator[Calls]:
    """Record the outermost calls of some modules, and what the layers put out; every hook goes at the end."""
    with record_activations(layers) if layers else nullcontext(Activations([])) as activations:
        calls = Calls(activations)
        with hooked(calls.handles(modules)):
            yield calls


def logits_call(
    calls: Calls, own: Sequence[Tensor] = (), rows: int | None = None, *, loss: Tensor | None = None
) -> Call:
    """The call whose output holds the logits: the last in a chain such as backbone, then head.

    Of several calls of one module it is that which was given one of the batch's `own` tensors; else the last, if all
    those with so many `rows` of logits were given the same tensors. What the loss does not depend on (the answer of a
    metric) is left out, and so are a softmax or a loss behind the network.

    Raises LayerError where a layer was not reached, ConfigurationError where no call or more than one qualifies.
    """
    if not calls.activations.complete:
        list(calls.activations)  # raises, naming the layer
    by_module: dict[nn.Module, list[Call]] = {}
    made = list(filter(holds_logits, calls.made))
    for call in [call for call in made if call.answer.ndim > 1] or made:  # (B,) may also be losses
        by_module.setdefault(call.module, []).append(call)
    candidates = [_of_one_module(made, own, rows) for made in by_module.values()]
    if len(candidates) > 1:
        used = candidates if loss is None else [call for call in candidates if depends_on(loss, call.answer)]
        behind = [call for call in used or candidates if _is_behind(call)]
        heads = [call for call in behind if not (isinstance(call.module, _BEHIND) and _is_fed(call, behind))]
        candidates = [call for call in heads if not any(_feeds(call, other) for other in heads)]
    if len(candidates) == 1:
        return candidates[0]
    called = ", ".join(map(_describe, candidates or calls.made)) or "none"
    raise ConfigurationError(
        f"The training step must call one module that returns logits (B, C) after the layer; it called "
        f"{'several' if candidates else 'none'} ({called}). Name the one to read with model='...'."
    )


def _is_behind(call: Call) -> bool:
    """Whether it comes after the layers; all do where none is asked for."""
    return not call.activations or any(depends_on(call.answer, a) for a in call.activations)


def other_answers(call: Call) -> str:
    """What else in its output may be the logits, of another width, as a sentence; empty where there is nothing.

    The first is read: a tuple starts with the logits.
    """
    if len({as_rows(answer).shape[1] for answer in call.answers}) < 2:
        return ""
    shapes = ", ".join(str(tuple(answer.shape)) for answer in call.answers)
    return (
        f"reads the first of several outputs {shapes} of {call.name or 'the module itself'!r} as the logits. If these "
        "are others, return a mapping in which they are called 'logits'"
    )


def _describe(call: Call) -> str:
    tensors = [v for v in pytree.tree_leaves(call.output) if isinstance(v, Tensor)]
    shapes = ", ".join(str(tuple(v.shape)) for v in tensors[:3]) or type(call.output).__name__
    return f"{call.name or 'the module itself'!r} gave {shapes}"


def _of_one_module(made: Sequence[Call], own: Sequence[Tensor], rows: int | None) -> Call:
    """The call to read among those of one module."""
    given = [call for call in made if call.took(own)]
    if given:
        return given[-1]
    fitting = [call for call in made if rows is None or len(call.logits) == rows]
    if any(not fitting[-1].took(call.tensors, all_of_them=True) for call in fitting[:-1]):
        name = fitting[-1].name or "the module itself"
        raise ConfigurationError(
            f"The training step calls {name!r} {len(fitting)} times on {rows} images each, none of them the batch's "
            "own tensor, so that it is not known which of them the masks belong to. Give one call the images as they "
            "are in the batch: normalize and augment in the data set, or in on_after_batch_transfer."
        )
    return (fitting or made)[-1]


def holds_own(calls: Calls, own: Sequence[Tensor]) -> bool:
    """Whether any call that returned logits was given one of the batch's own tensors."""
    return any(call.took(own) for call in calls.made if holds_logits(call))


def holds_logits(call: Call) -> bool:
    """Whether its output holds logits `(B, C)` that a gradient leads from."""
    try:
        answer = call.answer
    except BatchError:
        return False
    return bool(call.answers) and answer.requires_grad


def _is_fed(call: Call, others: Sequence[Call]) -> bool:
    return any(_feeds(other, call) for other in others)


def _feeds(call: Call, other: Call) -> bool:
    return other is not call and depends_on(other.answer, call.answer)


def find_images(args: Any, kwargs: Any, batch: Batch, own: Sequence[Tensor] = ()) -> Tensor | None:
    """The images among what a module is given, or None.

    They are the batch's own tensor, or one of `own`; else the first tensor of the batch's number and size of images,
    rather one with as many channels than one in gray or RGB.
    """
    given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor) and _could_be(v, batch.images)]
    kept = [v for v in given if any(is_same(v, image) for image in (batch.images, *own))]
    alike = [v for v in given if v.shape[1] == batch.images.shape[1]]
    return next(iter([*kept, *alike, *given]), None)


def _could_be(value: Tensor, images: Tensor) -> bool:
    """Whether these are the images, as the module took them: gray may have become RGB, a feature map is no image."""
    if value.ndim not in (4, 5) or value.ndim != images.ndim or not value.is_floating_point():
        return False
    same_size = (len(value), *value.shape[2:]) == (len(images), *images.shape[2:])
    return same_size and value.shape[1] in (1, 3, images.shape[1])


def answers_again(others: Sequence[Call], call: Call, batch: Batch) -> bool:
    """Whether another call answered as many images, of the batch's size, with logits of as many classes."""
    alike = (other for other in others if find_images(other.args, other.kwargs, batch) is not None)
    return any(as_rows(answer).shape == call.logits.shape for other in alike for answer in other.answers)
