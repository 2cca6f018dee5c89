"""`camtrain explain`: paint what a model looked at over images, and say what it saw in them."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from camtrain.cam import class_index, predicted_class
from camtrain.cli.images import read_transformed
from camtrain.cli.options import ExplainOptions
from camtrain.data.files import read_image
from camtrain.data.transforms import eval_transform
from camtrain.errors import ConfigurationError, DataError
from camtrain.explanation import Explanation
from camtrain.explanation import explain as explain_images
from camtrain.loading import count_classes, device_of, load_model, model_names, read_names, zoo_names
from camtrain.records.images import jpeg, png, to_pixels
from camtrain.render import overlay


def run(options: ExplainOptions) -> int:
    """Explain each image, write its overlays, print the answers."""
    if missing := [str(path) for path in options.images if not path.is_file()]:
        raise DataError(f"There is no image {missing[0]}{f' (nor {len(missing) - 1} more)' if missing[1:] else ''}.")
    given = read_names(options.classes)
    device = device_of(options.device)
    network = load_model(options.model, options.weights, len(given) if given else None).to(device)
    names = model_names(network, options.classes, options.weights)
    names = names or zoo_names(options.model, count_classes(network, options.size))
    transform = eval_transform(options.size, options.mean, options.std)
    chosen = predicted_class if options.target is None else class_index(_index(options.target, names))
    layers: Any = options.layers
    answers = []
    for path in options.images:
        image = read_transformed(path, transform).unsqueeze(0).to(device)
        found = explain_images(network, image, layers=layers, methods=options.methods, target=chosen)
        layers = list(found.layers)  # chosen once
        answers.append(_answer(path, found, names) | {"overlays": _write(path, found, options)})
    _print(answers, options)
    return 0


def _answer(path: Path, found: Explanation, names: list[str] | None) -> dict[str, Any]:
    probability, index = (value.item() for value in found.logits.softmax(1)[0].max(0))
    states = {method: found.state_names(method)[0] for method in found.heatmaps}
    return {"image": str(path), "predicted": _name(names, index), "probability": probability, "states": states}


def _write(path: Path, found: Explanation, options: ExplainOptions) -> dict[str, str]:
    options.out.mkdir(parents=True, exist_ok=True)
    written = {}
    original = read_image(path).unsqueeze(0)
    for method, heat in found.heatmaps.items():
        target = options.out / f"{path.stem}-{method}.{options.format}"
        target.write_bytes(_encoded(overlay(original, heat.cpu())[0], options.format))
        written[method] = str(target)
    return written


def _encoded(picture: Tensor, kind: str) -> bytes:
    pixels = to_pixels(picture.to(torch.uint8))
    return png(pixels) if kind == "png" else jpeg(pixels)


def _print(answers: list[dict[str, Any]], options: ExplainOptions) -> None:
    if options.json:
        print(json.dumps(answers, indent=2))  # noqa: T201  what was asked for
        return
    table = Table("image", "predicted", "probability", "heatmaps")
    for answer in answers:
        files = ", ".join(
            f"{Path(file).name}{'' if answer['states'][method] == 'OK' else ' (' + answer['states'][method] + ')'}"
            for method, file in answer["overlays"].items()
        )
        table.add_row(answer["image"], answer["predicted"], f"{100 * answer['probability']:.1f} %", files)
    Console().print(table)


def _index(target: str, names: list[str] | None) -> int:
    if names and names.count(target) > 1:
        rows = [index for index, name in enumerate(names) if name == target]
        raise ConfigurationError(f"{target!r} is the name of the classes {rows}: give one of these indices.")
    if names and target in names:
        return names.index(target)
    if target.isdigit():
        return int(target)
    raise ConfigurationError(f"No class is called {target!r}: give its index, or --classes FILE that names it.")


def _name(names: list[str] | None, index: int) -> str:
    return names[index] if names and index < len(names) else f"class {index}"
