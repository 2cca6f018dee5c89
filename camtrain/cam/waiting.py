"""Whether a look at values waits for a device: then choices are made there, with rows that do not count."""

from torch import Tensor


def are_at_hand(values: Tensor) -> bool:
    """Whether values lie in the host's own memory, where a look at them waits for nobody.

    >>> import torch
    >>> are_at_hand(torch.ones(1))
    True
    """
    return values.device.type == "cpu"
