"""A 3-D network on clips: heatmaps in space and time by what they leave of the confidence."""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import torch
from _faithfulness_rows import Sheet, add, given
from torch import Tensor, nn

from camtrain import explain
from camtrain.metrics import average_drop, confidence_increase, insertion_deletion, masked_confidences
from camtrain.render.film import read_video

FRAMES, STRIDE = 16, 2
METHODS = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "contribution_cam")


def network(data: Path, device: str) -> nn.Module:
    """Inception-I3D with the weights of Kinetics-400."""
    weights = data / "weights"
    spec = importlib.util.spec_from_file_location("i3d_rgb", weights / "i3d_rgb.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(weights / "i3d_rgb.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.InceptionI3d()
    state = torch.load(weights / "i3d_rgb_kinetics400_fp16.pth", map_location="cpu", weights_only=True)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    return model.eval().to(device)


def clips(data: Path, count: int, side: int) -> Tensor:
    """Every second one of 32 frames in the middle of each clip, `(B, 3, 16, side, side)` in [-1, 1]."""
    return torch.stack([_clip(file, side) for file in sorted((data / "videos").iterdir())[:count]])


def video(model: nn.Module, videos: Tensor, methods: Any, options: Any) -> Sheet:
    """Drop, increase, insertion and deletion over frames and pixels together, of the predicted class."""
    sheet: Sheet = {name: {} for name in methods}
    for part in videos.split(1):
        found = explain(model, part, methods=given(methods))
        shared: dict[str, Any] = {"logits": found.logits, "max_batch": options.max_batch}
        confidences = masked_confidences(model, part, found.heatmaps, **shared)
        curves = insertion_deletion(model, part, found.heatmaps, steps=options.video_steps, **shared)
        for name, own in confidences.items():
            add(
                sheet[name],
                average_drop=average_drop(own.before, own.after),
                increase=confidence_increase(own.before, own.after),
                insertion=curves[name].insertion_auc,
                deletion=curves[name].deletion_auc,
            )
    return sheet


def _clip(file: Path, side: int) -> Tensor:
    frames = [_cropped(frame, side) for frame in read_video(file)]
    span = (FRAMES - 1) * STRIDE + 1
    start = max(0, (len(frames) - span) // 2)
    chosen = torch.stack(frames[start : start + span : STRIDE])  # (T, side, side, 3)
    return chosen.permute(3, 0, 1, 2).float() / 127.5 - 1


def _cropped(frame: Any, side: int) -> Tensor:
    height, width = frame.shape[:2]
    scale = side * 8 / 7 / min(height, width)
    small = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    return torch.from_numpy(small[top : top + side, left : left + side].copy())
