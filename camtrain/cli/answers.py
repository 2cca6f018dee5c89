"""What a network answers to an image: its task, read from what it returned, and the target that explains an answer."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import class_index, evaluating, predicted_class
from camtrain.cam.hooks import first_tensor
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.tasks import Binary, SingleLabel, resolve_task
from camtrain.tasks.answers import probabilities


def output_of(network: nn.Module, size: int) -> Any:
    """What the network returns for one black image of this side."""
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluating(network):
        return network(torch.zeros(1, 3, size, size, device=device))


def choice_of(task: str, output: Any) -> SingleLabel:
    """The choice between classes that a network makes, by its name or by looking; ConfigurationError for another task.

    A single logit is read as that of the second of two classes, the only choice it can be, and this is said.

    >>> choice_of("auto", torch.zeros(1, 3)), choice_of("binary", torch.zeros(1, 1))
    (SingleLabel(), Binary())
    """
    logits = first_tensor(output)
    if task == "auto" and logits is not None and logits.numel() == 1:
        sys.stderr.write("The network answers one number: taken for the logit of the second of two classes.\n")
        task = "binary"
    chosen = resolve_task(task, output, Batch(torch.zeros(1, 1, 1, 1)))
    if not isinstance(chosen, SingleLabel):
        raise ConfigurationError(
            f"This command shows one of several classes for an image, and --task {task} is {chosen}: give single_label "
            "or binary, or call camtrain.explain in Python, which explains every task."
        )
    return chosen


def target_of(choice: SingleLabel, index: int | None) -> Callable[..., Tensor]:
    """What explains the class `index`, or by default the one that is predicted.

    >>> target_of(Binary(), None)(torch.tensor([[1.5], [-2.0]])), target_of(Binary(), 0)(torch.tensor([[1.5]]))
    (tensor([1.5000, 2.0000]), tensor([-1.5000]))
    """
    if not isinstance(choice, Binary):
        return predicted_class if index is None else class_index(index)
    if index not in (None, 0, 1):
        raise ConfigurationError(f"A binary network has the classes 0 and 1; --target is {index}.")

    def answer(logits: Any, labels: Tensor | None = None) -> Tensor:
        logit = choice.logit(logits)
        second = logit > 0 if index is None else torch.full_like(logit, bool(index), dtype=torch.bool)
        return torch.where(second, logit, -logit)

    return answer


def named_answers(choice: SingleLabel, output: Any, names: list[str] | None) -> list[tuple[str, float]]:
    """The class that each image is taken for, and how probable it is.

    >>> named_answers(Binary(), torch.tensor([[0.0]]), ["cat", "dog"])
    [('cat', 0.5)]
    """
    shares, classes = probabilities(choice.read(output)).max(dim=1)
    return [
        (names[index] if names and index < len(names) else f"class {index}", probability)
        for index, probability in zip(classes.tolist(), shares.tolist(), strict=True)
    ]
