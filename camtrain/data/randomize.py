"""A found cue made meaningless: images get that of another image, as a batch transform."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from camtrain.cam import annotated
from camtrain.data.transforms import TwinBackgrounds
from camtrain.errors import ConfigurationError
from camtrain.swaps.compositing import dilate, place, solid
from camtrain.swaps.looks import LOOKS, Look, look_of
from camtrain.swaps.twins import choose_donors

CUES = ("background", *LOOKS)


class RandomizeCue(v2.Transform):
    """Gives images the cue of another image of their batch, of another class where there is one.

    Called as `transform(images, labels, masks)` on images `(B, C, H, W)` in floating point, labels `(B,)` or `(B, C)`
    and masks `(B, H, W)` or None, it returns the three; only images change. `"background"` puts annotated objects in
    front of another background (`TwinBackgrounds`), and leaves images without an annotation alone. `"tint"` and
    `"brightness"` change the background of annotated images and all of the others; `"sharpness"` changes whole images.
    Draws from the global random generator.

    Args:
        cue: `"background"`, `"tint"`, `"brightness"`, `"sharpness"`, or what a verdict calls them.
        p: how likely an image is changed, in [0, 1].

    >>> images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    >>> changed, labels, masks = RandomizeCue("brightness", p=1.0)(images, torch.tensor([0, 1]), None)
    >>> changed.mean(dim=(1, 2, 3)).tolist()
    [1.0, 0.0]
    """

    def __init__(self, cue: str = "background", p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigurationError(f"p is a probability in [0, 1]; got {p}.")
        self.cue, self.p = cue, p
        self.look = _look(cue)
        self._swap = TwinBackgrounds(p=p)

    def forward(self, images: Tensor, labels: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, labels and masks of the same shapes."""
        if self.look is not None:
            return self._changed(images, labels, masks, self.look), labels, masks
        if masks is None:
            raise ConfigurationError("Another background needs masks of the objects: give masks, or randomize a look.")
        return self._swap(images, labels, masks)  # type: ignore[no-any-return]

    def _changed(self, images: Tensor, labels: Tensor, masks: Tensor | None, look: Look) -> Tensor:
        if len(images) < 2:
            return images
        known = images.new_full((len(images), *images.shape[2:]), -1.0) if masks is None else solid(masks)
        donors = choose_donors(known, labels if labels.ndim == 1 else None)
        margin = max(1, round(min(images.shape[-2:]) / 64))
        measured = look.measure(images, dilate(known, 2 * margin))
        changed = look.give(images, measured, measured[donors])
        if not look.whole:
            kept = place(images, known, changed, margin=0)  # a rim of the old look would tell of it
            changed = torch.where(annotated(known).view(-1, 1, 1, 1), kept, changed)
        chosen = (torch.rand(len(images)) < self.p).to(images.device)
        return torch.where(chosen.view(-1, 1, 1, 1), changed, images)


def _look(cue: str) -> Look | None:
    """The look of that name; None for the background."""
    if cue == "background":
        return None
    look = LOOKS.get(cue) or look_of(cue)
    if look is None:
        raise ConfigurationError(f"cue is one of {', '.join(CUES)}; got {cue!r}.")
    return look
