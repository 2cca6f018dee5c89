"""Pictures that show themselves in a notebook."""

from collections.abc import Mapping, Sequence
from html import escape

import torch
from jaxtyping import UInt8
from torch import Tensor

from camtrain.records.images import data_uri, jpeg, to_pixels

SIDE = 160
CELL = "padding:2px 8px 2px 0;text-align:left;vertical-align:top"


def picture_table(
    images: UInt8[Tensor, "B 3 H W"],
    overlays: Mapping[str, UInt8[Tensor, "B 3 H W"]],
    captions: Sequence[str],
    *,
    most: int = 8,
) -> str:
    """Images, their overlays by method and a caption each as an HTML table; of many images the first `most`.

    >>> dark = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> picture_table(dark, {"grad_cam": dark}, ["boat 97 %"]).count("<img")
    2
    """
    heads = "".join(f'<th style="{CELL}">{escape(name)}</th>' for name in ("image", *overlays, ""))
    rows = [
        "".join(_image(one) for one in (images[row], *(batch[row] for batch in overlays.values())))
        + f'<td style="{CELL}">{escape(captions[row])}</td>'
        for row in range(min(most, len(images)))
    ]
    more = f"<p>and {len(images) - most} images more</p>" if len(images) > most else ""
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>{more}"


def _image(picture: Tensor) -> str:
    uri = data_uri(jpeg(to_pixels(picture.to(torch.uint8))))
    return f'<td style="{CELL}"><img src="{uri}" width="{SIDE}"></td>'
