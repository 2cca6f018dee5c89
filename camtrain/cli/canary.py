"""`camtrain canary`: plant a known shortcut into a copy of a folder of images."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress

from camtrain.cli import canary_check
from camtrain.cli.canary_check import TRUTH_FILE, images_to_find
from camtrain.cli.options import CanaryOptions
from camtrain.data.canary import Canary
from camtrain.data.canary.planting import Planted, Planter, agreement, plant_folder
from camtrain.data.files import read_image
from camtrain.data.folders import MaskedImageFolder
from camtrain.data.subsets import SPLITS
from camtrain.errors import ConfigurationError, DataError
from camtrain.render.sheets import Pair, contact_sheet

SHEET_FILE = "canary.png"
MOST_ROWS = 30


def run(options: CanaryOptions) -> int:
    """Plant, draw the sheet, state the truth; or check what a run found of it."""
    if options.check is not None:
        return canary_check.run(options, options.check)
    if not options.folder.is_dir():
        raise DataError(f"There is no folder {options.folder}: name one with images in class folders.")
    canary = _canary(options, 2)  # mistakes in the words before the images are read
    dataset = MaskedImageFolder(options.folder, **options.layout)
    canary = _canary(options, len(dataset.class_names), dataset.class_names)
    planter = Planter(dataset, canary, _independent(options, dataset))
    with Progress(console=Console(stderr=True), disable=options.json, transient=True) as progress:
        task = progress.add_task(f"Planting {options.kind}", total=len(dataset))
        planted = plant_folder(
            planter, options.folder, options.out, index=options.index, done=lambda _: progress.advance(task)
        )
    truth = _truth(options, planter, planted)
    (options.out / TRUTH_FILE).write_text(json.dumps(truth, indent=2))
    _sheet(options, planter, planted).save(options.out / SHEET_FILE)
    _tell(options, truth)
    return 0


def _canary(options: CanaryOptions, count: int, names: Sequence[str] = ()) -> Canary:
    chosen = None
    if options.classes is not None and names:
        chosen = tuple(_index(name, names) for name in dict.fromkeys(options.classes))
    everywhere = options.independent == ()
    return Canary(options.kind, count, options.strength, chosen, independent=everywhere, seed=options.seed)


def _index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    closest = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5])
    raise ConfigurationError(f"No class is called {name!r}; closest: {closest}.")


def _independent(options: CanaryOptions, dataset: MaskedImageFolder) -> tuple[str, ...]:
    """The splits named; they have to be there."""
    splits = sorted({str(sample.split) for sample in dataset.samples if sample.split is not None})
    for split in options.independent or ():
        if split not in splits:
            there = ", ".join(splits) or "none"
            raise ConfigurationError(
                f"No split {split!r} in {options.folder}, which has: {there}. Splits are folders {', '.join(SPLITS)} "
                "or an index's column; without any, plant a folder for testing apart, with --independent alone."
            )
    return tuple(options.independent or ())


def _truth(options: CanaryOptions, planter: Planter, planted: Sequence[Planted]) -> dict[str, Any]:
    names = planter.dataset.class_names
    return {
        "kind": options.kind,
        "strength": options.strength,
        "seed": options.seed,
        "classes": [names[c] for c in planter.canary.cued],
        "independent": True if planter.canary.independent else list(planter.independent),
        "images": len(planted),
        "images_to_find": images_to_find(options.strength, len(planter.canary.cued)),
        "held_out": _held_out(planter),
        "own_cue": {names[c]: round(share, 4) for c, share in agreement(planted).items()},
        "source": {"folder": str(options.folder.resolve()), **options.layout},
        "shown": {image.id: None if image.shown is None else names[image.shown] for image in planted},
    }


def _held_out(planter: Planter) -> dict[str, int]:
    """By class with a cue, how many images are not trained on; of a folder without splits how many there are."""
    names, samples = planter.dataset.class_names, planter.dataset.samples
    parts = {sample.split for sample in samples} - {"train", None}
    labels = [sample.label for sample in samples if not parts or sample.split in parts]
    return {names[c]: labels.count(c) for c in planter.canary.cued}


def _enough(truth: dict[str, Any]) -> str:
    needed, counts = truth["images_to_find"], truth["held_out"]
    if needed is None:
        return f"no: of strength {truth['strength']:g} a cue says less than the detector tells from nothing"
    fewest = min(counts, key=counts.__getitem__)
    line = f"a network that reads the cue alone shows it on {needed} images of a class that it was not trained on"
    if counts[fewest] < needed:
        return f"no: {line}, and {fewest} has {counts[fewest]}"
    return f"yes, if so many are held out: {line}, and every class has {counts[fewest]} or more"


def _sheet(options: CanaryOptions, planter: Planter, planted: Sequence[Planted]) -> Any:
    names, rows = planter.dataset.class_names, []
    for label, name in list(enumerate(names))[:MOST_ROWS]:
        numbers = [number for number, image in enumerate(planted) if image.label == label][: options.show]
        rows.append((name, [_pair(planter, number, planted[number], names) for number in numbers]))
    title = f"{options.kind}, strength {options.strength:g}, seed {options.seed}: {len(planted)} images"
    more = f"; {len(names) - MOST_ROWS} classes more" if len(names) > MOST_ROWS else ""
    return contact_sheet(f"{title}, each before and after{more}", rows)


def _pair(planter: Planter, number: int, image: Planted, names: Sequence[str]) -> Pair:
    caption = "no cue" if image.shown is None else f"cue of {names[image.shown]}"
    return Pair(read_image(planter.dataset.samples[number].image), planter.planted(number), caption)


def _tell(options: CanaryOptions, truth: dict[str, Any]) -> None:
    sheet, file = options.out / SHEET_FILE, options.out / TRUTH_FILE
    if options.json:
        summary = {name: value for name, value in truth.items() if name != "shown"}
        print(json.dumps({"out": str(options.out), "sheet": str(sheet), "truth": str(file), **summary}, indent=2))  # noqa: T201
        return
    console = Console()
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(truth["own_cue"].items())[:10])
    for label, text in (
        ("planted", f"{options.kind} in {truth['images']} images; own cue: {shares}"),
        ("copy", options.out),
        ("sheet", sheet),
        ("truth", file),
        ("enough", _enough(truth)),
    ):
        console.print(f"{label:<8} {text}", highlight=False, markup=False, soft_wrap=True)
