"""`camtrain film`: a video with heatmaps over it, or a probe of a run over its epochs."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camtrain.cli.answers import choice_of, named_answers, output_of, target_of
from camtrain.cli.compare import find_run
from camtrain.cli.options import FilmOptions
from camtrain.data.transforms import eval_transform, transform_pair
from camtrain.errors import ConfigurationError, DataError
from camtrain.explanation import explain
from camtrain.loading import device_of, load_model, model_names, zoo_names
from camtrain.records import HEATMAPS, read_history
from camtrain.records.images import read_pixels
from camtrain.render import overlay
from camtrain.render.film import captioned, frame_rate, read_video, write_video


def run(options: FilmOptions) -> int:
    """Film, and say what was written."""
    if not options.source.exists():
        raise DataError(f"There is no video or run {options.source}.")
    try:
        of_run = options.source.is_dir()
        frames = probe_frames(find_run(options.source), options) if of_run else video_frames(options.source, options)
        rate = options.fps or (2.0 if of_run else frame_rate(options.source))
        count = write_video(islice(frames, options.frames), options.out, fps=rate)
    except ValueError as error:
        raise DataError(str(error)) from error
    answer = {"film": str(options.out), "frames": count, "fps": rate}
    print(json.dumps(answer) if options.json else f"{count} frames in {options.out}")  # noqa: T201  what was asked for
    return 0


def video_frames(path: Path, options: FilmOptions) -> Iterator[Tensor]:
    """A video's frames with the first method's heatmaps over them, and what the model answered below."""
    if options.model is None:
        raise ConfigurationError("A video needs a model to explain it: --model torchvision:resnet18 --weights FILE.")
    device = device_of(options.device)
    network = load_model(options.model, options.weights, None).to(device)
    output = output_of(network, options.size)
    choice = choice_of(options.task, output)
    names = model_names(network, options.classes, options.weights)
    names = names or zoo_names(options.model, choice.read(output).shape[1])
    transform = eval_transform(options.size, options.mean, options.std)
    layers: Any = options.layers
    frames = read_video(path)
    while batch := [torch.from_numpy(frame).permute(2, 0, 1) for frame in islice(frames, options.batch_size)]:
        images = torch.stack([transform_pair(transform, frame, torch.zeros(frame.shape[1:]))[0] for frame in batch])
        target = target_of(choice, None)
        explanation = explain(network, images.to(device), layers=layers, methods=options.methods[0], target=target)
        layers = list(explanation.layers)
        pictures = overlay(torch.stack(batch), next(iter(explanation.heatmaps.values())).cpu())
        answers = named_answers(choice, explanation.logits, names)
        for picture, (name, probability) in zip(pictures, answers, strict=True):
            yield captioned(picture, f"{name} {100 * probability:.0f} %")


def probe_frames(folder: Path, options: FilmOptions) -> Iterator[Tensor]:
    """A probe's overlays by the first method that the run has, oldest first, and what was answered below."""
    passes: Mapping[Any, Any] = read_history(folder).panels.get(HEATMAPS, {})
    samples = list(dict.fromkeys(item["sample"] for shown in passes.values() for item in shown.items))
    sample = options.sample or next(iter(samples), None)
    if not samples:
        raise DataError(f"{folder} holds no probes to film: name the folder of a run that ExplanationMonitor watched.")
    if sample not in samples:
        raise DataError(f"No probe {sample!r} in {folder}; it has {', '.join(samples[:8])}.")
    for epoch, shown in passes.items():
        for item in shown.items:
            if item["sample"] == sample:
                path = folder / next(iter(item["overlays"].values()))
                yield captioned(torch.from_numpy(read_pixels(path)).permute(2, 0, 1), _line(epoch, item))


def _line(epoch: int, item: Mapping[str, Any]) -> str:
    """The epoch and the answer, as "epoch 3  boat 97 %"."""
    name, probability = item.get("predicted_name"), item.get("probability")
    answer = name if probability is None else f"{name} {100 * probability:.0f} %"
    return f"epoch {epoch}" if name is None else f"epoch {epoch}  {answer}"
