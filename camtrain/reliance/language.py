"""Do answers come from the picture at all, or from words: the question, or the other words of a caption."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtr, stdtrit
from torch import Tensor

from camtrain.errors import CamtrainError
from camtrain.reliance.estimate import holm
from camtrain.reliance.records import Answer, Criteria, Verdict

__all__ = ["QUESTION", "WORDS", "Reply", "Word", "agreement", "judge_answers", "judge_questions", "judge_words"]

QUESTION, WORDS = "question", "other words"
_MOST = 40  # questions, those that are asked most often


@dataclass(frozen=True)
class Reply:
    """One question about one picture: which question, what was answered, what is true (-1 where that is not known)."""

    question: str
    answer: int
    truth: int


@dataclass(frozen=True)
class Word:
    """A word that is answered, and how probable the network finds it where it is told the same words before it.

    Attributes:
        word: its number.
        truth: the one that is true there.
        earlier: the true one before it, -1 for the first; with `place` what tells it without a picture.
        place: in the caption.
        own: its probability beside its own picture.
        exchanged: beside another picture, of which another word is true there.
        elsewhere: beside that one, with that one's words.
    """

    word: int
    truth: int
    earlier: int
    place: int
    own: float
    exchanged: float
    elsewhere: float


def agreement(values: Int[Tensor, " N"], weights: Float[Tensor, "R N"] | None = None) -> Float[Tensor, " R"]:
    """How likely two different ones of some values are alike; for each row of weights (how often each is drawn).

    >>> agreement(torch.tensor([0, 0, 1])).item()
    0.3333333333333333
    """
    weights = torch.ones(1, len(values), dtype=torch.float64) if weights is None else weights
    counts = torch.stack([weights[:, values == value].sum(dim=1) for value in sorted(set(values.tolist()))], dim=1)
    total = weights.sum(dim=1)
    return (counts.square().sum(dim=1) - weights.square().sum(dim=1)) / (
        total.square() - weights.square().sum(dim=1)
    ).clamp(min=1)


def judge_answers(
    parts: Sequence[Sequence[Any]], names: Callable[[int], Sequence[str]], criteria: Criteria, unread: str = ""
) -> tuple[Verdict, ...]:
    """The verdicts on words or on questions, whichever the processes heard; `names` calls so many words by name."""
    words = [one for part in parts for one in part if isinstance(one, Word)]
    if not words:
        return judge_questions(parts, criteria, unread)
    return judge_words([words], names(1 + max(max(one.word, one.truth) for one in words)), criteria, unread)


def judge_questions(
    parts: Sequence[Sequence[Reply]], criteria: Criteria, unread: str = "", *, seed: int = 0
) -> tuple[Verdict, ...]:
    """One verdict for each question that is asked often: does its answer stay when the picture is another one?

    `parts` are those of the processes.

    The effect is how much more often the answers to it agree over pictures than what is true of them does, or than
    answers to other questions agree with them (a network that answers everything alike leans on no question).
    ``reliant``: the effect exceeds tau, over images, with Holm's correction over questions. ``not reliant``: its upper
    bound lies below ``criteria.limit``, and the answers are right more often than the best constant one would be. What
    one answer is true of whatever the picture is undecided, and so is a question without others to compare with.

    CamtrainError where nothing was answered, with what was `unread`.

    >>> same = [Reply("what", 0, truth) for truth in (0, 1, 2) * 20]
    >>> other = [Reply("where", 1, truth) for truth in (0, 1, 2) * 20]
    >>> [one.verdict for one in judge_questions([same, other], Criteria())]
    ['reliant', 'reliant']
    """
    if not any(parts):
        raise CamtrainError(unread or "no validation batch was seen")
    known = [one for part in parts for one in part if one.truth >= 0]
    names = [one.question for one in known]
    order = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))[:_MOST]
    answers, truths = (torch.tensor([getattr(one, field) for one in known]) for field in ("answer", "truth"))
    found, generator = [], torch.Generator().manual_seed(seed)
    for name in order:
        rows = torch.tensor([other == name for other in names])
        found.append(_effects(answers, truths, rows, criteria, generator))
    judged = [index for index, each in enumerate(found) if not math.isnan(each[3])]
    adjusted = dict(zip(judged, holm([found[index][3] for index in judged]), strict=True))
    return tuple(
        _verdict(index, name, found[index], adjusted.get(index, math.nan), criteria) for index, name in enumerate(order)
    )


def judge_words(
    parts: Sequence[Sequence[Word]], names: Sequence[str], criteria: Criteria, unread: str = ""
) -> tuple[Verdict, ...]:
    """One verdict for each word that is answered often: does it come from the picture, or from the words before it?

    The effect is how probable a word stays where its picture is exchanged for one that another word is true of, beyond
    what that picture gives it with its own words, and beyond the share of captions in which it truly follows the word
    before it. ``reliant``: the effect exceeds tau, over places, with Holm's correction over words. ``not reliant``: its
    upper bound lies below ``criteria.limit``, and the word loses more than that with its picture. Words that follow
    from others in the data as well, as "of" does, are undecided.

    CamtrainError where no word could be compared, with what was `unread`.

    >>> told = [Word(k % 2, k // 2 % 2, -1, 0, 0.9, 0.9, 0.1) for k in range(80)]
    >>> [one.verdict for one in judge_words([told], ["disk", "square"], Criteria())]
    ['reliant', 'reliant']
    """
    known = [one for part in parts for one in part]
    if not known:
        raise CamtrainError(unread or "no two pictures with different words at a place were seen")
    followed = Counter((one.place, one.earlier) for one in known)
    following = Counter((one.place, one.earlier, one.truth) for one in known)
    order = [word for word, _ in Counter(one.word for one in known).most_common(_MOST)]
    rows = []
    for word in order:
        mine = [one for one in known if one.word == word]
        told = [
            (following[one.place, one.earlier, word] - (one.truth == word))
            / max(1, followed[one.place, one.earlier] - 1)
            for one in mine
        ]
        stays = torch.tensor(
            [one.exchanged - max(one.elsewhere, share) for one, share in zip(mine, told, strict=True)],
            dtype=torch.float64,
        )
        lost = sum(one.own - one.exchanged for one in mine) / len(mine)
        rows.append((*_mean_effect(stays, criteria), lost, sum(told) / len(told)))
    judged = [index for index, row in enumerate(rows) if not math.isnan(row[3])]
    adjusted = dict(zip(judged, holm([rows[index][3] for index in judged]), strict=True))
    return tuple(
        _of_word(word, names[word], row, adjusted.get(index, math.nan), criteria)
        for index, (word, row) in enumerate(zip(order, rows, strict=True))
    )


def _mean_effect(values: Float[Tensor, " N"], criteria: Criteria) -> tuple[float, float, float, float, int]:
    """The mean, its bounds, a p-value for more than tau, and of how many; NaN of too few."""
    count = len(values)
    if count < criteria.min_images:
        return math.nan, math.nan, math.nan, math.nan, count
    effect, error = float(values.mean()), float(values.std()) / math.sqrt(count)
    half = float(stdtrit(count - 1, 1 - criteria.alpha / 2)) * error
    exact = 0.0 if effect > criteria.tau else 1.0
    p_value = float(stdtr(count - 1, -(effect - criteria.tau) / error)) if error > 0 else exact
    return effect, max(-1.0, effect - half), min(1.0, effect + half), p_value, count


def _of_word(
    word: int,
    name: str,
    row: tuple[float, float, float, float, int, float, float],
    adjusted: float,
    criteria: Criteria,
) -> Verdict:
    effect, low, high, _, count, lost, told = row
    note = f"loses {100 * lost:.0f} points with its picture; follows the word before it in {100 * told:.0f} %"
    verdict: Answer = "undecided"
    if math.isnan(effect):
        note = f"{count} places: too few"
    elif adjusted <= criteria.share * criteria.alpha:
        verdict = "reliant"
    elif high < criteria.limit and lost > criteria.limit:
        verdict = "not reliant"
    elif lost <= criteria.limit:
        note += "; the picture makes too little of it to tell"
    return Verdict(word, name, verdict, effect, low, high, told, adjusted, count, WORDS, note)


_Found = tuple[float, float, float, float, int, float, float, float]  # see `_effects`


def _effects(
    answers: Tensor, truths: Tensor, rows: Bool[Tensor, " N"], criteria: Criteria, generator: torch.Generator
) -> _Found:
    """Effect, bounds, p-value, images, and the agreement of answers and truths and the accuracy beyond a constant's."""
    said, true, others = answers[rows], truths[rows], answers[~rows]
    count = len(said)
    flat = count < criteria.min_images or len(set(true.tolist())) < 2 or len(others) < criteria.min_images
    gain = float((said == true).double().mean()) - float(true.bincount().max() / max(count, 1))
    if flat:
        return math.nan, math.nan, math.nan, math.nan, count, math.nan, math.nan, gain
    drawn = torch.randint(count, (criteria.resamples, count), generator=generator)
    weights = torch.zeros(criteria.resamples, count, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    weights = torch.cat([torch.ones(1, count, dtype=torch.float64), weights])
    shared = torch.stack([(others == value).double().mean() for value in said.tolist()])
    across = (weights * shared).sum(dim=1) / weights.sum(dim=1)
    own, truth = agreement(said, weights), agreement(true, weights)
    samples = own - torch.maximum(truth, across)
    effect, error = float(samples[0]), float(samples[1:].std(correction=0))
    half = float(stdtrit(count - 1, 1 - criteria.alpha / 2)) * error
    if error == 0:
        p_value = 0.0 if effect > criteria.tau else 1.0
    else:
        p_value = float(stdtr(count - 1, -(effect - criteria.tau) / error))
    low, high = max(-1.0, effect - half), min(1.0, effect + half)
    return effect, low, high, p_value, count, float(own[0]), float(truth[0]), gain


def _verdict(index: int, name: str, found: _Found, adjusted: float, criteria: Criteria) -> Verdict:
    effect, low, high, _, count, own, truth, gain = found
    said = f"answers agree in {100 * own:.0f} % of pairs of pictures, the truth in {100 * truth:.0f} %"
    verdict: Answer = "undecided"
    if math.isnan(effect):
        said = f"{count} pictures: too few, or one answer is true of all, or no other question to compare with"
    elif adjusted <= criteria.share * criteria.alpha:
        verdict = "reliant"
    elif high < criteria.limit and gain > criteria.limit:
        verdict = "not reliant"
    elif gain <= criteria.limit:
        said += "; no better yet than one answer to all"
    return Verdict(index, name, verdict, effect, low, high, truth, adjusted, count, QUESTION, said)
