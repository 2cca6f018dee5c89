"""Files opened before they are needed: what cannot be read is an error at construction, and what was met is said."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from camtrain.data.files import ImageRule, Sample, announce, check_image, image_size
from camtrain.data.masks import MaskFacts
from camtrain.errors import DataError, MaskError

VERIFY = ("decode", "headers", "none")
ReadFacts = Callable[[Sample], MaskFacts | None]


@dataclass(frozen=True)
class CheckedSample:
    """What was met in the files of an image.

    Attributes:
        sample: the files.
        size: height and width, as the image is shown.
        orientation: of its EXIF, 1 where it stands upright.
        mask: None where there is none, or it was not read.
    """

    sample: Sample
    size: tuple[int, int]
    orientation: int = 1
    mask: MaskFacts | None = None


def check_samples(
    samples: Sequence[Sample],
    verify: str = "decode",
    skip_corrupt: bool = False,
    rule: ImageRule = ImageRule(),  # noqa: B008 - frozen
    mask_facts: ReadFacts | None = None,
) -> list[CheckedSample]:
    """Open every image and mask before they are needed.

    Args:
        samples: what to check.
        verify: "decode" reads every file to its end, "headers" reads sizes only, "none" trusts them all.
        skip_corrupt: leave corrupt images out, with a warning that counts and names them, instead of raising.
        rule: how images are read.
        mask_facts: reads the mask of a sample, for "decode"; None looks at the masks' sizes alone.

    Returns:
        What was met, for the samples that can be read.

    Raises:
        DataError: for the first corrupt or missing image or mask, naming it.
        MaskError: for a mask of another size than its image, or one that cannot be meant.
    """
    if verify not in VERIFY:
        raise DataError(f"verify is one of {', '.join(VERIFY)}; got {verify!r}.")
    if verify == "none":
        return [CheckedSample(sample, (0, 0)) for sample in samples]
    looks = look_at(samples, verify, rule, mask_facts)
    bad = [look for look in looks if not isinstance(look, CheckedSample)]
    wrong = [problem for problem in bad if isinstance(problem, MaskError)]
    if bad and (not skip_corrupt or wrong):
        first = (wrong or bad)[0]
        more = f" ({len(wrong)} of {len(samples)} images have such a mask.)" if len(wrong) > 1 else ""
        raise type(first)(f"{first}{more}") from first
    if bad:
        shown = "; ".join(str(problem).split(":")[0] for problem in bad[:3])
        warnings.warn(f"Skipped {len(bad)} of {len(samples)} images: {shown}", UserWarning, stacklevel=2)
    good = [look for look in looks if isinstance(look, CheckedSample)]
    _say(good, rule)
    return good


def look_at(
    samples: Sequence[Sample], verify: str, rule: ImageRule, mask_facts: ReadFacts | None
) -> list[CheckedSample | DataError | MaskError]:
    """What is met in the files of each sample, or what is wrong with them."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda sample: _look(sample, verify, rule, mask_facts), samples))


def _look(
    sample: Sample, verify: str, rule: ImageRule, mask_facts: ReadFacts | None
) -> CheckedSample | DataError | MaskError:
    try:
        if verify == "headers":
            size, orientation = image_size(sample.image, rule.upright), 1
        else:
            size, orientation = check_image(sample.image, rule)
        if sample.size is not None:
            require_same_size(sample, size, sample.size, "its annotation")
        if mask_facts is None or verify == "headers":
            for mask in sample.masks:
                require_same_size(sample, size, image_size(mask, rule.upright), str(mask))
            return CheckedSample(sample, size, orientation)
        facts = mask_facts(sample)
        if facts is not None:
            require_same_size(sample, size, facts.size, str(sample.mask or "its annotation"))
        return CheckedSample(sample, size, orientation, facts)
    except (DataError, MaskError) as error:
        return error


def require_same_size(sample: Sample, size: tuple[int, int], mask_size: tuple[int, int], mask: str) -> None:
    """Refuse a mask of another size than its image, and say where it is that of the photograph as it is stored."""
    if mask_size == size:
        return
    turned = mask_size == size[::-1] and _is_turned(sample)
    remedy = (
        "The photograph has an EXIF orientation, and is turned upright as viewers show it; the mask was drawn on the "
        "stored pixels: set upright: false to read both as stored."
        if turned
        else "Resize the mask (nearest neighbor) or correct the pair."
    )
    raise MaskError(
        f"A mask has the size of its image: {mask} is {mask_size[1]}x{mask_size[0]}, {sample.image} is "
        f"{size[1]}x{size[0]}. {remedy}"
    )


def _is_turned(sample: Sample) -> bool:
    return check_image(sample.image, ImageRule(upright=False))[1] > 4


def _say(looks: Sequence[CheckedSample], rule: ImageRule) -> None:
    """A line on what was done to files that are not plain."""
    if turned := sum(look.orientation > 1 for look in looks):
        announce(
            f"{turned} of {len(looks)} photographs have an EXIF orientation and are "
            + (
                "turned upright, as viewers and tools show them; torchvision's ImageFolder does not turn them"
                if rule.upright
                else "read as stored, not as viewers show them (upright: false)"
            )
        )
    masks = [look.mask for look in looks if look.mask is not None]
    if cut := sum(mask.cut for mask in masks):
        announce(f"{cut} of {len(masks)} masks have values in between (lossy or resampled), and were cut at half")
    if empty := sum(mask.covered == 0 and mask.unknown < 1 for mask in masks):
        announce(f"{empty} of {len(masks)} masks are empty: nothing in these images is the object")
