"""Explained images as records: what a picture shows, and how its heatmap moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from jaxtyping import Bool, Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Drift:
    """How far a heatmap moved between two passes.

    `rank_correlation` (Spearman's) is in [-1, 1], 1 where no cell changed its rank; `shift` is the way of the centre of
    mass in units of the image's diagonal, in [0, 1]. NaN where either heatmap is empty.
    """

    rank_correlation: float
    shift: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One explained image: what it shows, what was said of it, and where the evidence lay.

    `sample` identifies the image over epochs. `image` and the `overlays` (by method) are uint8 RGB of one size;
    `mask` is above 0 on the object, None without an annotation; probabilities are in [0, 1]; `inside_energy`
    (by method) is in [0, 1] or NaN; `cell` is one of `CELLS`, None where it cannot be told. `hot` (by method) is where
    the heatmap reaches half its height, `true_overlay` the first method's heatmap for the true class of a wrong
    answer. Of an answer that is no choice between classes `words` say it all, and `outcome` whether it is "right" or
    "wrong". `reason` says why a failure case was chosen; `since_last`, `since_first` and `flipped` how a probe's
    heatmap moved, and whether its predicted class changed since the last pass.

    >>> import torch
    >>> image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    >>> Panel("img-7", image, {}, 0, 1, "boat", "car", 0.97, 0.02, {"grad_cam": 0.12}).caption()
    'boat taken for car 97 % (boat 2 %) · inside energy 0.12 grad_cam'
    """

    sample: str
    image: UInt8[Tensor, "3 H W"]
    overlays: Mapping[str, UInt8[Tensor, "3 H W"]]
    label: int | None
    predicted: int | None
    label_name: str | None
    predicted_name: str | None
    probability: float
    true_probability: float | None = None
    inside_energy: Mapping[str, float] = field(default_factory=dict)
    cell: str | None = None
    mask: Bool[Tensor, "H W"] | UInt8[Tensor, "H W"] | Float[Tensor, "H W"] | None = None
    group_name: str | None = None
    hot: Mapping[str, Bool[Tensor, "H W"]] = field(default_factory=dict)
    true_overlay: UInt8[Tensor, "3 H W"] | None = None
    reason: str | None = None
    since_last: Drift | None = None
    since_first: Drift | None = None
    flipped: bool | None = None
    words: str = ""
    outcome: str = ""

    @property
    def correct(self) -> bool | None:
        """Is the prediction the label; None where either is unknown."""
        if self.outcome:
            return self.outcome == "right"
        if self.label is None or self.predicted is None:
            return None
        return self.label == self.predicted

    def caption(self) -> str:
        """One line: the classes, their probabilities in percent, the inside energy where it is a number."""
        known = {name: value for name, value in self.inside_energy.items() if not isnan(value)}
        energies = ", ".join(f"{value:.2f} {name}" for name, value in known.items())
        return self._classes() + (f" · inside energy {energies}" if energies else "")

    def full_caption(self, epoch: int) -> str:
        """The same with right or wrong, the image's name and the epoch, for a picture that stands alone."""
        answer = {True: "right", False: "wrong", None: None}[self.correct]
        return " · ".join(filter(None, [self.caption(), answer, self.sample, f"epoch {epoch}"]))

    def _classes(self) -> str:
        if self.words:
            return self.words
        said = f"{self.predicted_name} {100 * self.probability:.0f} %"
        if self.correct is not False:
            return said
        if self.true_probability is None:
            return f"{self.label_name} taken for {said}"
        return f"{self.label_name} taken for {said} ({self.label_name} {100 * self.true_probability:.0f} %)"


TILES_ACROSS, TILES_DOWN = 10, 10  # of one sheet


@dataclass(frozen=True, eq=False)
class Gallery:
    """Every image of a pass, small: what is known of each by column, and sheets of their pictures.

    `columns` are of one length: `sample`, `true` and `predicted` (in words), `probability`, `true_probability`, `right`
    (0 or 1), `inside_energy`, `chance` and `cell`, None for what is not known. A sheet has `TILES_DOWN` lines of
    `TILES_ACROSS`
    images in the order of the columns, each an image and beside it its overlay, squares of `side` pixels. `images` is
    how many the pass had, which may be more than are shown.

    >>> Gallery({"sample": ["a", "b"]}, (), side=64, images=2, epoch=0, step=0).shown
    2
    """

    columns: Mapping[str, Sequence[Any]]
    sheets: tuple[UInt8[Tensor, "3 _ _"], ...]
    side: int
    images: int
    epoch: int
    step: int

    @property
    def shown(self) -> int:
        """How many images it shows."""
        return len(self.columns["sample"])


@dataclass(frozen=True, eq=False)
class Panels:
    """The panels of one pass under one key, `HEATMAPS` (the fixed probes) or `FAILURES`.

    >>> Panels("cam/failures", (), epoch=0, step=0).panels
    ()
    """

    key: str
    panels: tuple[Panel, ...]
    epoch: int
    step: int


@dataclass(frozen=True, eq=False)
class Example:
    """One intervention to believe a verdict by: the image before and after, and its class's probability then.

    >>> import torch
    >>> image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    >>> Example("boat", image, image, before=0.98, after=0.11).after
    0.11
    """

    class_name: str
    original: UInt8[Tensor, "3 H W"]
    intervened: UInt8[Tensor, "3 H W"]
    before: float
    after: float
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Strip:
    """Where a class's cue lies, as one picture: what the windows of several images hold, above those images.

    Of `images` that point to one window, so many look `alike`, and some of these are shown.

    >>> import torch
    >>> Strip("boat", torch.zeros(3, 2, 2, dtype=torch.uint8), "bottom right corner", 9, 11).caption()
    'boat: bottom right corner · 9 of 11 windows look alike'
    """

    class_name: str
    picture: UInt8[Tensor, "3 h w"]
    where: str
    alike: int
    images: int

    def caption(self) -> str:
        """One line."""
        return f"{self.class_name}: {self.where} · {self.alike} of {self.images} windows look alike"
