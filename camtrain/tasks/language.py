"""Words: captions, and answers to questions about a picture."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.tasks.base import Asked, Task, Units, in_float
from camtrain.tasks.classification import SingleLabel, describe, judged


class QuestionAnswering(SingleLabel):
    """An answer among `C` to a question about a picture: logits `(B, C)`, labels `(B,)`. A unit is a question.

    >>> QuestionAnswering().name
    'question_answering'
    """

    name = "question_answering"


class Captioning(Task):
    """A word at each place of a caption: logits `(B, T, V)`, labels `(B, T)` of word numbers (teacher forcing).

    A unit is a word: explained is its log-probability; of each caption the first `words_per_caption` that count.

    Args:
        words_per_caption: at most so many are explained, at least 1.
        ignore: word numbers that are none, as padding; negative ones never are.
    """

    name = "captioning"
    one_unit = False

    def __init__(self, words_per_caption: int = 3, ignore: tuple[int, ...] = ()) -> None:
        self.words_per_caption, self.ignore = words_per_caption, tuple(ignore)

    def read(self, output: Any) -> Float[Tensor, "B T V"]:
        """`(B, T, V)`."""
        logits = super().read(output)
        if logits.ndim != 3:
            raise BatchError(f"A caption has logits (B, T, V); the network gave {tuple(logits.shape)}.")
        return logits

    def count(self, output: Any) -> int:
        """The size of the vocabulary."""
        return int(self.read(output).shape[2])

    def words(self, labels: Any, logits: Tensor) -> Int[Tensor, "B T"]:
        """Word numbers, -1 for places that do not count. BatchError for labels of another form."""
        if not isinstance(labels, Tensor) or labels.shape != logits.shape[:2] or labels.is_floating_point():
            raise BatchError(f"A caption's labels are words {tuple(logits.shape[:2])}; got {describe(labels)}.")
        none = labels < 0
        for word in self.ignore:
            none = none | (labels == word)
        return torch.where(none, -1, labels.long())

    def shares(self, output: Any, words: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """How probable words are at their places."""
        return in_float(self.read(output)).softmax(dim=2).gather(2, words.unsqueeze(2)).squeeze(2)

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """Rounds of words, by their place."""
        logits = self.read(output)
        words = None if batch.labels is None else self.words(batch.labels, logits)
        return [
            self._round(logits[:, place], None if words is None else words[:, place], _masks_at(batch, place), place)
            for place in range(min(self.words_per_caption, logits.shape[1]))
        ]

    def _round(self, logits: Tensor, words: Tensor | None, masks: Tensor | None, place: int) -> Units:
        predictions = logits.detach().argmax(dim=1)
        chosen = predictions if words is None else torch.where(words >= 0, words, predictions)
        scores = in_float(logits).log_softmax(dim=1).gather(1, chosen.unsqueeze(1)).squeeze(1)
        unit = judged(in_float(logits.detach()).softmax(dim=1), predictions, words, scores, masks)
        asked = torch.ones_like(unit.asked) if words is None else words >= 0
        return replace(unit, about=chosen, asked=asked, name=f"word {place + 1}")

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """The mean log-likelihood of the words that count."""
        logits = self.read(output)
        words = self.words(labels, logits)
        chosen = in_float(logits).log_softmax(dim=2).gather(2, words.clamp_min(0).unsqueeze(2)).squeeze(2)
        return torch.where(words >= 0, chosen, 0).sum(dim=1) / (words >= 0).sum(dim=1).clamp(min=1)

    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """Cross-entropy, the mean over the words that count."""
        return -self.evidence(output, labels)

    def __repr__(self) -> str:
        return f"Captioning(words_per_caption={self.words_per_caption})"


def _masks_at(batch: Asked, place: int) -> Tensor | None:
    """The mask of a word, from `(B, T, *S)`; masks `(B, *S)` are those of the image."""
    masks = batch.masks
    return masks if masks is None or masks.ndim < batch.images.ndim else masks[:, place]
