"""Boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.tasks.answers import holds_boxes
from camtrain.tasks.base import Asked, Task, Units, View
from camtrain.tasks.classification import describe


class Detection(Task):
    """Objects in boxes: a list of `{"boxes", "scores", "labels"}`, one an image, as torchvision's detectors return it.

    Labels are a list of `{"boxes", "labels"}`. A unit is a box: the annotated ones, each with the prediction of its
    class that overlaps it most (by `overlap` of their union at least; none: missed), then the predictions that belong
    to none (invented), the surest first, above `threshold`. Explained is the prediction's score; a missed box has none
    and an empty map. Its mask is the annotated box; of an invented one nothing is known.

    Args:
        boxes_per_image: at most so many, at least 1.
        overlap: intersection over union from which a prediction is that of a box, in (0, 1].
        threshold: predictions below this score do not count, in [0, 1].
        classes: how many classes there may be, the background among them, where each is judged; by default COCO's.
    """

    name = "detection"
    form = "presence"
    one_unit = False
    whole_output = True

    def __init__(
        self, boxes_per_image: int = 4, overlap: float = 0.5, threshold: float = 0.5, classes: int = 91
    ) -> None:
        self.boxes_per_image, self.overlap, self.threshold = boxes_per_image, overlap, threshold
        self.classes = classes

    def read(self, output: Any) -> Any:
        """The list of predictions. BatchError where there is none."""
        if not holds_boxes(output):
            raise BatchError(
                "A detection is a list of mappings with 'boxes', 'scores' and 'labels', one an image; the network gave "
                f"{describe(output)}. Convert its output in a task of your own."
            )
        return output

    def count(self, output: Any) -> int:
        """As many as the highest label that is predicted, and one more."""
        return max([0, *(1 + int(each["labels"].max()) for each in self.read(output) if len(each["labels"]))])

    def truth(self, labels: Any, count: int) -> list[Mapping[str, Tensor]]:
        """The annotated boxes of each image. BatchError for labels of another form."""
        right = isinstance(labels, Sequence) and len(labels) == count
        if not right or not all(isinstance(each, Mapping) and {"boxes", "labels"} <= set(each) for each in labels):
            raise BatchError(
                f"A detection's labels are a list of {count} mappings with 'boxes' (N, 4) and 'labels' (N,); got "
                f"{describe(labels)}."
            )
        return list(labels)

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """Rounds of boxes: the first of each image, the second, ..."""
        predicted = self.read(output)
        annotated = [None] * len(predicted) if batch.labels is None else self.truth(batch.labels, len(predicted))
        size = batch.images.shape[-2:]
        boxes = [self._boxes(p, a, size) for p, a in zip(predicted, annotated, strict=True)]
        most = max([1, *map(len, boxes)])
        nothing = self._nothing(predicted, size)
        rounds = [[each[rank] if rank < len(each) else nothing for each in boxes] for rank in range(most)]
        known = batch.labels is not None
        return [replace(_together(each, with_masks=known), name=f"box {k}") for k, each in enumerate(rounds, start=1)]

    def _boxes(
        self, predicted: Mapping[str, Tensor], annotated: Mapping[str, Tensor] | None, size: torch.Size
    ) -> list[dict[str, Tensor]]:
        boxes, scores, classes = predicted["boxes"].detach(), predicted["scores"], predicted["labels"]
        free = scores.detach() >= self.threshold
        rows: list[dict[str, Tensor]] = []
        if annotated is not None:
            overlaps = overlap_of(annotated["boxes"].to(boxes), boxes)
            overlaps = torch.where((annotated["labels"].to(classes)[:, None] == classes) & free, overlaps, -1.0)
            for index, box in enumerate(annotated["boxes"].to(boxes)):
                row = {"about": annotated["labels"][index], "true": torch.ones(()), "mask": rectangle(box, size)}
                best = int(overlaps[index].argmax()) if overlaps.shape[1] else -1
                if best >= 0 and overlaps[index, best] >= self.overlap:
                    row["score"] = scores[best]
                    free = free.index_fill(0, torch.tensor(best, device=free.device), False)
                    overlaps[:, best] = -1.0
                rows.append(row)
        unknown = torch.full(size, -1.0, device=boxes.device)
        truth = torch.tensor(torch.nan if annotated is None else 0.0)
        invented = [best for best in scores.detach().argsort(descending=True).tolist() if bool(free[best])]
        rows += [{"about": classes[b], "true": truth, "mask": unknown, "score": scores[b]} for b in invented]
        zero = scores.sum() * 0  # of the graph, so that a missed box has a map: an empty one
        return [{"zero": zero, **row} for row in rows[: self.boxes_per_image]]

    def _nothing(self, predicted: Any, size: torch.Size) -> dict[str, Tensor]:
        zero = sum((each["scores"].sum() for each in predicted), torch.zeros(())) * 0
        return {"zero": zero, "mask": torch.full(size, -1.0, device=zero.device)}

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """The mean log-score of the annotated boxes that were found; 0 where none was."""
        values = []
        for predicted, annotated in zip(self.read(output), self.truth(labels, len(output)), strict=True):
            rows = self._boxes(predicted, annotated, torch.Size((1, 1)))
            scores = [row["score"] for row in rows if "score" in row and float(row["true"]) == 1]
            zero = predicted["scores"].sum() * 0
            values.append(torch.stack(scores).clamp_min(1e-12).log().mean() if scores else zero)
        return torch.stack(values)

    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """BatchError: a detector has its own loss, in training mode alone."""
        raise BatchError("A detector's loss is its own: twins are not offered for detection. Set twins=0.")

    def blank(self, batch: Asked) -> list[dict[str, Tensor]]:
        """No box in any image."""
        none = batch.images.new_zeros(0)
        return [{"boxes": none.view(0, 4), "scores": none, "labels": none.long()} for _ in range(len(batch.images))]

    def views(self, output: Any, labels: Any) -> list[View]:
        """For each class whether a box of it is anywhere: by the score of the surest.

        Of a class of which no image of a batch has a box there is no truth. BatchError for labels beyond `classes`.
        """
        predicted = self.read(output)
        surest = self._surest([each["labels"] for each in predicted], [each["scores"].detach() for each in predicted])
        surest = surest.clamp(1e-6, 1 - 1e-6)
        logits = torch.stack([1 - surest, surest], dim=2).log()
        if labels is None:
            return [View(logits[:, index], None, index) for index in range(self.classes)]
        true = [each["labels"].to(surest.device) for each in self.truth(labels, len(predicted))]
        there = self._surest(true, [torch.ones(each.shape, device=surest.device) for each in true]).long()
        annotated = there.any(dim=0).tolist()
        return [View(logits[:, i], there[:, i] if annotated[i] else None, i) for i in range(self.classes)]

    def objects(self, batch: Asked, count: int) -> Float[Tensor, "B H W"] | None:
        """All annotated boxes of an image, of whatever class: nobody's background holds an object."""
        if not isinstance(batch.labels, Sequence):
            return batch.masks
        size, images = batch.images.shape[-2:], batch.images
        nothing = torch.zeros(size, device=images.device)
        return torch.stack(
            [
                torch.stack([nothing, *(rectangle(box.to(nothing), size) for box in each["boxes"])]).amax(dim=0)
                for each in self.truth(batch.labels, len(images))
            ]
        )

    def _surest(self, labels: Sequence[Tensor], scores: Sequence[Tensor]) -> Float[Tensor, "B C"]:
        """By image and class the highest score; 0 where there is none."""
        most = max([-1, *(int(each.max()) for each in labels if len(each))])
        if most >= self.classes:
            raise BatchError(
                f"A box is of class {most}, of classes 0 to {self.classes - 1}: give Detection(classes=...)."
            )
        found = torch.zeros(len(labels), self.classes, device=scores[0].device)
        rows = [
            found[row].scatter_reduce(0, c.long(), s.float(), "amax")
            for row, (c, s) in enumerate(zip(labels, scores, strict=True))
        ]
        return torch.stack(rows)

    def known(self, labels: Any) -> Tensor:
        """Of which images boxes are annotated."""
        return torch.tensor([len(each["boxes"]) > 0 for each in self.truth(labels, len(labels))])

    def __repr__(self) -> str:
        return f"Detection(boxes_per_image={self.boxes_per_image}, overlap={self.overlap}, threshold={self.threshold})"


def overlap_of(a: Float[Tensor, "N 4"], b: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Intersection over union of boxes `(x1, y1, x2, y2)`.

    >>> overlap_of(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])).round(decimals=3)
    tensor([[0.3330]])
    """
    sides = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    shared = sides.clamp_min(0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp_min(torch.finfo(a.dtype).tiny)


def rectangle(box: Float[Tensor, "4"], size: torch.Size) -> Float[Tensor, "H W"]:
    """1 for pixels whose centers lie in a box `(x1, y1, x2, y2)`, 0 elsewhere.

    >>> rectangle(torch.tensor([1.0, 0, 3, 1]), torch.Size((2, 4)))
    tensor([[0., 1., 1., 0.],
            [0., 0., 0., 0.]])
    """
    y, x = (torch.arange(side, device=box.device) + 0.5 for side in size)
    inside = ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))
    return inside.to(box.dtype)


def _together(rows: list[dict[str, Tensor]], *, with_masks: bool) -> Units:
    """The boxes of one round, one an image."""
    scores = torch.stack([row.get("score", row["zero"]) for row in rows])
    device = scores.device
    asked = torch.tensor(["about" in row for row in rows], device=device)
    labels = torch.tensor([float(row.get("true", torch.tensor(torch.nan))) for row in rows], device=device)
    there = torch.tensor(["score" in row for row in rows], device=device)
    confidence = torch.where(there, scores.detach().float(), 0.0)
    true = torch.where(labels == 1, confidence, torch.where(labels == 0, 1 - confidence, torch.nan))
    return Units(
        scores=scores,
        asked=asked,
        about=torch.tensor([int(row.get("about", torch.tensor(-1))) for row in rows], device=device),
        labels=labels,
        predictions=there.float(),
        right=(labels == 1) & there,
        confidence=confidence,
        true_probability=true,
        loss=-true.clamp_min(1e-12).log(),
        masks=torch.stack([row["mask"] for row in rows]) if with_masks else None,
    )
