"""GrabCut from the border, doubted by a second opinion: the only part of the library that needs OpenCV."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from camtrain.swaps.compositing import dilate

SIDE = 64  # pixels of the longer side that guessing works with
LEAST = 0.02  # of the frame: a smaller object is taken for a failure
COVERED = 0.5  # of what stands out from the border lies in or near the guess, else it is a failure
NEAR = 0.12  # of the side
FRAME = 0.12  # of the side, the widest plain frame that is taken off
PLAIN = 6  # the standard deviation of a plain frame, of 255
STANDS_OUT = 0.1  # of the frame: what stands out more than so much of it counts no more than that
KEPT = 0.2  # of the largest part's weight: smaller parts are none of the object


def cut_out(images: Tensor) -> Tensor:
    """`guess_masks` of at least one image."""
    pictures = _pictures(images)
    depths = [_frame_depth(picture) for picture in pictures]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:  # OpenCV has a random state in each thread
        inner = list(workers.map(_without_frame, pictures, depths))
        distances = barrier_distance(torch.from_numpy(np.stack(inner)).permute(0, 3, 1, 2).float() / 255)
        found = list(workers.map(_guess, inner, distances.numpy()))
        masks = workers.map(
            partial(_restored, shape=(images.shape[2], images.shape[3])), found, depths, repeat(pictures[0].shape)
        )
        return torch.stack([torch.from_numpy(mask) for mask in masks]).to(images.device)


def barrier_distance(images: Float[Tensor, "B C H W"], *, rounds: int = 2) -> Float[Tensor, "B H W"]:
    """How much every way to the border must go up and down in color, summed over channels; 0 on the border.

    A part of the background that shades off smoothly is near to the border, whatever its color; an object that stands
    out is not. Every way is searched approximately, by ``rounds`` of sweeps in the four directions.
    Source: Zhang et al. 2015, "Minimum barrier salient object detection at 80 FPS" (fast raster scan).

    >>> image = torch.zeros(1, 1, 5, 5)
    >>> image[..., 2, 2] = 0.75
    >>> barrier_distance(image)[0, 2].tolist()
    [0.0, 0.0, 0.75, 0.0, 0.0]
    """
    distance = torch.full_like(images, torch.inf)
    for side in (distance[..., 0, :], distance[..., -1, :], distance[..., 0], distance[..., -1]):
        side.zero_()
    state = [distance, images.clone(), images.clone(), images]  # the way's highest and lowest values so far
    for _ in range(rounds):
        for view in (state, [part.transpose(2, 3) for part in state]):
            rows = view[0].shape[2]
            _sweep(view, range(1, rows), -1)
            _sweep(view, range(rows - 2, -1, -1), 1)
    return distance.sum(dim=1)


def _sweep(state: Sequence[Tensor], rows: range, back: int) -> None:
    """Each row learns from the one before it whether the way through that one is better; changes the state."""
    distance, highest, lowest, images = state
    for row in rows:
        high = torch.maximum(highest[:, :, row + back], images[:, :, row])
        low = torch.minimum(lowest[:, :, row + back], images[:, :, row])
        better = high - low < distance[:, :, row]
        for kept, offered in ((distance, high - low), (highest, high), (lowest, low)):
            kept[:, :, row] = torch.where(better, offered, kept[:, :, row])


def _pictures(images: Tensor) -> list[np.ndarray]:
    """8-bit RGB of at most `SIDE` pixels, each stretched from its own darkest to its own lightest value."""
    images = images.detach().float().cpu()
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    factor = min(1.0, SIDE / max(images.shape[2:]))
    size = [max(8, round(factor * side)) for side in images.shape[2:]]
    small = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    low, high = small.amin(dim=(1, 2, 3), keepdim=True), small.amax(dim=(1, 2, 3), keepdim=True)
    levels = 255 * (small - low) / (high - low).clamp(min=1e-6)
    return [np.ascontiguousarray(one) for one in levels.round().byte().permute(0, 2, 3, 1).numpy()]


def _frame_depth(picture: np.ndarray) -> int:
    """How many pixels the plain frame around a picture is wide, 0 for none."""
    height, width = picture.shape[:2]
    found = 0
    for depth in range(1, round(FRAME * min(height, width)) + 1):
        ring = np.ones((height, width), bool)
        ring[depth:-depth, depth:-depth] = False
        if picture[ring].std(axis=0).max() < PLAIN:
            found = depth
    return found


def _without_frame(picture: np.ndarray, depth: int) -> np.ndarray:
    """What is inside of the frame, as large as the picture was."""
    import cv2

    if depth == 0:
        return picture
    height, width = picture.shape[:2]
    return cv2.resize(picture[depth:-depth, depth:-depth], (width, height), interpolation=cv2.INTER_LINEAR)


def _guess(picture: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The joined results of both starts as 0 and 1, all -1 for a failure."""
    salient = _salient(distance)
    found: np.ndarray = _object_parts(_from_rectangle(picture)) | _object_parts(_from_seeds(picture, salient))
    near = dilate(torch.from_numpy(found)[None].float(), round(NEAR * min(found.shape))).numpy()[0] > 0
    weight = distance * salient
    covered = (weight * near).sum() / max(1e-6, weight.sum())
    if found.mean() < LEAST or covered < COVERED:
        return np.full(found.shape, -1, np.float32)
    return found.astype(np.float32)


def _salient(distance: np.ndarray) -> np.ndarray:
    """Where the distance is large, by Otsu's threshold; a small bright thing does not hide an object."""
    import cv2

    most = max(1e-6, float(np.quantile(distance, 1 - STANDS_OUT)))
    levels = np.round(255 * np.minimum(distance / most, 1)).astype(np.uint8)
    return cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1].astype(np.uint8)


def _from_rectangle(picture: np.ndarray) -> np.ndarray:
    import cv2

    height, width = picture.shape[:2]
    edge = max(2, round(min(height, width) / 20))
    rectangle = (edge, edge, width - 2 * edge, height - 2 * edge)
    return _grab_cut(picture, np.zeros((height, width), np.uint8), rectangle, cv2.GC_INIT_WITH_RECT)


def _from_seeds(picture: np.ndarray, salient: np.ndarray) -> np.ndarray:
    import cv2

    seeds = np.where(salient > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    edge = max(1, round(min(seeds.shape) / 32))
    inside = seeds[edge:-edge, edge:-edge].copy()
    seeds[:] = cv2.GC_BGD
    seeds[edge:-edge, edge:-edge] = inside
    if not (inside == cv2.GC_PR_FGD).any():
        return np.zeros_like(seeds)
    return _grab_cut(picture, seeds, (0, 0, 0, 0), cv2.GC_INIT_WITH_MASK)


def _grab_cut(picture: np.ndarray, state: np.ndarray, rectangle: tuple[int, int, int, int], mode: int) -> np.ndarray:
    import cv2

    cv2.setRNGSeed(0)
    cv2.grabCut(picture, state, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 3, mode)
    foreground: np.ndarray = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    return foreground


def _object_parts(found: np.ndarray) -> np.ndarray:
    """The part that weighs most, central pixels more, and others that are not much lighter."""
    import cv2

    count, parts = cv2.connectedComponents(found)
    rows, columns = (np.linspace(-1, 1, side) for side in found.shape)
    central = np.exp(-2 * (rows[:, None] ** 2 + columns[None] ** 2))
    weights = np.bincount(parts.ravel(), central.ravel(), minlength=count)
    weights[0] = 0
    kept = np.flatnonzero((weights > 0) & (weights >= KEPT * weights.max()))
    return np.asarray(np.isin(parts, kept), dtype=bool)


def _restored(mask: np.ndarray, depth: int, picture: tuple[int, ...], shape: tuple[int, int]) -> np.ndarray:
    """The mask at the image's size, put back into its frame."""
    import cv2

    if (mask < 0).any():
        return np.full(shape, -1, np.float32)
    height, width = picture[:2]
    whole = np.zeros((height, width), np.float32)
    size = (width - 2 * depth, height - 2 * depth)
    whole[depth : height - depth, depth : width - depth] = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    large = cv2.resize(whole, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return (large >= 0.5).astype(np.float32)
