"""What can be done about a verdict, each remedy a line of configuration and a line of Python."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from camtrain.reliance.language import QUESTION, WORDS
from camtrain.reliance.records import STICKER, Criteria
from camtrain.swaps.looks import LOOKS, look_of

__all__ = ["Advice", "Remedy", "advice_for", "correction", "remedies_of"]

_ORDER = {"reliant": 0, "suspect": 1, "undecided": 2}
REGIONS = ("region", "frame", STICKER)  # cues that have a place of their own beside the object


@runtime_checkable
class Judged(Protocol):
    """What a remedy depends on: a `Verdict`, or the row of one."""

    @property
    def verdict(self) -> str:
        """The answer."""

    @property
    def cue(self) -> str:
        """The cue's name."""


@runtime_checkable
class Named(Judged, Protocol):
    """The same of a class."""

    @property
    def class_name(self) -> str:
        """The class's name."""

    @property
    def images(self) -> int:
        """How many images of the class were judged."""


@dataclass(frozen=True)
class Remedy:
    """One thing to do: its name, a sentence about it, and what does it, in a configuration and in Python.

    ``page`` is where the documentation says more.
    """

    name: str
    sentence: str
    yaml: str
    python: str
    page: str = "remedies.md"


@dataclass(frozen=True)
class Advice:
    """The remedies that several classes share: their names, the verdict and cue that they have in common."""

    class_names: tuple[str, ...]
    verdict: str
    cue: str
    remedies: tuple[Remedy, ...]


def remedies_of(verdict: Judged, images: int | None = None) -> tuple[Remedy, ...]:
    """What to do about a verdict, the first choice first; nothing where there is nothing to do.

    ``images`` is how many images of its class the validation data hold, where that is known: what is undecided is then
    told what is possible with those.

    >>> from camtrain.reliance import Verdict
    >>> boat = Verdict(0, "boat", "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "background tint", "")
    >>> print(*(one.name for one in remedies_of(boat)), sep=", ")
    randomize the cue, align attention, retrain the last layer
    >>> print(remedies_of(boat)[0].yaml)
    - class_path: camtrain.callbacks.CueRandomization
      init_args: {cue: tint}
    >>> print(remedies_of(boat)[0].python)
    camtrain.callbacks.CueRandomization(cue='tint')
    """
    if verdict.verdict == "reliant":
        return _against(verdict.cue)
    if verdict.verdict == "suspect":
        return (_ANNOTATE,)
    if verdict.verdict != "undecided":
        return ()
    if images is None or not isinstance(verdict, Named):
        return (_judge_more(120, "The note says how many more would decide."),)
    return (_possible({verdict.class_name: (verdict.images, images)}),)


def correction(cue: str) -> Remedy:
    """The first choice against a cue that a person has called spurious: a place of its own needs no masks.

    >>> print(correction("background tint").python)
    camtrain.callbacks.CueRandomization(cue='tint')
    >>> print(correction("region 1").python)
    camtrain.callbacks.AttentionAlignment(start_when='reliance/flagged', segmenter='found')
    """
    return _FOUND if cue.startswith(REGIONS) else _against(cue)[0]


def advice_for(verdicts: Iterable[Named], images: Mapping[str, int] | None = None) -> tuple[Advice, ...]:
    """What to do about several verdicts, once for each cue, reliant classes first; nothing where all is well.

    ``images`` counts those of each class in the validation data, where that is known.

    >>> from camtrain.reliance import Verdict
    >>> rows = [Verdict(i, "ab"[i], "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "sharpness", "") for i in range(2)]
    >>> print(*((one.class_names, one.remedies[0].name) for one in advice_for(rows)))
    (('a', 'b'), 'randomize the cue')
    """
    held = images or {}
    groups: dict[tuple[str, str], list[Named]] = {}
    for row in sorted(verdicts, key=lambda v: _ORDER.get(v.verdict, len(_ORDER))):
        key = row.cue if row.verdict == "reliant" else ""
        if row.verdict == "undecided" and row.class_name in held:
            key = "more" if row.images < held[row.class_name] else "all"
        groups.setdefault((row.verdict, key), []).append(row)
    advice = []
    for (verdict, key), rows in groups.items():
        remedies = remedies_of(rows[0])
        if key in ("more", "all"):
            remedies = (_possible({row.class_name: (row.images, held[row.class_name]) for row in rows}),)
        cue = key if verdict == "reliant" else ""
        advice.append(Advice(tuple(row.class_name for row in rows), verdict, cue, remedies))
    return tuple(each for each in advice if each.remedies)


def _against(cue: str) -> tuple[Remedy, ...]:
    if cue in (QUESTION, WORDS):  # no callback of ours changes questions or captions
        return ()
    key = next((name for name, look in LOOKS.items() if look is look_of(cue)), "background")
    randomize, retrain = _randomize(key), _retrain(key)
    if key == "sharpness":  # no mask holds it
        return randomize, retrain
    if cue.startswith(REGIONS):
        return _ALIGN, _FORBID, randomize, retrain
    return (_ALIGN, randomize, retrain) if key == "background" else (randomize, _ALIGN, retrain)


def _possible(counts: Mapping[str, tuple[int, int]]) -> Remedy:
    """What can be done about classes of which so many images were judged, of so many that validation holds."""
    listed = ", ".join(f"{held} of {name} ({judged} judged)" for name, (judged, held) in list(counts.items())[:4])
    sentence = f"Validation holds {listed}{', ...' if len(counts) > 4 else ''}: "
    if any(held > judged and held >= Criteria().min_images for judged, held in counts.values()):
        return _judge_more(max(held for _, held in counts.values()), f"{sentence}judge all of them.")
    return Remedy(
        "hold out more images",
        f"{sentence}there are no more to judge. Hold out a larger share of the data, or collect some.",
        "data: {init_args: {val_fraction: 0.4}}",
        "camtrain.data.modules.ImageFolderDataModule(..., val_fraction=0.4)",
    )


def _judge_more(count: int, sentence: str) -> Remedy:
    most = max(600, 20 * count)
    return _remedy("judge more images", sentence, "RelianceDetector", images_per_class=count, max_images=most)


def _remedy(name: str, sentence: str, callback: str, **arguments: object) -> Remedy:
    """A remedy that is a callback, with its arguments in both languages."""
    yaml = f"- class_path: camtrain.callbacks.{callback}"
    if arguments:
        yaml += f"\n  init_args: {{{', '.join(f'{key}: {_flow(value)}' for key, value in arguments.items())}}}"
    python = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return Remedy(name, sentence, yaml, f"camtrain.callbacks.{callback}({python})")


def _flow(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _randomize(cue: str) -> Remedy:
    what = "objects on other images' backgrounds" if cue == "background" else f"images with another's {cue}"
    needs = "needs masks for some images" if cue == "background" else "needs no masks"
    return _remedy("randomize the cue", f"Train on {what}; {needs}.", "CueRandomization", cue=cue)


def _retrain(cue: str) -> Remedy:
    arguments = {} if cue in ("background", "tint", "brightness") else {"cues": [cue]}
    return _remedy(
        "retrain the last layer",
        "When training ends, fit the last layer anew on images whose cue was swapped: cheap, and the features stay. "
        "The first choice where training takes a dozen steps; after alignment never behind either alone.",
        "LastLayerRetraining",
        **arguments,
    )


_ALIGN = _remedy(
    "align attention",
    "Penalize evidence off the object and train on counterfactual twins, from the first flag on; masks for a few "
    "percent of the images will do, and segmenter='auto' makes them where there are none.",
    "AttentionAlignment",
    start_when="reliance/flagged",
)
_FOUND = _remedy(
    "align attention away from it",
    "Penalize evidence in the places that the detector finds.",
    "AttentionAlignment",
    start_when="reliance/flagged",
    segmenter="found",
)
_FORBID = _remedy(
    "align attention away from it",
    "The same where masks mark not the object but what must not matter, as a watermark.",
    "AttentionAlignment",
    start_when="reliance/flagged",
    mask_kind="forbidden",
)
_ANNOTATE = _remedy(
    "look, and annotate",
    "Look at the pictures; masks or boxes of some validation images turn a suspicion into a verdict.",
    "RelianceDetector",
    batch_adapter="yours.with_masks",
)
