"""Images as people have them: a batch, one image, a PIL image, a file, or a list of these."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import unwrap
from camtrain.errors import BatchError
from camtrain.facts import preprocessing

Transform = Callable[[Any], Tensor]


def as_inputs(model: nn.Module, images: Any, transform: Transform | None = None) -> Any:
    """What the model takes, of what was given.

    Files and PIL images go through `transform`, else through the network's own preprocessing, and become a batch on the
    network's device; one image `(C, H, W)` becomes a batch of one. All else is passed on as it is.
    Raises BatchError for a picture where nobody says how the network wants it, DataError for a file that is none.

    >>> as_inputs(nn.Conv2d(3, 4, 3), torch.zeros(3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """
    if _is_picture(images):
        return as_inputs(model, [images], transform)
    if isinstance(images, (list, tuple)) and images and all(_is_picture(image) for image in images):
        return _batch_of_pictures(model, images, transform)
    if isinstance(images, Tensor) and images.ndim == 3 and _takes_pictures_of(model, len(images)):
        return images.unsqueeze(0)
    return images


def _is_picture(image: Any) -> bool:
    return isinstance(image, (str, Path)) or hasattr(image, "getexif")


def _batch_of_pictures(model: nn.Module, images: Sequence[Any], transform: Transform | None) -> Tensor:
    transform = transform or preprocessing(model)
    if transform is None:
        raise BatchError(
            f"{type(model).__name__} does not say how it wants its images: pass tensors (B, C, H, W) as it takes them, "
            "or transform=, a function from a PIL image to (C, H, W)."
        )
    parameter = next(unwrap(model).parameters(), torch.zeros(()))
    tensors = [transform(_opened(image)) for image in images]
    return torch.stack(tensors).to(parameter.device, parameter.dtype)


def _opened(image: Any) -> Any:
    """A PIL image, upright, in colors."""
    from PIL import Image

    from camtrain.data.files import read_image

    if not isinstance(image, (str, Path)):
        return image.convert("RGB")
    return Image.fromarray(read_image(Path(image)).permute(1, 2, 0).numpy())


def _takes_pictures_of(model: nn.Module, channels: int) -> bool:
    """Whether the first convolution is one over pictures of so many channels: not so in a network of signals."""
    convolutions = (m for m in unwrap(model).modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    first = next(convolutions, None)
    return isinstance(first, nn.Conv2d) and first.in_channels == channels
