"""`camtrain explain`: paint what a model looked at over images, and say what it saw in them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from camtrain.cli.answers import choice_of, named_answers, output_of, target_of
from camtrain.cli.images import read_transformed
from camtrain.cli.options import ExplainOptions
from camtrain.data.files import read_image
from camtrain.data.transforms import eval_transform
from camtrain.errors import ConfigurationError, DataError
from camtrain.explanation import explain
from camtrain.loading import device_of, load_model, model_names, read_names, zoo_names
from camtrain.records.images import jpeg, png, to_pixels
from camtrain.render import overlay
from camtrain.render.sheets import Pair, contact_sheet

SIDE = 192  # of a picture on the sheet


@dataclass(frozen=True)
class Answer:
    """What a model answered for an image, and the overlays of its heatmaps by method."""

    image: Path
    model: str
    predicted: str
    probability: float
    states: dict[str, str]
    overlays: dict[str, Tensor]


def run(options: ExplainOptions) -> int:
    """Explain each image by each model, write the overlays, print the answers."""
    if missing := [str(path) for path in options.images if not path.is_file()]:
        raise DataError(f"There is no image {missing[0]}{f' (nor {len(missing) - 1} more)' if missing[1:] else ''}.")
    titles = list(options.names) or _titles([spec for spec, _ in options.models])
    rows: list[dict[str, Any]] = []
    pairs: dict[Path, list[Pair]] = {path: [] for path in options.images}
    for (spec, weights), title in zip(options.models, titles, strict=True):
        for answer in answers_of(spec, weights, title, options):
            rows.append(_row(answer, _write(answer, options, several=len(titles) > 1)))
            line = f"{title}: {answer.predicted} {100 * answer.probability:.0f} %"
            pairs[answer.image].append(Pair(read_image(answer.image), next(iter(answer.overlays.values())), line))
    sheet = None
    if len(titles) > 1:
        sheet = options.out / f"sheet.{options.format}"
        method = next(iter(rows[0]["overlays"]))
        contact_sheet(method, [(path.name, pairs[path]) for path in options.images], side=SIDE).save(sheet)
    _print(rows, sheet, options)
    return 0


def answers_of(spec: str, weights: str | None, title: str, options: ExplainOptions) -> Iterator[Answer]:
    """What a model answers for each image."""
    given = read_names(options.classes)
    device = device_of(options.device)
    network = load_model(spec, weights, len(given) if given else None).to(device)
    output = output_of(network, options.size)
    choice = choice_of(options.task, output)
    names = model_names(network, options.classes, weights) or zoo_names(spec, choice.read(output).shape[1])
    index = None if options.target is None else _index(options.target, names)
    transform = eval_transform(options.size, options.mean, options.std)
    layers: Any = options.layers
    for path in options.images:
        image = read_transformed(path, transform).unsqueeze(0).to(device)
        explanation = explain(network, image, layers=layers, methods=options.methods, target=target_of(choice, index))
        layers = list(explanation.layers)  # chosen once
        ((name, probability),) = named_answers(choice, explanation.logits, names)
        original = read_image(path).unsqueeze(0)
        yield Answer(
            path,
            title,
            name,
            probability,
            {method: explanation.state_names(method)[0] for method in explanation.heatmaps},
            {method: overlay(original, heat.cpu())[0] for method, heat in explanation.heatmaps.items()},
        )


def _row(answer: Answer, files: dict[str, str]) -> dict[str, Any]:
    names = ("model", "predicted", "probability", "states")
    return {"image": str(answer.image), **{name: getattr(answer, name) for name in names}, "overlays": files}


def _titles(specs: Sequence[str]) -> list[str]:
    """What models are called: short, and numbered where two are called the same.

    >>> _titles(["torchvision:resnet18", "mine.nets.Net", "mine.nets.Net"])
    ['resnet18', 'Net', 'Net 2']
    """
    short = [Path(spec).stem if Path(spec).is_file() else re.split("[:.]", spec)[-1] for spec in specs]
    return [f"{n} {short[: i + 1].count(n)}" if n in short[:i] else n for i, n in enumerate(short)]


def _write(answer: Answer, options: ExplainOptions, *, several: bool) -> dict[str, str]:
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"{answer.image.stem}-{answer.model}" if several else answer.image.stem
    files = {method: options.out / f"{stem}-{method}.{options.format}" for method in answer.overlays}
    for method, file in files.items():
        file.write_bytes(_encoded(answer.overlays[method], options.format))
    return {method: str(file) for method, file in files.items()}


def _encoded(picture: Tensor, kind: str) -> bytes:
    pixels = to_pixels(picture.to(torch.uint8))
    return png(pixels) if kind == "png" else jpeg(pixels)


def _print(rows: list[dict[str, Any]], sheet: Path | None, options: ExplainOptions) -> None:
    if options.json:
        print(json.dumps(rows, indent=2))  # noqa: T201  what was asked for
        return
    table = Table("image", *["model"] * (sheet is not None), "predicted", "probability", "heatmaps")
    for row in rows:
        files = ", ".join(
            f"{Path(file).name}{'' if row['states'][method] == 'OK' else ' (' + row['states'][method] + ')'}"
            for method, file in row["overlays"].items()
        )
        of_model = [row["model"]] * (sheet is not None)
        table.add_row(row["image"], *of_model, row["predicted"], f"{100 * row['probability']:.1f} %", files)
    console = Console()
    console.print(table)
    if sheet is not None:
        console.print(f"sheet  {sheet}", highlight=False, markup=False, soft_wrap=True)


def _index(target: str, names: list[str] | None) -> int:
    if names and names.count(target) > 1:
        rows = [index for index, name in enumerate(names) if name == target]
        raise ConfigurationError(f"{target!r} is the name of the classes {rows}: give one of these indices.")
    if names and target in names:
        return names.index(target)
    if target.isdigit():
        return int(target)
    raise ConfigurationError(f"No class is called {target!r}: give its index, or --classes FILE that names it.")
