"""What the masks of a dataset are like, and which of them deserve a look first."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from camtrain.data.checking import CheckedSample, look_at
from camtrain.data.files import Sample
from camtrain.data.folders import SampleDataset
from camtrain.data.masks import Value, odd_about, value_shares
from camtrain.errors import CamtrainError


@dataclass(frozen=True)
class Remark:
    """An image and what is odd about its mask; the higher the weight, the sooner it should be looked at."""

    sample: Sample
    text: str
    weight: float


@dataclass(frozen=True)
class Overview:
    """The masks of a dataset.

    Attributes:
        images: how many there are.
        kinds: how many have a mask file, shapes of an annotation file, none, or are refused.
        covered: the smallest, the median and the largest share of the frame; None without a mask that can be read.
        unknown: how many masks have unknown pixels.
        cut: how many have values in between that were cut at half.
        values: in how many mask files each value was met, the most frequent first.
        problems: what was refused, a message for each.
        remarks: every image, the odd ones first.
    """

    images: int
    kinds: dict[str, int]
    covered: tuple[float, float, float] | None
    unknown: int
    cut: int
    values: list[tuple[Value, int]]
    problems: list[str]
    remarks: list[Remark]


def overview_of(dataset: SampleDataset) -> Overview:
    """Read every image and mask of a dataset, those too that it would refuse."""
    looks = look_at(dataset.samples, "decode", dataset.image_rule, dataset.mask_facts)
    pairs = list(zip(dataset.samples, looks, strict=True))
    masks = [(look.sample, look.mask) for look in looks if isinstance(look, CheckedSample) and look.mask is not None]
    areas = sorted(mask.covered for _, mask in masks)
    refused = [look for look in looks if not isinstance(look, CheckedSample)]
    kinds = Counter(_kind(sample, look) for sample, look in pairs)
    return Overview(
        images=len(pairs),
        kinds=dict(kinds),
        covered=(areas[0], median(areas), areas[-1]) if areas else None,
        unknown=sum(mask.unknown > 0 for _, mask in masks),
        cut=sum(mask.cut for _, mask in masks),
        values=_values_met(dataset),
        problems=[str(problem) for problem in refused],
        remarks=_remarks(pairs, _medians(masks)),
    )


def _kind(sample: Sample, look: CheckedSample | CamtrainError) -> str:
    if not isinstance(look, CheckedSample):
        return "refused"
    if look.mask is None:
        return "with shapes that cover no pixel" if sample.regions else "without an annotation"
    if sample.regions is not None:
        return "with shapes"
    return "with several mask files" if sample.more_masks else "with a mask file"


def _values_met(dataset: SampleDataset) -> list[tuple[Value, int]]:
    files = [mask for sample in dataset.samples for mask in sample.masks]

    def values(path: object) -> list[Value]:
        try:
            return [value for value, _ in value_shares(path, dataset.mask_rule)]  # type: ignore[arg-type]
        except CamtrainError:
            return []

    with ThreadPoolExecutor(4) as pool:
        met = Counter(value for of_file in pool.map(values, files) for value in of_file)
    return met.most_common()


def _medians(masks: Sequence[tuple[Sample, object]]) -> dict[int, float]:
    areas: dict[int, list[float]] = {}
    for sample, mask in masks:
        if mask.covered > 0:  # type: ignore[attr-defined]
            areas.setdefault(sample.label, []).append(mask.covered)  # type: ignore[attr-defined]
    return {label: median(of_class) for label, of_class in areas.items()}


def _remarks(pairs: Sequence[tuple[Sample, CheckedSample | CamtrainError]], medians: dict[int, float]) -> list[Remark]:
    remarks = [_remark(sample, look, medians.get(sample.label, 0.0)) for sample, look in pairs]
    return sorted(remarks, key=lambda remark: -remark.weight)


def _remark(sample: Sample, look: CheckedSample | CamtrainError, usual: float) -> Remark:
    """What to say of an image, and how odd it is."""
    if not isinstance(look, CheckedSample):
        return Remark(sample, "refused", 6.0)
    mask = look.mask
    if mask is None:
        return Remark(sample, "covers no pixel" if sample.regions else "no annotation", 5.0 if sample.regions else -1.0)
    return Remark(sample, *odd_about(mask, usual))
