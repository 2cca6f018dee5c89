"""What a person says of the cues that were found: fair evidence, or spurious."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from camtrain.errors import ConfigurationError
from camtrain.records import Verdict

__all__ = ["FAIR", "SPURIOUS", "Judgement", "accepted", "fair_cues", "read_judgements"]

FAIR, SPURIOUS = "fair", "spurious"
FLAGS = ("reliant", "suspect")


@dataclass(frozen=True)
class Judgement:
    """A person's word on one class's cue."""

    class_name: str
    cue: str
    judgement: str


def read_judgements(path: str | Path) -> tuple[Judgement, ...]:
    """What a report's "save" wrote: `{"judgements": [{"class_name": ..., "cue": ..., "judgement": "fair"}]}`.

    ConfigurationError for a file that is not there, or is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no file of judgements {path}: mark cues in a report, and save them there.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["judgements"]
        judgements = tuple(Judgement(*(str(row[name]) for name in ("class_name", "cue", "judgement"))) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no file of judgements, as a report saves them ({error!r}).") from error
    for each in judgements:
        if each.judgement not in (FAIR, SPURIOUS):
            raise ConfigurationError(f"{path}: a judgement is {FAIR!r} or {SPURIOUS!r}, got {each.judgement!r}.")
    return judgements


def fair_cues(path: str | Path | None) -> frozenset[tuple[str, str]]:
    """The classes and cues that a file of judgements calls fair; none without a file."""
    judgements = () if path is None else read_judgements(path)
    return frozenset((each.class_name, each.cue) for each in judgements if each.judgement == FAIR)


def accepted(verdicts: Sequence[Verdict], fair: Iterable[tuple[str, str]]) -> tuple[Verdict, ...]:
    """The verdicts; one that flags what a person called fair is "fair", with all that was measured.

    >>> boat = Verdict(0, "boat", "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "background", "")
    >>> accepted([boat], {("boat", "background")})[0].verdict
    'fair'
    """
    known = set(fair)
    return tuple(
        replace(each, verdict="fair") if each.verdict in FLAGS and (each.class_name, each.cue) in known else each
        for each in verdicts
    )
