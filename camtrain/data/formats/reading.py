"""Which format an annotation file or folder has, by its content."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from camtrain.data.formats.base import Annotations, read_json, read_xml
from camtrain.data.formats.coco import read_coco_annotations
from camtrain.data.formats.cvat import read_cvat
from camtrain.data.formats.label_studio import read_label_studio
from camtrain.data.formats.labelme import read_labelme
from camtrain.data.formats.tables import read_table
from camtrain.data.formats.voc import read_voc
from camtrain.data.formats.yolo import read_yolo
from camtrain.errors import DataError

Source = str | Path
Sources = Source | Sequence[Source] | Mapping[str, Source]
_KNOWN = (
    "COCO, LabelMe or Label Studio JSON, CVAT or VOC XML, YOLO's data.yaml, a CSV file of run lengths, gaze or boxes; "
    "files of masks are named by masks"
)


def read_annotations(sources: Sources, base: Path = Path()) -> Annotations:
    """Read an annotation file or folder, several of them, or one for each split.

    Args:
        sources: a path below `base`, a list, or a mapping from "train", "val" and "test".
        base: the folder of the dataset.

    Raises:
        DataError: for what is missing, of no format that is read, or not as its format says.
        MaskError: for shapes that cannot be meant.
    """
    if isinstance(sources, str | Path):
        return _read(base / sources, base)
    if isinstance(sources, Mapping):
        parts = [(split, _read(base / source, base)) for split, source in sources.items()]
        images = [replace(image, split=split) for split, part in parts for image in part.images]
    else:
        parts = [("", _read(base / source, base)) for source in sources]
        images = [image for _, part in parts for image in part.images]
    if not parts:
        raise DataError("annotations names no file. Give one, or leave it out.")
    names = dict.fromkeys(name for _, part in parts for name in part.categories)
    left_out = sum((Counter(part.left_out) for _, part in parts), Counter[str]())
    notes = tuple(dict.fromkeys(note for _, part in parts for note in part.notes))
    return Annotations(parts[0][1].kind, images, list(names), left_out, parts[0][1].folder, notes)


def _read(path: Path, base: Path) -> Annotations:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DataError(f"There is no annotation file {path} below {base}. Set annotations to a file or folder.")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path, base)
    if suffix == ".xml":
        return read_voc([path], path.parent) if read_xml(path).tag == "annotation" else read_cvat(path)
    if suffix in (".yaml", ".yml"):
        return read_yolo(path)
    if suffix in (".csv", ".tsv"):
        return read_table(path)
    raise DataError(f"{path} is no annotation file that is read: {_KNOWN}.")


def _read_json(path: Path, base: Path) -> Annotations:
    content = read_json(path)
    if isinstance(content, dict) and "shapes" in content:
        return read_labelme([path], base)
    if isinstance(content, list) and content and isinstance(content[0], dict) and "data" in content[0]:
        return read_label_studio(path)
    if isinstance(content, dict) and ("images" in content or "annotations" in content):
        return read_coco_annotations(path)
    keys = list(content)[:5] if isinstance(content, dict) else type(content).__name__
    raise DataError(f"{path} (with {keys}) is no annotation file that is read: {_KNOWN}.")


def _read_folder(folder: Path) -> Annotations:
    """A folder of one file per image, or of one COCO file per split."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    by_suffix = {suffix: [path for path in files if path.suffix.lower() == suffix] for suffix in (".json", ".xml")}
    if by_suffix[".json"]:
        first = read_json(by_suffix[".json"][0])
        if isinstance(first, dict) and "shapes" in first:
            return read_labelme(by_suffix[".json"], folder)
        return read_annotations(by_suffix[".json"], folder)
    if by_suffix[".xml"]:
        return read_voc(by_suffix[".xml"], folder)
    if (folder / "data.yaml").is_file():
        return read_yolo(folder / "data.yaml")
    kinds = sorted({path.suffix for path in files})
    remedy = " For YOLO, name its data.yaml." if ".txt" in kinds else ""
    raise DataError(f"{folder} holds {kinds or 'nothing'}, and no annotations that are read: {_KNOWN}.{remedy}")
