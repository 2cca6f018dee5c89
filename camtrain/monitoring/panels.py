"""Kept images as panels: drawn on the device in one batch, brought to the host once, as uint8; and their masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from camtrain.cam import is_empty, normalize, resize
from camtrain.data.batches import Batch
from camtrain.data.masks import FULL, mask_facts, odd_about
from camtrain.monitoring.selection import Kept
from camtrain.records import CELLS, Panel
from camtrain.render import overlay, to_uint8
from camtrain.render.overlays import Outlined, outline_sheet

STRIP = 16  # the height of a signal's picture
_NO_ANSWER = "no answer: NaN"
HALF = 0.5  # of a heatmap's height: what W&B shows as a mask


@dataclass(frozen=True)
class Naming:
    """Names of classes and groups, and how images become pictures (None: as `to_uint8` guesses)."""

    classes: Sequence[str]
    groups: Sequence[str] = ()
    denormalize: Callable[[Tensor], Any] | None = None

    def label(self, index: int) -> str:
        """The name of a class."""
        return _name(self.classes, index, "class")

    def group(self, index: int) -> str | None:
        """The name of a group; None for none."""
        return _name(self.groups, index, "group") if index >= 0 else None


def panels(kept: Sequence[Kept], naming: Naming, reason: str | None = None) -> list[Panel]:
    """Panels in the order given; images of one size are drawn together. A clip is shown by its hottest frame."""
    if not kept:
        return []
    kept = [strip(keyframe(item)) for item in kept]
    numbers = torch.stack([item.numbers for item in kept]).cpu().tolist()
    drawn: dict[int, Panel] = {}
    for rows in _by_size(kept):
        some = [kept[row] for row in rows]
        pictures = _drawn(some, naming.denormalize).cpu()
        for row, item, picture in zip(rows, some, pictures, strict=True):
            drawn[row] = _panel(item, dict(zip(item.columns, numbers[row], strict=True)), picture, naming, reason)
    return [drawn[row] for row in range(len(kept))]


def keyframe(kept: Kept) -> Kept:
    """A clip or volume `(C, T, H, W)` as the frame where its first heatmap is hottest; an image as it is."""
    if kept.image.ndim < 4:
        return kept
    heat = next(iter(kept.heatmaps.values()))
    # a layer that has pooled time away says nothing of when: the middle
    share = (heat.flatten(1).sum(dim=1).argmax().item() + 0.5) / len(heat) if heat.ndim == 3 else 0.5

    def frame(values: Tensor, axis: int = 0) -> Tensor:
        return values if values.ndim < axis + 3 else values.select(axis, int(share * values.shape[axis]))

    return replace(
        kept,
        image=frame(kept.image, 1),
        mask=None if kept.mask is None else frame(kept.mask),
        heatmaps={name: frame(each) for name, each in kept.heatmaps.items()},
        true_heatmap=None if kept.true_heatmap is None else frame(kept.true_heatmap),
    )


def strip(kept: Kept) -> Kept:
    """A signal `(C, L)` as a strip `(C, 16, L)`; an image as it is."""
    if kept.image.ndim != 2:
        return kept

    def high(values: Tensor) -> Tensor:
        return values.unsqueeze(-2).expand(*values.shape[:-1], STRIP, values.shape[-1])

    return replace(
        kept,
        image=high(kept.image),
        mask=None if kept.mask is None else high(kept.mask),
        heatmaps={name: high(each) for name, each in kept.heatmaps.items()},
        true_heatmap=None if kept.true_heatmap is None else high(kept.true_heatmap),
    )


def _by_size(kept: Sequence[Kept]) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, item in enumerate(kept):
        groups.setdefault((item.image.shape, item.mask is None, item.true_heatmap is None), []).append(row)
    return list(groups.values())


def _drawn(kept: Sequence[Kept], denormalize: Callable[[Tensor], Any] | None) -> Tensor:
    """Everything about some images of one size as channels of one uint8 tensor `(N, K, H, W)`.

    Three for the image, then for each method three for the overlay and one for where it is hot, three for the true
    class's overlay if there is one, one for the mask if there is one (255 times its value).
    """
    images = torch.stack([item.image.float() for item in kept])
    pixels = to_uint8(images if denormalize is None else denormalize(images))
    parts = [pixels]
    for name in kept[0].heatmaps:
        heat = torch.stack([item.heatmaps[name] for item in kept])
        parts += [overlay(pixels, heat), hot(heat, pixels.shape[-2:]).unsqueeze(1).to(torch.uint8)]
    if kept[0].true_heatmap is not None:
        parts.append(
            overlay(pixels, torch.stack([item.true_heatmap for item in kept if item.true_heatmap is not None]))
        )
    if kept[0].mask is not None:
        masks = torch.stack([item.mask.float() for item in kept if item.mask is not None])
        if masks.shape[-2:] != pixels.shape[-2:]:  # of a segmentation that is coarser than its images
            masks = F.interpolate(masks.unsqueeze(1), pixels.shape[-2:], mode="nearest-exact").squeeze(1)
        parts.append(masks.clamp(0, 1).mul(255).round().to(torch.uint8).unsqueeze(1))
    return torch.cat(parts, dim=1)


def hot(heatmaps: Tensor, size: Sequence[int]) -> Tensor:
    """Where heatmaps `(B, h, w)` reach half of their height, at another size `(B, H, W)`; nowhere for an empty one."""
    resized = normalize(resize(heatmaps.float(), tuple(size)))
    return (resized >= HALF) & ~is_empty(heatmaps).view(-1, 1, 1)


def _panel(kept: Kept, numbers: dict[str, float], channels: Tensor, naming: Naming, reason: str | None) -> Panel:
    parts = iter(torch.split(channels, [3, *[3, 1] * len(kept.heatmaps), *_rest(kept)]))
    image, overlays, hottest = next(parts), {}, {}
    for name in kept.heatmaps:
        overlays[name], hottest[name] = next(parts), next(parts)[0] > 0
    true_overlay = None if kept.true_heatmap is None else next(parts)
    annotated = kept.mask is not None and numbers["annotated"] > 0
    cell = int(numbers["cell"])
    return Panel(
        sample=kept.sample,
        image=image,
        overlays=overlays,
        **answer_of(kept.form, numbers, naming),
        probability=numbers["probability"],
        true_probability=None if isnan(numbers["true_probability"]) else numbers["true_probability"],
        inside_energy={name: numbers[f"inside_energy/{name}"] for name in overlays} if annotated else {},
        cell=CELLS[cell] if cell >= 0 else None,
        mask=next(parts)[0].float() / 255 if annotated else None,
        group_name=naming.group(int(numbers["group"])),
        hot=hottest,
        true_overlay=true_overlay,
        reason=reason,
    )


def answer_of(form: str, numbers: Mapping[str, float], naming: Naming) -> dict[str, Any]:
    """What was answered and what is true, in the fields of a panel."""
    label, predicted, known = numbers["label"], numbers["predicted"], not isnan(numbers["right"])
    if isnan(predicted):
        return {"label": None, "label_name": None, "predicted": None, "predicted_name": "NaN", "words": _NO_ANSWER}
    name = naming.label(int(numbers["about"]))
    outcome = ("right" if numbers["right"] else "wrong") if known else ""
    if form == "value":
        words = (
            f"{predicted:.4g} for {label:.4g}, {numbers['loss'] ** 0.5:.2g} spreads off"
            if known
            else f"{predicted:.4g}"
        )
        return {
            "label": None, "label_name": f"{label:.4g}" if known else None, "outcome": outcome,
            "predicted": int(numbers["about"]), "predicted_name": f"{predicted:.4g}", "words": f"{words} · {name}",
        }  # fmt: skip
    if form == "presence":
        true, answer = (name if value else f"no {name}" for value in (label > 0, predicted > 0))
        return {
            "label": int(label) if known else None, "label_name": true if known else None, "outcome": outcome,
            "predicted": int(predicted), "predicted_name": answer, "words": _presence(name, numbers),
        }  # fmt: skip
    known = label >= 0
    return {
        "label": int(label) if known else None, "label_name": naming.label(int(label)) if known else None,
        "predicted": int(predicted), "predicted_name": naming.label(int(predicted)),
    }  # fmt: skip


def _presence(name: str, numbers: Mapping[str, float]) -> str:
    there, answered = numbers["label"] > 0, numbers["predicted"] > 0
    sure = f"{100 * numbers['probability']:.0f} %"
    if isnan(numbers["right"]) or numbers["right"]:
        return f"{name} {sure}"
    if there and answered:
        return f"{name} badly outlined {sure}"
    return f"{name} missed, {100 * numbers['true_probability']:.0f} %" if there else f"{name} invented, {sure}"


def _rest(kept: Kept) -> list[int]:
    return [3] * (kept.true_heatmap is not None) + [1] * (kept.mask is not None)


def _name(names: Sequence[str], index: int, kind: str) -> str:
    return names[index] if 0 <= index < len(names) else f"{kind} {index}"


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
