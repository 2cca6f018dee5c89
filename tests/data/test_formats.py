"""Every row of the table in docs/data.md, on a small generated file whose object is known to the pixel."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools

from camtrain.data import CocoMasks, MaskedImageFolder
from camtrain.errors import DataError, MaskError
from tests.layout import ROOT

SIZE = (8, 12)
OBJECT = np.zeros(SIZE, np.uint8)
OBJECT[2:6, 3:9] = 1  # 24 pixels
RING = np.zeros(SIZE, np.uint8)
RING[1:7, 2:10] = 1
RING -= OBJECT  # 24 pixels
CORNERS = [3, 2, 9, 2, 9, 6, 3, 6]
# What label_studio_sdk 2.1.2's mask2rle makes of the object.
BRUSH = [0, 0, 1, 128, 57, 27, 254, 107, 0, 194, 255, 248, 92, 3, 11, 255, 225, 112, 12, 47, 255, 133, 192, 48, 191]
BRUSH += [254, 107, 0, 0]
REFUSED = (DataError, MaskError)

ROWS = {}


def row(name, inside=24, unknown=0, refused=None):
    """Register a builder; a row gives the pixels of the object, or the words of a refusal."""

    def register(builder):
        assert name not in ROWS
        ROWS[name] = (builder, inside, unknown, refused)
        return builder

    return register


def picture(path, size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (200, 100, 50)).save(path, **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def masks(root, values, suffix="png", image=None, **options):
    """Two class folders with a mask each, as `masks` reads them."""
    image = Image.fromarray(values) if image is None else image
    for name in ("cat", "dog"):
        picture(root / f"images/{name}/0.png")
        (root / f"masks/{name}").mkdir(parents=True)
        image.save(root / f"masks/{name}/0.{suffix}", **options)

    def read(**words):
        return MaskedImageFolder(root, "images", "masks", **words)

    return read


def large(values):
    """Sixteen times as large, so that a lossy file has flat parts."""
    return np.kron(values, np.ones((16, 16), values.dtype))


VOC = OBJECT * 15 + RING * 255
TRIMAP = np.where(OBJECT, 1, np.where(RING, 3, 2)).astype(np.uint8)
LABELS = (OBJECT * 8 + RING * 12).astype(np.uint8)


@row("0 and 255, 0 and 1, bilevel")
def _(root):
    return masks(root, OBJECT * np.uint8(255))()


@row("mask of any suffix: .gif, .tif, .bmp, .webp")
def _(root):
    return masks(root, OBJECT * np.uint8(255), "gif")()


@row("JPEG or resampled", inside=24 * 256)
def _(root):
    read = masks(root, large(OBJECT * np.uint8(255)), "jpg")
    for name in ("cat", "dog"):
        picture(root / f"images/{name}/0.png", (128, 192))
    return read()


@row("trimap of Oxford-IIIT Pet")
def _(root):
    return masks(root, TRIMAP)(mask_values=[1])


@row("trimap, border unknown", unknown=24)
def _(root):
    return masks(root, TRIMAP)(mask_values=[1], ignore_value=3)


@row("trimap, nothing said", refused=r"has the values 2 \(50%\), 1 \(25%\), 3 \(25%\)")
def _(root):
    return masks(root, TRIMAP)()


@row("PASCAL VOC palette PNG", unknown=24)
def _(root):
    image = Image.fromarray(VOC.astype(np.uint8), "L")
    image.putpalette([0, 0, 0] + [128, 64, 0] * 255)
    return masks(root, None, image=image)(ignore_value=255)


@row("PASCAL VOC palette PNG, nothing said", refused=r"255 \(25%\).*ignore_value: 255")
def _(root):
    return masks(root, VOC.astype(np.uint8))()


@row("label map of Cityscapes, ADE20K, by class")
def _(root):
    return masks(root, LABELS)(mask_values={"cat": 8, "dog": 12})


@row("label map, nothing said", refused=r"8 \(25%\).*mask_values: \{cat: 8, dog: 12\}")
def _(root):
    return masks(root, LABELS)()


@row("label map without background, nothing said", refused=r"no pixel is background \(0\)")
def _(root):
    return masks(root, np.where(OBJECT, 26, 7).astype(np.uint8))()


@row("label map in colors (CamVid)")
def _(root):
    return masks(root, np.stack([OBJECT * 128, RING * 64, OBJECT * 0], -1).astype(np.uint8))(mask_values="#800000")


@row("instance map, 8 or 16 bits", inside=48)
def _(root):
    return masks(root, OBJECT.astype(np.uint16) * 26001 + RING.astype(np.uint16) * 26002)(mask_from="instances")


@row("instance or panoptic map in colors", inside=48)
def _(root):
    return masks(root, np.stack([OBJECT * 7, RING * 9, OBJECT * 3], -1).astype(np.uint8))(mask_from="instances")


@row("cut-out, RGBA")
def _(root):
    colors = np.random.default_rng(0).integers(1, 255, (*SIZE, 3), dtype=np.uint8)
    return masks(root, np.dstack([colors, OBJECT * np.uint8(255)]))(mask_channel="alpha")


@row("cut-out, nothing said", refused="alpha channel that covers 25%.*mask_channel: alpha")
def _(root):
    colors = np.random.default_rng(0).integers(1, 255, (*SIZE, 3), dtype=np.uint8)
    return masks(root, np.dstack([colors, OBJECT * np.uint8(255)]))()


@row("mask in one channel")
def _(root):
    return masks(root, np.dstack([RING * 255, OBJECT * 255, RING * 0]).astype(np.uint8))(mask_channel="green")


@row("dark object on white", inside=24)
def _(root):
    return masks(root, (255 - OBJECT * 255).astype(np.uint8))(mask_values=[0])


@row("dark object on white, nothing said", refused=r"2 of 2 masks.*four corners.*mask_values: \[0\]")
def _(root):
    return masks(root, (255 - OBJECT * 255).astype(np.uint8))()


@row("ones everywhere", refused=r"255 \(100%\).*mask_values: \[255\]")
def _(root):
    return masks(root, np.full(SIZE, 255, np.uint8))()


@row("full of the object, and meant", inside=96)
def _(root):
    return masks(root, np.full(SIZE, 255, np.uint8))(mask_values=[255])


@row("16-bit mask")
def _(root):
    return masks(root, OBJECT.astype(np.uint16) * 65535)()


@row("float TIFF mask")
def _(root):
    return masks(root, OBJECT.astype(np.float32), "tif")()


@row("soft mask, 8 or 16 bits")
def _(root):
    return masks(root, OBJECT.astype(np.uint16) * 65535)(soft_masks=True)


VOTES = (OBJECT * 255 + RING * 102).astype(np.uint8)  # five people, all or two of them


@row("votes of CUB-200")
def _(root):
    dataset = masks(root, VOTES)(soft_masks=True)
    assert np.allclose(dataset[0]["mask"].unique(), [0, 0.4, 1])
    return dataset


@row("votes of CUB-200, those of most")
def _(root):
    return masks(root, VOTES)(mask_values=[153, 204, 255])


@row("votes of CUB-200, nothing said", refused=r"0 \(50%\), 102 \(25%\), 255 \(25%\).*soft_masks: true for degrees")
def _(root):
    return masks(root, VOTES)()


@row("JPEG of a label map or of 0 and 1, nothing said", refused=r"2 \(.*low as compression noise")
def _(root):
    return masks(root, large((OBJECT * 2 + RING).astype(np.uint8)), "jpg", quality=50)()


@row("attention map (SALICON)")
def _(root):
    return masks(root, (OBJECT * 90).astype(np.uint8))(mask_from="attention")


@row("masks beside images")
def _(root):
    for name in ("cat", "dog"):
        picture(root / name / "0.jpg")
        Image.fromarray(OBJECT * np.uint8(255)).save(root / name / "0_mask.png")
    return MaskedImageFolder(root, mask_suffix="_mask")


@row("several masks an image (BUSI)", inside=48)
def _(root):
    picture(root / "benign/benign (1).png")
    Image.fromarray(OBJECT * np.uint8(255)).save(root / "benign/benign (1)_mask.png")
    Image.fromarray(RING * np.uint8(255)).save(root / "benign/benign (1)_mask_1.png")
    return MaskedImageFolder(root, mask_suffix="_mask")


@row("masks among the images, nothing said", refused="looks like the mask.*mask_suffix")
def _(root):
    picture(root / "cat/ISIC_1.jpg")
    picture(root / "cat/ISIC_1_superpixels.png")
    return MaskedImageFolder(root)


@row("photograph with an EXIF orientation")
def _(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "images/cat/0.jpg", SIZE[::-1], exif=exif)
    (root / "masks/cat").mkdir(parents=True)
    Image.fromarray(OBJECT * np.uint8(255)).save(root / "masks/cat/0.png")
    return MaskedImageFolder(root, "images", "masks")


@row("radiograph of 12 bits in 16")
def _(root):
    read = masks(root, OBJECT * np.uint8(255))
    for name in ("cat", "dog"):
        ramp = np.linspace(0, 4095, 96).reshape(SIZE).astype(np.uint16)
        Image.fromarray(ramp).save(root / f"images/{name}/0.png")
    dataset = read(image_range=[0, 4095])
    assert dataset[0]["image"].unique().numel() == 96
    return dataset


@row("radiograph of 12 bits in 16, nothing said", refused=r"16 bits.*up to 4095.*image_range.*\[0, 4095\]")
def _(root):
    picture(root / "cat/0.png")
    Image.fromarray(np.linspace(0, 4095, 96).reshape(SIZE).astype(np.uint16)).save(root / "cat/0.png")
    return MaskedImageFolder(root)


@row("index with a column of masks")
def _(root):
    picture(root / "0.jpg")
    Image.fromarray(OBJECT * np.uint8(255)).save(root / "m.png")
    write(root / "index.csv", "file,label,mask\n0.jpg,cat,m.png\n")
    return MaskedImageFolder(root, index="index.csv")


@row("metadata.csv of WILDS", inside=0)
def _(root):
    for number in range(4):
        picture(root / f"{number}.jpg")
    rows = "".join(f"{n},{n}.jpg,{n % 2},{n // 2},{n // 2}\n" for n in range(4))
    write(root / "metadata.csv", f"img_id,img_filename,y,split,place\n{rows}")
    dataset = MaskedImageFolder(root, index="metadata.csv")
    assert dataset.group_names == ["y 0, place 0", "y 0, place 1", "y 1, place 0", "y 1, place 1"]
    return dataset


def coco(root, segmentation=None, **more):
    picture(root / "images/0.png")
    annotation = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [3, 2, 6, 4], "segmentation": segmentation, **more}
    content = {
        "images": [{"id": 5, "file_name": "0.png", "height": 8, "width": 12}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [annotation],
    }
    write(root / "instances.json", json.dumps(content))
    return MaskedImageFolder(root, "images", annotations="instances.json")


@row("COCO polygons")
def _(root):
    return coco(root, [CORNERS])


@row("COCO run lengths, compressed")
def _(root):
    return coco(root, {"size": [8, 12], "counts": rle_tools.encode(np.asfortranarray(OBJECT))["counts"].decode()})


@row("COCO run lengths, a list; crowds")
def _(root):
    counts = [26, 4, *[4, 4] * 5, 26]
    return coco(root, {"size": [8, 12], "counts": counts}, iscrowd=1)


@row("COCO run lengths that do not fill the image", refused=r"sum to 30.*96 pixels")
def _(root):
    return coco(root, {"size": [8, 12], "counts": [26, 4]})


@row("COCO boxes")
def _(root):
    return coco(root, [])


@row("COCO in shares of the image", refused="shares of the image.*Multiply")
def _(root):
    return coco(root, [], bbox=[0.25, 0.25, 0.5, 0.5])


@row("COCO boxes of corners", refused=r"\[6, 2, 12, 6\], reaches beyond.*subtract")
def _(root):
    return coco(root, [], bbox=[6, 2, 12, 6])


@row("COCO, a file for each split")
def _(root):
    for split in ("train", "valid"):
        coco(root / split, [CORNERS])
        (root / split / "instances.json").rename(root / split / "_annotations.coco.json")
    files = {"train": root / "train/_annotations.coco.json", "val": root / "valid/_annotations.coco.json"}
    folders = {"train": root / "train/images", "val": root / "valid/images"}
    dataset = CocoMasks(folders, files)
    assert [sample.split for sample in dataset.samples] == ["train", "val"]
    return dataset


def labelme(root, shape_type, points, **more):
    picture(root / "0.jpg")
    shape = {"label": "cat", "shape_type": shape_type, "points": points, "flags": {}, **more}
    content = {"version": "6.3.1", "shapes": [shape], "imagePath": "0.jpg", "imageHeight": 8, "imageWidth": 12}
    write(root / "0.json", json.dumps({**content, "imageData": None, "flags": {}}))
    return MaskedImageFolder(root, annotations=".")


@row("LabelMe polygons")
def _(root):
    return labelme(root, "polygon", np.reshape(CORNERS, (-1, 2)).tolist())


@row("LabelMe rectangles")
def _(root):
    return labelme(root, "rectangle", [[9, 6], [3, 2]])


@row("LabelMe circles", inside=12)
def _(root):
    return labelme(root, "circle", [[6, 4], [8, 4]])


@row("LabelMe masks")
def _(root):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(file, "PNG")
    return labelme(root, "mask", [[3, 2], [8, 5]], mask=base64.b64encode(file.getvalue()).decode())


def cvat(root, element):
    picture(root / "images/0.jpg")
    image = f'<image id="0" name="0.jpg" width="12" height="8">{element}</image>'
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>")
    return MaskedImageFolder(root, "images", annotations="annotations.xml")


@row("CVAT polygons")
def _(root):
    return cvat(root, '<polygon label="cat" points="3.0,2.0;9.0,2.0;9.0,6.0;3.0,6.0" z_order="0"/>')


@row("CVAT boxes, turned too")
def _(root):
    return cvat(root, '<box label="cat" xtl="4" ytl="1" xbr="8" ybr="7" rotation="90.0"/>')


@row("CVAT ellipses", inside=12)
def _(root):
    return cvat(root, '<ellipse label="cat" cx="6" cy="4" rx="2" ry="2"/>')


@row("CVAT masks")
def _(root):
    return cvat(root, '<mask label="cat" rle="0, 24" left="3" top="2" width="6" height="4"/>')


def label_studio(root, kind, value):
    picture(root / "images/0.jpg")
    result = {"type": kind, "value": {**value, kind: ["cat"]}, "original_width": 12, "original_height": 8}
    task = {"data": {"image": "/data/upload/1/0a1b2c3d-0.jpg"}, "annotations": [{"result": [result]}]}
    write(root / "export.json", json.dumps([task]))
    return MaskedImageFolder(root, "images", annotations="export.json")


@row("Label Studio polygons")
def _(root):
    return label_studio(root, "polygonlabels", {"points": [[25, 25], [75, 25], [75, 75], [25, 75]]})


@row("Label Studio rectangles, turned too")
def _(root):
    turned = {"x": 75, "y": 25, "width": 100 / 3, "height": 75, "rotation": 90}  # 4 x 6, around its corner
    return label_studio(root, "rectanglelabels", turned)


@row("Label Studio masks (bitmasks)")
def _(root):
    file = io.BytesIO()
    Image.fromarray(np.dstack([OBJECT * 0] * 3 + [OBJECT * 255])).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return label_studio(root, "bitmasklabels", {"imageDataURL": url})


@row("Label Studio, the image turned in the editor", refused="turned by 90 degrees in the editor.*export again")
def _(root):
    label_studio(root, "polygonlabels", {"points": [[25, 25], [75, 25], [75, 75], [25, 75]]})
    export = root / "export.json"
    write(export, export.read_text().replace('"type"', '"image_rotation": 90, "type"'))
    return MaskedImageFolder(root, "images", annotations="export.json")


@row("Label Studio brushes")
def _(root):
    return label_studio(root, "brushlabels", {"format": "rle", "rle": BRUSH})


def yolo(root, text):
    for split in ("train", "val"):
        picture(root / f"images/{split}/0.jpg")
        write(root / f"labels/{split}/0.txt", text)
    write(root / "data.yaml", "path: ../somewhere\ntrain: images/train\nval: images/val\nnames: {0: dog, 1: cat}\n")
    dataset = MaskedImageFolder(root, annotations="data.yaml")
    assert [sample.split for sample in dataset.samples] == ["train", "val"]
    assert dataset.class_names == ["dog", "cat"]
    return dataset


@row("YOLO boxes")
def _(root):
    return yolo(root, "1 0.5 0.5 0.5 0.5\n")


@row("YOLO boxes of corners", refused="center, width and height; .*reaches beyond the image")
def _(root):
    return yolo(root, "1 0.25 0.25 0.75 0.75\n")


@row("YOLO polygons")
def _(root):
    return yolo(root, "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")


def voc(root, corners, folder=""):
    tags = "".join(
        f"<{name}>{value}</{name}>" for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    item = f"<object><name>cat</name><bndbox>{tags}</bndbox></object>"
    size = "<size><width>12</width><height>8</height><depth>3</depth></size>"
    write(root / f"Annotations/{folder}0.xml", f"<annotation><filename>0.jpg</filename>{size}{item}</annotation>")


@row("VOC XML, corners inclusive from 1")
def _(root):
    picture(root / "JPEGImages/0.jpg")
    voc(root, (4, 3, 9, 6))
    return MaskedImageFolder(root, "JPEGImages", annotations="Annotations")


@row("VOC XML with a corner 0")
def _(root):
    picture(root / "JPEGImages/0.jpg")
    voc(root, (0, 3, 5, 6))
    return MaskedImageFolder(root, "JPEGImages", annotations="Annotations")


@row("boxes of ImageNet")
def _(root):
    picture(root / "Data/cat/0.jpg")
    voc(root, (4, 3, 9, 6), "cat/")
    return MaskedImageFolder(root, "Data", annotations="Annotations")


@row("boxes of ImageNet, Kaggle's table")
def _(root):
    return table(root, "ImageId,PredictionString\n0,n02123045 3 2 8 5 \n1,n02123045 3 2 8 5 n02123045 0 0 3 3\n")


def table(root, text, size=SIZE, **words):
    picture(root / "images/0.png", size)
    picture(root / "images/1.png", size)
    write(root / "train.csv", text)
    return MaskedImageFolder(root, "images", annotations="train.csv", **words)


@row("run lengths from 1 (Airbus)")
def _(root):
    runs = " ".join(f"{8 * column + 3} 4" for column in range(3, 9))
    return table(root, f"ImageId,EncodedPixels\n0.png,{runs}\n1.png,\n", run_order="columns")


@row("run lengths from the run before (SIIM)")
def _(root):
    return table(root, f"ImageId,EncodedPixels\n0,26 4 {'4 4 ' * 5}\n1,-1\n", run_order="columns")


@row("run lengths along the rows (Carvana)")
def _(root):
    runs = " ".join(f"{12 * line + 4} 6" for line in range(2, 6))
    return table(root, f"img,rle_mask\n0.png,{runs}\n1.png,\n", run_order="rows")


@row("run lengths, nothing said, images not square", inside=24 * 256)
def _(root):
    runs = " ".join(f"{128 * column + 33} 64" for column in range(48, 144))
    return table(root, f"ImageId,EncodedPixels\n0.png,{runs}\n1.png,\n", (128, 192))


@row("run lengths, nothing said, images square", refused=r"images are square.*run_order: columns .*run_order: rows")
def _(root):
    return table(root, "ImageId,EncodedPixels\n0.png,10 4 18 4\n1.png,\n", (8, 8))


@row("boxes by their corners")
def _(root):
    return table(root, "file,xmin,ymin,xmax,ymax,class\n0.png,3,2,9,6,cat\n1.png,,,,,cat\n0.png,3,2,4,3,cat\n")


@row("gaze or clicks, x and y", inside=4)
def _(root):
    for name in ("0", "1"):
        picture(root / f"images/cat/{name}.png")
    write(root / "gaze.csv", "image,x,y,duration\n0.png,6,4,200\n0.png,-5,900,10\n")
    return MaskedImageFolder(root, "images", annotations="gaze.csv")


@row("x, y, width, height", refused="may be boxes or gaze.*save boxes by their corners")
def _(root):
    return table(root, "image,x,y,width,height\n0.png,3,2,6,4\n")


@pytest.mark.parametrize("name", ROWS)
def test_formats__count_the_object_as_the_table_says(tmp_path, name):
    build, inside, unknown, refused = ROWS[name]
    if refused is not None:
        with pytest.raises(REFUSED, match=refused) as caught:
            build(tmp_path)
        assert str(tmp_path) in str(caught.value)
        return
    item = build(tmp_path)[0]
    assert int((item["mask"] == 1).sum()) == inside
    assert int((item["mask"] == -1).sum()) in ({unknown} if inside else {OBJECT.size})
    assert item["image"].shape[1:] == item["mask"].shape


def test_formats__are_the_rows_of_the_documentation():
    lines = (ROOT / "docs/data.md").read_text().splitlines()
    named = [match.group(1) for line in lines if (match := re.match(r"\| ([^|]+?) \|", line))]
    assert [name for name in named if name not in ("format", "---")] == list(ROWS)


def test_mask_values__of_a_class_are_in_its_masks(tmp_path):
    with pytest.raises(MaskError, match=r"\(13,\) are in none of 1 masks of dog"):
        masks(tmp_path, LABELS)(mask_values={"cat": 8, "dog": 13})


def test_formats__with_two_images_of_one_id_are_refused(tmp_path):
    coco(tmp_path, [CORNERS])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["images"] *= 2
    write(tmp_path / "instances.json", json.dumps(content))
    with pytest.raises(DataError, match=r"instances\.json gives several images the id 5"):
        MaskedImageFolder(tmp_path, "images", annotations="instances.json")
