import re

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.data.folders import union
from camtrain.data.masks import mask_facts, mask_rule, read_mask, read_mask_array
from camtrain.errors import ConfigurationError, DataError, MaskError

SIZE = (40, 60)
OBJECT = np.zeros(SIZE, bool)
OBJECT[10:30, 15:45] = True  # 600 pixels
RING = np.zeros(SIZE, bool)
RING[8:32, 13:47] = True
RING &= ~OBJECT  # 216 pixels


def save(path, values, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def with_palette(path, values, palette):
    image = Image.fromarray(values.astype(np.uint8), "L")
    image.putpalette(palette)  # an L image with a palette is of mode P
    image.save(path)
    return path


def inside(path, **words):
    """Pixels of the object, of the rest and unknown."""
    mask = read_mask(path, mask_rule(**words), "cat")
    return [int((mask == value).sum()) for value in (1, 0, -1)]


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (OBJECT, None),
        (OBJECT.astype(np.uint8), None),
        (OBJECT.astype(np.uint8) * 255, None),
        (OBJECT.astype(np.uint8) * 7, None),
        (OBJECT.astype(np.uint16) * 65535, None),
        (np.stack([OBJECT * 0, OBJECT * 200, OBJECT * 0], -1).astype(np.uint8), None),
        (np.stack([OBJECT * 255] * 3, -1).astype(np.uint8), None),
        (np.stack([*[OBJECT * 255] * 3, OBJECT * 0 + 255], -1).astype(np.uint8), None),
        (np.stack([*[OBJECT * 255] * 3, OBJECT * 255], -1).astype(np.uint8), None),
        (np.stack([OBJECT * 255, OBJECT * 0 + 255], -1).astype(np.uint8), None),
    ],
    ids=["bilevel", "1", "255", "7", "16 bit", "color", "gray as color", "alpha", "alpha agrees", "gray with alpha"],
)
def test_read_mask__of_two_values_is_the_one_that_is_not_0(tmp_path, values, mode):
    mask = read_mask(save(tmp_path / "m.png", values, mode))
    assert torch.equal(mask, torch.from_numpy(OBJECT).float())


@pytest.mark.parametrize("suffix", ["tif", "bmp", "gif", "webp", "pgm"])
def test_read_mask__of_any_lossless_format(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    assert inside(save(tmp_path / f"m.{suffix}", OBJECT.astype(np.uint8) * 255, **options)) == [600, 1800, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.where(OBJECT, 1, np.where(RING, 3, 2)), ["2 (66%)", "1 (25%)", "3 (9%)", "mask_values: [1]"]),
        (np.where(OBJECT, 15, np.where(RING, 255, 0)), ["0 (66%)", "15 (25%)", "255 (9%)", "ignore_value: 255"]),
        (np.where(OBJECT, 26, 7), ["7 (75%)", "26 (25%)", "no pixel is background (0)"]),
        (np.full(SIZE, 255), ["255 (100%)", "mask_values: [255]"]),
        (np.where(OBJECT, 255, np.where(RING, 128, 0)), ["0 (66%)", "255 (25%)", "128 (9%)"]),
        (np.add.outer(np.arange(40), np.arange(60)) * 2, ["and 93 more"]),
        (np.random.default_rng(0).integers(0, 256, SIZE), ["more"]),
    ],
    ids=["trimap", "VOC", "label map", "ones", "matting trimap", "depth", "photograph"],
)
def test_read_mask__refuses_other_values_with_their_shares(tmp_path, values, words):
    path = save(tmp_path / "m.png", values.astype(np.uint8))
    with pytest.raises(MaskError, match=r"m\.png has the values") as caught:
        read_mask(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        ({"mask_values": [15]}, [600, 1800, 0]),
        ({"ignore_value": 255}, [600, 1584, 216]),
        ({"mask_values": 15, "ignore_value": [255]}, [600, 1584, 216]),
        ({"mask_values": {"cat": [15], "dog": 3}, "ignore_value": 255}, [600, 1584, 216]),
        ({"mask_values": {"cat": 3, "dog": 15}}, [0, 2400, 0]),
        ({"mask_values": [0]}, [1584, 816, 0]),
        ({"mask_from": "instances"}, [816, 1584, 0]),
    ],
)
def test_read_mask__takes_values_at_their_word(tmp_path, words, counts):
    path = save(tmp_path / "m.png", np.where(OBJECT, 15, np.where(RING, 255, 0)).astype(np.uint8))
    assert inside(path, **words) == counts


def test_read_mask__full_of_the_object_is_right_where_its_value_is_named(tmp_path):
    assert inside(save(tmp_path / "m.png", np.full(SIZE, 255, np.uint8)), mask_values=255) == [2400, 0, 0]


def test_read_mask__of_a_palette_reads_indices(tmp_path):
    voc = with_palette(tmp_path / "m.png", OBJECT * 2, [0, 0, 0, 128, 0, 0, 0, 128, 0])
    assert inside(voc) == [600, 1800, 0]
    inverted = with_palette(tmp_path / "i.png", OBJECT * 1, [255, 255, 255, 0, 0, 0])
    with pytest.raises(MaskError, match=r"background, index 0, lighter than the object.*mask_values: \[1\]"):
        read_mask(inverted)
    assert inside(inverted, mask_values=0) == [1800, 600, 0]


def test_read_mask__of_colors_takes_them_by_name(tmp_path):
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[OBJECT], colors[RING] = (128, 0, 0), (224, 224, 192)
    path = save(tmp_path / "m.png", colors)
    with pytest.raises(MaskError, match=r'#000000 \(66%\), #800000 \(25%\), #e0e0c0 \(9%\).*ignore_value: "#e0e0c0"'):
        read_mask(path)
    assert inside(path, mask_values=["#800000"], ignore_value="#E0E0C0") == [600, 1584, 216]
    gray = save(tmp_path / "g.png", np.where(OBJECT, 128, np.where(RING, 64, 0)).astype(np.uint8))
    assert inside(gray, mask_values="#808080") == [600, 1800, 0]


def cut_out(path):
    rng = np.random.default_rng(0)
    pixels = np.dstack([rng.integers(1, 255, (*SIZE, 3), dtype=np.uint8), (OBJECT * 255).astype(np.uint8)])
    return save(path, pixels)


def test_read_mask__of_a_cut_out_is_told_which_channel(tmp_path):
    path = cut_out(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"alpha channel that covers 25%.*colors that cover 100%.*mask_channel: alpha"):
        read_mask(path)
    assert inside(path, mask_channel="alpha") == [600, 1800, 0]
    with pytest.raises(MaskError, match="no alpha channel"):
        read_mask(save(tmp_path / "n.png", OBJECT), mask_rule(mask_channel="alpha"))
    red = save(tmp_path / "r.png", np.dstack([OBJECT * 255, RING * 255, OBJECT * 0]).astype(np.uint8))
    assert inside(red, mask_channel="green") == [216, 2184, 0]


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_read_mask__of_a_jpeg_is_cut_at_half(tmp_path, quality):
    path = save(tmp_path / "m.jpg", (OBJECT * 255).astype(np.uint8), quality=quality)
    assert len(np.unique(np.array(Image.open(path)))) > 2
    mask, cut = read_mask_array(path, mask_rule())
    assert cut
    assert abs(mask.sum() - 600) <= 6
    assert ((mask == 1) != OBJECT).sum() <= 6


@pytest.mark.parametrize("method", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("side", [(17, 23), (97, 131)])
def test_read_mask__that_was_resampled_is_cut_at_half(tmp_path, method, side):
    disc = (np.add.outer((np.arange(200) - 99.5) ** 2, (np.arange(300) - 149.5) ** 2) < 70**2) * np.uint8(255)
    Image.fromarray(disc).resize(side[::-1], method).save(tmp_path / "m.png")
    mask, cut = read_mask_array(tmp_path / "m.png", mask_rule())
    assert cut
    assert mask.mean() == pytest.approx((disc > 0).mean(), abs=0.01)


@pytest.mark.parametrize(
    "values",
    [
        np.where(OBJECT, 15, np.where(RING, 255, 0)),
        np.where(OBJECT, 1, np.where(RING, 3, 2)),
        np.where(OBJECT, 128, np.where(RING, 255, 0)),
        np.add.outer(np.arange(40), np.arange(60)) * 2,
    ],
    ids=["VOC", "trimap", "three levels", "ramp"],
)
def test_read_mask__of_kinds_in_a_lossy_format_is_refused(tmp_path, values):
    with pytest.raises(MaskError, match="lossy format has changed its values; save masks as PNG"):
        read_mask(save(tmp_path / "m.jpg", values.astype(np.uint8), quality=90))


def test_read_mask__of_colors_in_a_lossy_format_is_refused(tmp_path):
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[OBJECT], colors[RING] = (255, 0, 0), (0, 255, 0)
    with pytest.raises(MaskError, match="several colors in a lossy format"):
        read_mask(save(tmp_path / "m.jpg", colors, quality=90))


@pytest.mark.parametrize(
    ("values", "full"),
    [
        (np.linspace(0, 255, 2400).reshape(SIZE).astype(np.uint8), 255),
        (np.linspace(0, 65535, 2400).reshape(SIZE).astype(np.uint16), 65535),
        (np.linspace(0, 1, 2400).reshape(SIZE).astype(np.float32), 1),
    ],
    ids=["8 bit", "16 bit", "float"],
)
def test_read_mask__soft_is_scaled_by_the_files_bits(tmp_path, values, full):
    mask = read_mask(save(tmp_path / ("m.tif" if full == 1 else "m.png"), values), mask_rule(soft_masks=True))
    assert torch.allclose(mask, torch.from_numpy(values.astype(np.float32) / full))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (OBJECT.astype(np.uint8), "uses the range of its bits, 0 to 255"),
        (np.linspace(0, 4095, 2400).reshape(SIZE).astype(np.uint16), "uses the range of its bits, 0 to 65535"),
        (np.dstack([OBJECT * 255, RING * 255, OBJECT * 0]).astype(np.uint8), "a soft mask is gray"),
    ],
    ids=["0 and 1", "12 bits in 16", "a heatmap in colors"],
)
def test_read_mask__soft_refuses_what_is_no_degree(tmp_path, values, message):
    with pytest.raises(MaskError, match=message):
        read_mask(save(tmp_path / "m.png", values), mask_rule(soft_masks=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mask_values": [1], "soft_masks": True}, "leave out mask_values"),
        ({"mask_values": [1], "mask_from": "instances"}, "leave out mask_values"),
        ({"mask_from": "colors"}, "values, instances, attention; got 'colors'"),
        ({"mask_channel": "matte"}, "alpha, color, red, green, blue; got 'matte'"),
        ({"mask_values": ["red"]}, "as \"#rrggbb\"; got 'red'"),
        ({"mask_values": []}, "empty list"),
        ({"ignore_value": "void"}, "got 'void'"),
    ],
)
def test_mask_rule__refuses_words_that_mean_nothing(words, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        mask_rule(**words)


def test_mask_facts__say_cover_unknown_and_border():
    mask = np.where(OBJECT, 1, np.where(RING, -1, 0)).astype(np.float32)
    facts = mask_facts(mask)
    assert (facts.covered, facts.unknown, facts.touches) == (0.25, 0.09, False)
    assert mask_facts(mask[10:]).touches


def test_union__is_commutative_and_keeps_the_unknown():
    values = np.float32([-1, 0, 1])
    table = union(*np.meshgrid(values, values))
    assert np.array_equal(table, table.T)
    assert table.tolist() == [[-1, -1, 1], [-1, 0, 1], [1, 1, 1]]


def test_read_mask__names_a_file_that_is_no_image(tmp_path):
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"m\.png cannot be read"):
        read_mask(tmp_path / "m.png")
