"""`camtrain masks`: what the masks of a dataset are, and a sheet of their outlines, the doubtful ones first."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from camtrain.cli.images import open_dataset
from camtrain.cli.options import MasksOptions
from camtrain.data.files import read_image
from camtrain.data.folders import SampleDataset
from camtrain.data.overview import Overview, Remark, overview_of
from camtrain.errors import CamtrainError
from camtrain.render.overlays import Outlined, outline_sheet

REFUSED = 1
MOST_VALUES = 12


def run(options: MasksOptions) -> int:
    """Look at every mask, draw the sheet, tell."""
    dataset = open_dataset(options.folder, verify="none", **options.layout)
    overview = overview_of(dataset)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pictures = [_picture(dataset, remark) for remark in chosen(overview.remarks, options.show)]
    outline_sheet(title_of(options.folder, overview), [p for p in pictures if p is not None]).save(options.out)
    if options.json:
        print(json.dumps({"sheet": str(options.out), **_as_json(overview)}, indent=2))  # noqa: T201
    else:
        console = Console()
        for label, text in (*lines_of(overview), ("sheet", str(options.out))):
            console.print(f"{label:<10} {text}", highlight=False, markup=False, soft_wrap=True)
    return REFUSED if overview.problems else 0


def chosen(remarks: Sequence[Remark], count: int) -> list[Remark]:
    """The odd ones first, two thirds of the sheet at the most, then others spread evenly over the rest.

    >>> from camtrain.data.files import Sample
    >>> remarks = [Remark(Sample(Path(str(n)), 0), "", 5.0 if n < 9 else 0.0) for n in range(99)]
    >>> [int(remark.sample.image.name) for remark in chosen(remarks, 6)]
    [0, 1, 2, 3, 9, 54]
    """
    odd = [remark for remark in remarks if remark.weight >= 1]
    plain = [remark for remark in remarks if 0 <= remark.weight < 1] or [r for r in remarks if r.weight < 0]
    first = odd[: max(count * 2 // 3, count - len(plain))]
    left = min(count - len(first), len(plain))
    return first + [plain[number * len(plain) // left] for number in range(left)]


def title_of(folder: Path, overview: Overview) -> str:
    """One line above the sheet."""
    return f"{folder}: {', '.join(f'{count} {kind}' for kind, count in overview.kinds.items())}, doubtful ones first"


def lines_of(overview: Overview) -> list[tuple[str, str]]:
    """What there is to say, a label and a text for each line."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(overview.kinds.items(), key=lambda pair: -pair[1]))
    lines = [("images", f"{overview.images}: {kinds}")]
    if overview.covered is not None:
        low, middle, high = overview.covered
        lines.append(("covered", f"{middle:.0%} of the frame, from {low:.1%} to {high:.1%}"))
    if overview.values:
        values = ", ".join(f"{value} in {count}" for value, count in overview.values[:MOST_VALUES])
        lines.append(("values", f"{values}{', ...' if len(overview.values) > MOST_VALUES else ''} (mask files)"))
    if overview.unknown:
        lines.append(("unknown", f"{overview.unknown} masks have pixels that count neither inside nor outside"))
    if overview.cut:
        lines.append(("cut", f"{overview.cut} masks have values in between (lossy or resampled), cut at half"))
    odd: dict[str, int] = {}
    for remark in overview.remarks:
        kind = remark.text.rpartition(": ")[2].rpartition(", ")[2]
        if remark.weight >= 1 and remark.text != "refused":
            kind = "of another size than their class" if "times" in kind else kind
            odd[kind] = odd.get(kind, 0) + 1
    if odd:
        lines.append(("look at", ", ".join(f"{count} {kind}" for kind, count in odd.items())))
    if overview.problems:
        lines.append(("refused", f"{len(overview.problems)}, the first: {overview.problems[0]}"))
    return lines


def _picture(dataset: SampleDataset, remark: Remark) -> Outlined | None:
    try:
        image = read_image(remark.sample.image, dataset.image_rule)
    except CamtrainError:
        return None
    try:
        mask = dataset.read_mask(remark.sample)
    except CamtrainError:
        mask = None
    image = image if len(image) == 3 else image[:3].expand(3, -1, -1)
    fits = mask is not None and mask.shape == image.shape[1:]
    return Outlined(image, mask if fits else None, remark.sample.id or remark.sample.image.name, remark.text)


def _as_json(overview: Overview) -> dict[str, object]:
    content = asdict(overview)
    content["remarks"] = {remark.sample.id: remark.text for remark in overview.remarks if remark.weight >= 1}
    content["values"] = {str(value): count for value, count in overview.values}
    return content
