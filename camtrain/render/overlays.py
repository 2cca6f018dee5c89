"""Network inputs back to pictures, heatmaps and masks drawn over them, and a sheet of masks' outlines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from camtrain.cam import is_empty, normalize, resize
from camtrain.render.sheets import INK, MARGIN, MUTED, PAPER

LINE, HALO, FOG = (255, 214, 10), (20, 20, 20), (64, 160, 255)
COLUMNS, GAP, TEXT = 6, 12, 32


def overlay(
    images: Shaped[Tensor, "B C H W"],
    heatmaps: Float[Tensor, "B h w"],
    *,
    alpha: float = 0.4,
    colormap: str = "turbo",
) -> UInt8[Tensor, "B 3 H W"]:
    """Heatmaps blended over images: `alpha` of the heat's color, the rest of the image.

    Raw heatmaps of any size are resized to the image and rescaled to [0, 1], each by its own range. The images
    may be uint8 or floats (see `to_uint8`). An empty heatmap leaves its image plain within a hatched gray frame.

    >>> overlay(torch.zeros(1, 3, 8, 8), torch.eye(2).unsqueeze(0)).shape
    torch.Size([1, 3, 8, 8])
    """
    pixels = to_uint8(images)
    heat = normalize(resize(heatmaps.float(), pixels.shape[-2:]))
    blended = quantize((1 - alpha) * pixels + alpha * colorize(heat, colormap))
    return torch.where(is_empty(heatmaps).view(-1, 1, 1, 1), hatched_frame(pixels), blended)


def draw_contours(
    images: UInt8[Tensor, "B 3 H W"],
    masks: Shaped[Tensor, "B H W"],
    *,
    color: tuple[int, int, int] = (255, 255, 255),
    width: int = 1,
) -> UInt8[Tensor, "B 3 H W"]:
    """The outline of each mask (where it is at least one half): `width` pixels of color, as many of black around.

    The outline lies outside the object, which stays in sight. An empty mask, or one of an image without an
    annotation (-1), draws nothing.

    >>> mask = torch.zeros(1, 5, 5)
    >>> mask[0, 2, 2] = 1
    >>> draw_contours(torch.zeros(1, 3, 5, 5, dtype=torch.uint8), mask)[0, 0, 1].tolist()
    [0, 255, 255, 255, 0]
    """
    inside = masks >= 0.5 if masks.is_floating_point() else masks > 0
    line = _grow(inside, width)
    halo = _grow(line, width)
    shade = (halo & ~line).unsqueeze(1)
    paint = torch.tensor(color, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
    return torch.where((line & ~inside).unsqueeze(1), paint, torch.where(shade, images // 3, images))


def hatched_frame(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """The images within a frame of gray diagonal stripes, the sign of an empty heatmap.

    >>> hatched_frame(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[0, 0, 16, 16].item()
    0
    """
    height, width = images.shape[-2:]
    thickness = max(1, min(height, width) // 16)
    rows = torch.arange(height, device=images.device).view(-1, 1)
    columns = torch.arange(width, device=images.device).view(1, -1)
    edge = torch.minimum(torch.minimum(rows, height - 1 - rows), torch.minimum(columns, width - 1 - columns))
    stripes = torch.where((rows + columns) // thickness % 2 == 0, 96, 176).to(torch.uint8)
    return torch.where(edge < thickness, stripes, images)


def _grow(masks: Bool[Tensor, "B H W"], pixels: int) -> Bool[Tensor, "B H W"]:
    return F.max_pool2d(masks.float(), 2 * pixels + 1, stride=1, padding=pixels) > 0


def to_uint8(
    images: Shaped[Tensor, "B C H W"],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> UInt8[Tensor, "B 3 H W"]:
    """Images as uint8 RGB, on their device.

    uint8 stays as it is. `mean` and `std` (per channel, in [0, 1] units) undo a normalization. Other floats are
    taken as they are where the whole batch lies in [0, 1], and stretched from the batch's minimum and maximum to
    the full range where it does not; values that are not finite become black. One channel is shown as gray,
    any number but 1 and 3 as the gray of their average.

    >>> to_uint8(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).shape
    torch.Size([1, 3, 1, 2])
    >>> to_uint8(torch.tensor([-2.0, 2.0]).view(1, 1, 1, 2))[0, 0].tolist()
    [[0, 255]]
    """
    if images.dtype == torch.uint8:
        return _rgb(images)
    floats = images.detach().float()
    if mean is not None and std is not None:
        floats = floats * _per_channel(std, floats) + _per_channel(mean, floats)
    elif not _in_unit_range(floats):
        floats = _stretch(floats)
    return quantize(_rgb(floats) * 255)


def quantize(values: Tensor) -> UInt8[Tensor, "..."]:
    """Floats in [0, 255] rounded to uint8; clamped first, so that nothing wraps around; NaN becomes 0.

    >>> quantize(torch.tensor([-3.0, 254.6, 300.0]))
    tensor([  0, 255, 255], dtype=torch.uint8)
    """
    return values.nan_to_num(0.0).clamp(0, 255).round().to(torch.uint8)


def _rgb(images: Tensor) -> Tensor:
    channels = images.shape[1]
    if channels == 3:
        return images
    gray = images if channels == 1 else images.float().mean(dim=1, keepdim=True).to(images.dtype)
    return gray.expand(-1, 3, -1, -1)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def _in_unit_range(images: Tensor, tolerance: float = 1e-3) -> bool:
    finite = images[torch.isfinite(images)]
    return not finite.numel() or bool((finite.min() >= -tolerance) & (finite.max() <= 1 + tolerance))


def _stretch(images: Tensor) -> Tensor:
    finite = images[torch.isfinite(images)]
    return (images - finite.min()) / (finite.max() - finite.min()).clamp_min(torch.finfo(images.dtype).eps)


# 256 RGB colors each, from cold to hot, in hexadecimal: turbo (Mikhailov, Google AI 2019) and viridis (CC0).
_TABLES = {
    "turbo": (
        "30123b32154333184a341b51351e5836215f37246638276d392a733a2d793b2f803c32863d358b3e38913f3b973f3e9c"
        "4040a24143a74146ac4249b1424bb5434eba4451bf4454c34456c74559cb455ccf455ed34661d64664da4666dd4669e0"
        "466be3476ee64771e94773eb4776ee4778f0477bf2467df44680f64682f84685fa4687fb458afc458cfd448ffe4391fe"
        "4294ff4196ff4099ff3e9bfe3d9efe3ba0fd3aa3fc38a5fb37a8fa35abf833adf731aff52fb2f42eb4f22cb7f02ab9ee"
        "28bceb27bee925c0e723c3e422c5e220c7df1fc9dd1ecbda1ccdd81bd0d51ad2d21ad4d019d5cd18d7ca18d9c818dbc5"
        "18ddc218dec018e0bd19e2bb19e3b91ae4b61ce6b41de7b21fe9af20eaac22ebaa25eca727eea42aefa12cf09e2ff19b"
        "32f29835f39438f4913cf58e3ff68a43f78746f8844af8804ef97d52fa7a55fa7659fb735dfc6f61fc6c65fd6969fd66"
        "6dfe6271fe5f75fe5c79fe597dff5680ff5384ff5188ff4e8bff4b8fff4992ff4796fe4499fe429cfe409ffd3fa1fd3d"
        "a4fc3ca7fc3aa9fb39acfb38affa37b1f936b4f836b7f735b9f635bcf534bef434c1f334c3f134c6f034c8ef34cbed34"
        "cdec34d0ea34d2e935d4e735d7e535d9e436dbe236dde037dfdf37e1dd37e3db38e5d938e7d739e9d539ebd339ecd13a"
        "eecf3aefcd3af1cb3af2c93af4c73af5c53af6c33af7c13af8be39f9bc39faba39fbb838fbb637fcb336fcb136fdae35"
        "fdac34fea933fea732fea431fea130fe9e2ffe9b2dfe992cfe962bfe932afe9029fd8d27fd8a26fc8725fc8423fb8122"
        "fb7e21fa7b1ff9781ef9751df8721cf76f1af66c19f56918f46617f36315f26014f15d13f05b12ef5811ed5510ec530f"
        "eb500eea4e0de84b0ce7490ce5470be4450ae2430ae14109df3f08dd3d08dc3b07da3907d83706d63506d43305d23105"
        "d02f05ce2d04cc2b04ca2a04c82803c52603c32503c12302be2102bc2002b91e02b71d02b41b01b21a01af1801ac1701"
        "a91601a71401a41301a112019e10019b0f01980e01950d01920b018e0a018b09028808028507028106027e05027a0403"
    ),
    "viridis": (
        "44015444025645045745055946075a46085c460a5d460b5e470d60470e61471063471164471365481467481668481769"
        "48186a481a6c481b6d481c6e481d6f481f70482071482173482374482475482576482677482878482979472a7a472c7a"
        "472d7b472e7c472f7d46307e46327e46337f463480453581453781453882443983443a83443b84433d84433e85423f85"
        "4240864241864142874144874045884046883f47883f48893e49893e4a893e4c8a3d4d8a3d4e8a3c4f8a3c508b3b518b"
        "3b528b3a538b3a548c39558c39568c38588c38598c375a8c375b8d365c8d365d8d355e8d355f8d34608d34618d33628d"
        "33638d32648e32658e31668e31678e31688e30698e306a8e2f6b8e2f6c8e2e6d8e2e6e8e2e6f8e2d708e2d718e2c718e"
        "2c728e2c738e2b748e2b758e2a768e2a778e2a788e29798e297a8e297b8e287c8e287d8e277e8e277f8e27808e26818e"
        "26828e26828e25838e25848e25858e24868e24878e23888e23898e238a8d228b8d228c8d228d8d218e8d218f8d21908d"
        "21918c20928c20928c20938c1f948c1f958b1f968b1f978b1f988b1f998a1f9a8a1e9b8a1e9c891e9d891f9e891f9f88"
        "1fa0881fa1881fa1871fa28720a38620a48621a58521a68522a78522a88423a98324aa8325ab8225ac8226ad8127ad81"
        "28ae8029af7f2ab07f2cb17e2db27d2eb37c2fb47c31b57b32b67a34b67935b77937b87838b9773aba763bbb753dbc74"
        "3fbc7340bd7242be7144bf7046c06f48c16e4ac16d4cc26c4ec36b50c46a52c56954c56856c66758c7655ac8645cc863"
        "5ec96260ca6063cb5f65cb5e67cc5c69cd5b6ccd5a6ece5870cf5773d05675d05477d1537ad1517cd2507fd34e81d34d"
        "84d44b86d54989d5488bd6468ed64590d74393d74195d84098d83e9bd93c9dd93ba0da39a2da37a5db36a8db34aadc32"
        "addc30b0dd2fb2dd2db5de2bb8de29bade28bddf26c0df25c2df23c5e021c8e020cae11fcde11dd0e11cd2e21bd5e21a"
        "d8e219dae319dde318dfe318e2e418e5e419e7e419eae51aece51befe51cf1e51df4e61ef6e620f8e621fbe723fde725"
    ),
}


def color_table(name: str = "turbo") -> UInt8[Tensor, "256 3"]:
    """The 256 RGB colors of a colormap, coldest first; `ValueError` names the known ones.

    >>> color_table("turbo")[0].tolist()
    [48, 18, 59]
    """
    if name not in _TABLES:
        raise ValueError(f"No colormap named {name!r}; known: {', '.join(sorted(_TABLES))}.")
    return torch.frombuffer(bytearray.fromhex(_TABLES[name]), dtype=torch.uint8).view(256, 3)


def colorize(heat: Float[Tensor, "B H W"], colormap: str = "turbo") -> Float[Tensor, "B 3 H W"]:
    """The color of each heat value in [0, 1], as floats in [0, 255]; values beyond are clamped, NaN is cold.

    >>> colorize(torch.tensor([[[0.0, 1.0]]]))[0, :, 0, 1].tolist()
    [122.0, 4.0, 3.0]
    """
    colors = color_table(colormap).to(heat.device, torch.float32)
    index = heat.nan_to_num(0.0).clamp(0, 1).mul(255).round().long()
    return colors[index].permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Outlined:
    """A picture, its mask (None for none), and two lines: which it is, and what to look at."""

    image: UInt8[Tensor, "3 H W"]
    mask: Float[Tensor, "H W"] | None
    name: str
    remark: str = ""


def outline_sheet(title: str, pictures: Sequence[Outlined], *, side: int = 176) -> Image.Image:
    """Pictures in rows of six: the object's outline in yellow, unknown pixels in blue, all else as it is.

    >>> import torch
    >>> picture = Outlined(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.eye(8), "a.jpg", "empty")
    >>> outline_sheet("masks", [picture], side=32).size[0] > 32
    True
    """
    rows = -(-len(pictures) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * (side + GAP) - GAP
    page = Image.new("RGB", (width, 2 * MARGIN + 24 + rows * (side + TEXT + GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), title, INK, ImageFont.load_default(14))
    for number, picture in enumerate(pictures):
        left = MARGIN + number % COLUMNS * (side + GAP)
        top = MARGIN + 24 + number // COLUMNS * (side + TEXT + GAP)
        tile = outlined(picture, side)
        page.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
        for row, (text, color) in enumerate(((picture.name, INK), (picture.remark, MUTED))):
            font = ImageFont.load_default(11)
            draw.text((left, top + side + 2 + 14 * row), _cut(draw, text, font, side), color, font)
    return page


def outlined(picture: Outlined, side: int) -> Image.Image:
    """A picture fitted into a square, with the outline of its mask."""
    image = Image.fromarray(np.ascontiguousarray(picture.image.permute(1, 2, 0).numpy()))
    scale = side / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    if picture.mask is None:
        return image
    pixels = np.array(image)
    kinds = np.where(picture.mask.numpy() < 0, 1, np.where(picture.mask.numpy() >= 0.5, 2, 0)).astype(np.uint8)
    kinds = np.array(Image.fromarray(kinds).resize(size, Image.Resampling.NEAREST))
    pixels[kinds == 1] = (0.4 * pixels[kinds == 1] + 0.6 * np.array(FOG)).astype(np.uint8)
    inside = kinds == 2
    line = inside & ~_eroded(_eroded(inside))
    if inside.all():  # the frame itself
        line = ~np.pad(np.ones((max(size[1] - 4, 0), max(size[0] - 4, 0)), bool), 2)[: size[1], : size[0]]
    halo = _dilated(inside) & ~inside
    pixels[halo], pixels[line] = HALO, LINE
    return Image.fromarray(pixels)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without its rim; the frame of the picture is no rim."""
    padded = np.pad(mask, 1, mode="edge")
    return np.asarray(padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1] & mask)


def _dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(~_eroded(~mask))


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too long: of a path, the file."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"…{text}", font) > width:
        text = text[1:]
    return f"…{text}"


def sheet_of(
    images: Float[Tensor, "N C H W"],
    masks: Float[Tensor, "N H W"],
    names: Sequence[str],
    *,
    title: str = "masks that were made",
    denormalize: Callable[[Tensor], Any] | None = None,
) -> Image.Image:
    """`outline_sheet` of a batch as the model takes it, each with its mask's share of the frame below it.

    >>> import torch
    >>> sheet_of(torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8), ["boat", "car"]).size[0] > 32
    True
    """
    pixels = to_uint8(images if denormalize is None else denormalize(images))
    shares = masks.clamp(min=0).flatten(1).mean(dim=1).tolist()
    return outline_sheet(
        title,
        [
            Outlined(image, mask, name, f"{share:.0%} of the frame" if bool((mask >= 0).any()) else "left out")
            for image, mask, name, share in zip(pixels, masks, names, shares, strict=True)
        ],
    )
