"""Images with COCO annotations as a classification dataset with masks."""

import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camtrain.data.files import Sample, image_size, require_folder
from camtrain.data.folders import SampleDataset
from camtrain.data.subsets import annotated_subset
from camtrain.data.transforms import JointTransform
from camtrain.errors import DataError, MaskError

Record = Mapping[str, Any]


class CocoMasks(SampleDataset):
    """Images labeled with their largest category, and a mask of all its objects.

    The file is standard COCO: `images` (`id`, `file_name`, `height`, `width`), `categories` (`id`, `name`) and
    `annotations` (`image_id`, `category_id`, and `segmentation` as polygons or run lengths, or only a `bbox`). The
    label of an image is the category that covers most of it, after `area` where it is given; its mask is the union
    of that category's annotations. Images without any are left out.

    Args:
        images_dir: folder of the images.
        annotation_file: the JSON file.
        categories: names to use, in the order of the labels; None for all that the file lists.
        boxes: use the boxes even where there are polygons or run lengths.
        transform: joint `(image, mask) -> (image, mask)`, see `camtrain.data.transforms`.
        mask_fraction: share of images that keep their mask.
        verify: "decode" reads every image once at construction, "headers" only sizes, "none" nothing.
        skip_corrupt: leave corrupt images out, with a warning, instead of raising.

    Raises:
        DataError: a missing folder, file or image; a file that is not COCO; an unknown category; a corrupt image.
        MaskError: an image of another size than the file says.
    """

    def __init__(
        self,
        images_dir: str | Path,
        annotation_file: str | Path,
        categories: Sequence[str] | None = None,
        boxes: bool = False,
        transform: JointTransform | None = None,
        mask_fraction: float = 1.0,
        verify: str = "decode",
        skip_corrupt: bool = False,
    ) -> None:
        folder = require_folder(Path(images_dir), "images")
        path = Path(annotation_file)
        content = read_coco(path)
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        chosen = _chosen_categories(names, categories, path)
        self.records = {str(record["id"]): record for record in content["images"]}
        self.annotations = largest_categories(content, set(chosen), path)
        self.boxes = boxes
        labels = {category: label for label, category in enumerate(chosen)}
        samples = [
            Sample(folder / self.records[key]["file_name"], labels[found[0]["category_id"]], id=key)
            for key, found in self.annotations.items()
        ]
        _require_images(samples, path)
        super().__init__(samples, [names[category] for category in chosen], (), transform)
        self.check(verify, skip_corrupt)
        if verify != "none":
            for sample in self.samples:
                _require_size(sample, self.records[sample.id], path)
        self.annotated = annotated_subset(len(self), mask_fraction)

    def draw_mask(self, sample: Sample) -> tuple[Any, bool] | None:
        """The union of the annotations of the image's category."""
        record = self.records[sample.id]
        size = (int(record["height"]), int(record["width"]))
        masks = [annotation_mask(found, size, self.boxes) for found in self.annotations[sample.id]]
        return torch.stack(masks).amax(0).numpy(), False


def annotation_mask(annotation: Record, size: tuple[int, int], boxes: bool = False) -> Tensor:
    """Mask float `(H, W)` of one COCO annotation.

    Args:
        annotation: with `segmentation` as a list of polygons, as run lengths (compressed or not), or without one and
            with `bbox` (x, y, width, height).
        size: height and width of the image.
        boxes: use the box in any case.

    Raises:
        DataError: when it holds neither.
        MaskError: when the run lengths are of another size.

    >>> annotation_mask({"bbox": [1, 0, 2, 1]}, (2, 4)).tolist()
    [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    from pycocotools import mask as rle_tools

    segmentation = None if boxes else annotation.get("segmentation")
    if not segmentation:
        return _box_mask(annotation, size)
    if isinstance(segmentation, list):
        return _decode(rle_tools.merge(rle_tools.frPyObjects(segmentation, *size)))
    if tuple(segmentation.get("size", ())) != size:
        raise MaskError(
            f"Run lengths have the size of their image, {size}; those of annotation {annotation.get('id')} have "
            f"{segmentation.get('size')}. Annotate the image at its present size."
        )
    if isinstance(segmentation["counts"], list):
        segmentation = rle_tools.frPyObjects(segmentation, *size)
    return _decode(segmentation)


def read_coco(path: Path) -> dict[str, list[Record]]:
    """The three lists of a COCO file.

    Raises:
        DataError: when it is missing, no JSON, or lacks one of them.
    """
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}. Set annotation_file to a COCO JSON file.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}). Set annotation_file to a COCO JSON file.") from error
    needed = {"images": ("id", "file_name", "height", "width"), "annotations": ("image_id", "category_id")}
    for key, fields in {**needed, "categories": ("id", "name")}.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"A COCO file holds a list {key!r}; {path} does not. Export it as COCO instances.")
        for entry in entries:
            if absent := [field for field in fields if field not in entry]:
                raise DataError(
                    f"Every entry of {key!r} has {', '.join(fields)}; {path} has one without {', '.join(absent)}: "
                    f"{str(entry)[:120]}. Complete or remove it."
                )
    found: dict[str, list[Record]] = content
    return found


def largest_categories(
    content: Mapping[str, Sequence[Record]], categories: set[Any], path: Path
) -> dict[str, list[Record]]:
    """For every image with annotations of the categories: those of the category with the largest total area.

    Raises:
        DataError: when an annotation names an image or a category that the file does not list.
    """
    known = {category["id"] for category in content["categories"]}
    found: dict[str, dict[Any, list[Record]]] = {str(record["id"]): {} for record in content["images"]}
    for annotation in content["annotations"]:
        key = str(annotation["image_id"])
        if key not in found:
            raise DataError(
                f"{path} annotates image {key}, which it does not list. Add it to 'images' or remove the annotation."
            )
        if annotation["category_id"] not in known:
            raise DataError(
                f"{path} annotates category {annotation['category_id']}, which it does not list. "
                "Add it to 'categories' or remove the annotation."
            )
        if annotation["category_id"] in categories:
            found[key].setdefault(annotation["category_id"], []).append(annotation)
    return {
        key: max(by_category.values(), key=lambda items: sum(map(_area, items)))
        for key, by_category in found.items()
        if by_category
    }


def _area(annotation: Record) -> float:
    if "area" in annotation:
        return float(annotation["area"])
    if annotation.get("bbox"):
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        return sum(_polygon_area(np.reshape(points, (-1, 2))) for points in segmentation)
    if segmentation:
        return float(annotation_mask(annotation, tuple(segmentation["size"])).sum())
    return 0.0


def _polygon_area(points: Any) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _box_mask(annotation: Record, size: tuple[int, int]) -> Tensor:
    box = annotation.get("bbox")
    if not box or len(box) != 4:
        raise DataError(
            f"An annotation has a segmentation or a bbox [x, y, width, height]; annotation {annotation.get('id')} has "
            f"bbox {box}. Complete or remove it."
        )
    x, y, width, height = map(float, box)
    mask = torch.zeros(size)
    mask[max(0, round(y)) : max(0, round(y + height)), max(0, round(x)) : max(0, round(x + width))] = 1
    return mask


def _decode(rle: Any) -> Tensor:
    from pycocotools import mask as rle_tools

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools under numpy 2
        return torch.from_numpy(rle_tools.decode(rle)).float()


def _chosen_categories(names: Mapping[Any, str], categories: Sequence[str] | None, path: Path) -> list[Any]:
    if categories is None:
        return list(names)
    by_name = defaultdict(list)
    for key, name in names.items():
        by_name[name].append(key)
    if unknown := [name for name in categories if name not in by_name]:
        raise DataError(f"{path} has no category {unknown}; it has {sorted(by_name)}. Correct categories.")
    return [by_name[name][0] for name in categories]


def _require_images(samples: Sequence[Sample], path: Path) -> None:
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    if missing:
        raise DataError(
            f"{path} names {len(missing)} images that do not exist, first {missing[0]}. "
            "Correct images_dir, or remove their entries."
        )
    if not samples:
        raise DataError(f"{path} annotates no image with the chosen categories. Choose others.")


def _require_size(sample: Sample, record: Record, path: Path) -> None:
    actual, stated = image_size(sample.image), (record["height"], record["width"])
    if actual != stated:
        raise MaskError(
            f"{path} says (height, width) {stated} for {sample.image}, which has {actual}. "
            "Restore the image's size, or scale its annotations."
        )
