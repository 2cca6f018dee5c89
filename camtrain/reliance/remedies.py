"""What can be done about a verdict, each remedy a line of configuration."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from camtrain.reliance.records import STICKER
from camtrain.swaps.looks import LOOKS, look_of

__all__ = ["Advice", "Remedy", "advice_for", "remedies_of"]

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


@dataclass(frozen=True)
class Remedy:
    """One thing to do: its name, a sentence about it, and the configuration that does it.

    ``page`` is where the documentation says more.
    """

    name: str
    sentence: str
    yaml: str
    page: str = "remedies.md"


@dataclass(frozen=True)
class Advice:
    """The remedies that several classes share: their names, the verdict and cue that they have in common."""

    class_names: tuple[str, ...]
    verdict: str
    cue: str
    remedies: tuple[Remedy, ...]


def remedies_of(verdict: Judged) -> tuple[Remedy, ...]:
    """What to do about a verdict, the first choice first; nothing where there is nothing to do.

    >>> from camtrain.reliance import Verdict
    >>> boat = Verdict(0, "boat", "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "background tint", "")
    >>> print(*(one.name for one in remedies_of(boat)), sep=", ")
    randomize the cue, align attention, retrain the last layer
    >>> print(remedies_of(boat)[0].yaml)
    - class_path: camtrain.callbacks.CueRandomization
      init_args: {cue: tint}
    """
    if verdict.verdict == "reliant":
        return _against(verdict.cue)
    if verdict.verdict == "suspect":
        return (_ANNOTATE,)
    return (_MORE_IMAGES,) if verdict.verdict == "undecided" else ()


def advice_for(verdicts: Iterable[Named]) -> tuple[Advice, ...]:
    """What to do about several verdicts, once for each cue, reliant classes first; nothing where all is well.

    >>> from camtrain.reliance import Verdict
    >>> rows = [Verdict(i, "ab"[i], "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "sharpness", "") for i in range(2)]
    >>> print(*((one.class_names, one.remedies[0].name) for one in advice_for(rows)))
    (('a', 'b'), 'randomize the cue')
    """
    groups: dict[tuple[str, str], list[Named]] = {}
    for one in sorted(verdicts, key=lambda v: _ORDER.get(v.verdict, len(_ORDER))):
        cue = one.cue if one.verdict == "reliant" else ""
        groups.setdefault((one.verdict, cue), []).append(one)
    found = [
        Advice(tuple(one.class_name for one in some), verdict, cue, remedies_of(some[0]))
        for (verdict, cue), some in groups.items()
    ]
    return tuple(one for one in found if one.remedies)


def _against(cue: str) -> tuple[Remedy, ...]:
    key = next((name for name, look in LOOKS.items() if look is look_of(cue)), "background")
    randomize, retrain = _randomize(key), _retrain(key)
    if key == "sharpness":  # no mask holds it
        return randomize, retrain
    if cue.startswith(REGIONS):
        return _ALIGN, _FORBID, randomize, retrain
    return (_ALIGN, randomize, retrain) if key == "background" else (randomize, _ALIGN, retrain)


def _callback(name: str, arguments: Sequence[str] = ()) -> str:
    said = f"- class_path: camtrain.callbacks.{name}"
    return said + (f"\n  init_args: {{{', '.join(arguments)}}}" if arguments else "")


def _randomize(cue: str) -> Remedy:
    what = "objects on other images' backgrounds" if cue == "background" else f"images with another's {cue}"
    needs = "needs masks for some images" if cue == "background" else "needs no masks"
    return Remedy("randomize the cue", f"Train on {what}; {needs}.", _callback("CueRandomization", [f"cue: {cue}"]))


def _retrain(cue: str) -> Remedy:
    arguments = [] if cue in ("background", "tint", "brightness") else [f"cues: [{cue}]"]
    return Remedy(
        "retrain the last layer",
        "When training ends, fit the last layer anew on images whose cue was swapped; cheap, and the features stay.",
        _callback("LastLayerRetraining", arguments),
    )


_ALIGN = Remedy(
    "align attention",
    "Penalize evidence off the object and train on counterfactual twins, from the first flag on; masks for a few "
    "percent of the images will do.",
    _callback("AttentionAlignment", ["start_when: reliance/flagged"]),
)
_FORBID = Remedy(
    "align attention away from it",
    "The same where masks mark not the object but what must not matter, as a watermark.",
    _callback("AttentionAlignment", ["start_when: reliance/flagged", "mask_kind: forbidden"]),
)
_ANNOTATE = Remedy(
    "look, and annotate",
    "Look at the pictures; masks or boxes of some validation images turn a suspicion into a verdict.",
    _callback("RelianceDetector", ["batch_adapter: yours.with_masks"]),
)
_MORE_IMAGES = Remedy(
    "judge more images",
    "The note says how many more would decide.",
    _callback("RelianceDetector", ["images_per_class: 120", "max_images: 2400"]),
)
