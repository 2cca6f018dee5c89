"""What the masks of a pass are: how many there are, how much they cover, and those that deserve a look first."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from camtrain.data.batches import Batch
from camtrain.data.masks import FULL, mask_facts, odd_about
from camtrain.monitoring.panels import Naming
from camtrain.render import to_uint8
from camtrain.render.outlines import Outlined, outline_sheet

SHOWN, SIDE = 12, 112


class MaskLook:
    """The masks of the first pass over a data set, as the network's batches have them.

    Images are kept for the oddest ones alone: empty, full of the object, of an odd size, at the border.
    """

    def __init__(self) -> None:
        self._images = 0
        self._shares: list[float] = []
        self._counts = dict.fromkeys(("empty", "full", "at the border", "unknown pixels", "degrees"), 0)
        self._odd: list[tuple[float, str, str, Tensor, Tensor]] = []  # weight, sample, remark, image, mask

    def update(self, batch: Batch, samples: Sequence[str]) -> None:
        """Look at a batch."""
        self._images += len(batch)
        if batch.masks is None or batch.masks.ndim != batch.images.ndim - 1:
            return
        usual = median(self._shares) if self._shares else 0.0
        for sample, image, mask in zip(samples, batch.images, batch.masks.cpu(), strict=True):
            if bool((mask > -1).any()):
                self._look(sample, image, mask, usual)

    def _look(self, sample: str, image: Tensor, mask: Tensor, usual: float) -> None:
        facts = mask_facts(mask.reshape(-1, mask.shape[-1]).float().numpy())
        flat = mask.ndim == 2
        self._shares.append(facts.covered)
        self._counts["empty"] += facts.covered == 0
        self._counts["full"] += facts.covered + facts.unknown >= FULL
        self._counts["at the border"] += facts.touches and flat
        self._counts["unknown pixels"] += facts.unknown > 0
        self._counts["degrees"] += bool(((mask > 0) & (mask < 1)).any())
        remark, weight = odd_about(facts, usual)
        if flat and (len(self._odd) < SHOWN or weight > self._odd[-1][0]):
            self._odd.append((weight, sample, remark, image.detach().clone(), mask.clone()))
            self._odd = sorted(self._odd, key=lambda item: -item[0])[:SHOWN]

    def facts(self) -> dict[str, Any]:
        """Plain values: images, how many have a mask, the least, median and largest cover, and what was met."""
        shares = sorted(self._shares)
        covered = [shares[0], median(shares), shares[-1]] if shares else []
        return {"images": self._images, "annotated": len(shares), "covered": covered, **self._counts}

    def sheet(self, naming: Naming) -> UInt8[Tensor, "3 H W"] | None:
        """The oddest masks as outlines on their images; None without a mask in the plane."""
        if not self._odd:
            return None
        pictures = [
            Outlined(_picture(image, naming), mask, sample, remark) for _, sample, remark, image, mask in self._odd
        ]
        pixels = np.array(outline_sheet("", pictures, side=SIDE))
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _picture(image: Tensor, naming: Naming) -> UInt8[Tensor, "3 H W"]:
    images = image.unsqueeze(0).float()
    return to_uint8(images if naming.denormalize is None else naming.denormalize(images))[0].cpu()
