"""How people lay out images: folders by class and by split, masks beside or apart, a table of any column names."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from camtrain.data.files import IMAGE_SUFFIXES, Sample, about_volumes, announce, files_below, list_images
from camtrain.data.subsets import SPLITS
from camtrain.errors import DataError

_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
_MASK_WORDS = (
    "masks?|superpixels?|segmentations?|segmented|seg|gt|groundtruths?|ground[_ ]?truths?|labels?|annotations?|"
    "mattes?|alphas?|trimaps?"
)
_MASK_TAIL = re.compile(rf"(?P<stem>.+?)(?P<tail>[ _.-]({_MASK_WORDS}))([ _-]?\d+)?", re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"(.*[ _.-])?({_MASK_WORDS})([ _.-].*)?", re.IGNORECASE)
# Column names without case and separators, in the order of preference; the second tuple where the first has none.
_COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image": (
        (
            *("file", "filename", "filepath", "path", "image", "imagepath", "imagefile", "imagefilename", "imagename"),
            *("img", "imgfilename", "imgpath", "imgfile", "imgname"),
        ),
        ("imageid", "imgid"),
    ),
    "label": (("label", "labels", "class", "classname", "category", "target", "y", "diagnosis", "dx"), ()),
    "mask": (("mask", "maskpath", "maskfile", "maskfilename", "segmentation", "segmentationpath"), ()),
    "group": (("group", "groups"), ()),
    "split": (("split", "subset", "partition"), ()),
}


@dataclass(frozen=True)
class FolderLayout:
    """Images with labels, as a folder or a table names them.

    Attributes:
        samples: one per image.
        class_names: one per class.
        group_names: one per group; empty without groups.
    """

    samples: list[Sample]
    class_names: list[str]
    group_names: list[str]

    def of_split(self, split: str | None) -> "FolderLayout":
        """The samples of a split; all for None."""
        samples = [sample for sample in self.samples if split in (None, sample.split)]
        if not samples:
            raise DataError(f"No image is annotated for the split {split!r}. Choose another.")
        return FolderLayout(samples, self.class_names, self.group_names)


def split_of(name: str) -> str | None:
    """The split that a folder or a word means, in any case.

    >>> [split_of(name) for name in ("Train", "valid", "val2017", "testing", "cats")]
    ['train', 'val', 'val', 'test', None]
    """
    match = re.fullmatch(r"([a-z]+)[-_ ]?(set|data|split|images?|imgs?|\d{4})?", name.strip().lower())
    word = match.group(1) if match else ""
    return next((split for split, words in _SPLIT_WORDS.items() if word in words), None)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Names in the order of the alphabet, numbers in that of numbers.

    >>> sorted_names({"10", "2", "1"}), sorted_names({"b", "a"})
    (['1', '2', '10'], ['a', 'b'])
    """
    distinct = set(names)
    if all(re.fullmatch(r"[+-]?\d+(\.0*)?", name) for name in distinct):
        return sorted(distinct, key=lambda name: (float(name), name))
    return sorted(distinct)


@dataclass(frozen=True)
class MaskFinder:
    """From an image's path below the image folder to its mask files.

    Attributes:
        folder: of the masks; None where there are none.
        suffix: what follows the image's stem in the mask's name; further masks have a number behind it.
    """

    folder: Path | None
    suffix: str = ""

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Mask files by their path below the folder, without suffix and without a number behind the mask's suffix."""
        files: dict[str, list[Path]] = {}
        for path in list_images(self.folder) if self.folder is not None else ():
            relative = path.relative_to(self.folder or "")
            stem = relative.stem
            if self.suffix and not stem.endswith(self.suffix):
                stem = re.sub(r"[ _-]?\d+$", "", stem)
            if stem.endswith(self.suffix):
                files.setdefault(relative.with_name(f"{stem}.").as_posix()[:-1], []).append(path)
        return files

    def __call__(self, relative: Path) -> tuple[Path, ...]:
        """The masks of an image: of its name, below folders of the same names or of less of them."""
        for start in range(len(relative.parts)):
            below = Path(*relative.parts[start:])
            for stem in (below.stem, below.name):  # 7.png and 7.jpg.png
                if paths := self.files.get(below.with_name(f"{stem}{self.suffix}.").as_posix()[:-1]):
                    return self._of_one_name(paths)
        return ()

    def _of_one_name(self, paths: Sequence[Path]) -> tuple[Path, ...]:
        by_stem = Counter(path.stem for path in paths)
        if twice := [path.name for path in paths if by_stem[path.stem] > 1]:
            raise DataError(f"{paths[0].parent} holds {' and '.join(twice)}, masks of one name. Remove one of them.")
        return tuple(sorted(paths, key=lambda path: (len(path.stem), path.stem)))

    def named(self, name: str, bases: Sequence[Path]) -> Path:
        """The mask file that an index names, below the first of the folders that has it."""
        return existing_file(name, [*([self.folder] if self.folder is not None else []), *bases])

    def name_for(self, relative: Path) -> Path:
        """Where below the folder the mask of an image is looked for.

        >>> MaskFinder(Path("masks"), "_mask").name_for(Path("dog/7.jpg")).as_posix()
        'dog/7_mask.png'
        """
        return relative.with_name(f"{relative.stem}{self.suffix}.png")

    def is_mask(self, path: Path) -> bool:
        """Whether a file among the images is a mask by its name."""
        return bool(self.suffix) and re.fullmatch(rf".*{re.escape(self.suffix)}([ _-]?\d+)?", path.stem) is not None


def read_class_folders(
    folder: Path, find_mask: MaskFinder, split: str | None = None, exclude: Collection[str] | None = None
) -> FolderLayout:
    """Images with one folder per class, which may lie in folders by split.

    Args:
        folder: of the class folders, or of `train`, `val` and `test` by any common name.
        find_mask: the mask files of an image.
        split: "train", "val" or "test"; None for all.
        exclude: patterns of names to leave out; None refuses what looks like masks among the images.
    """
    roots = _split_folders(folder, find_mask, exclude or ())
    by_class = [
        (name, found_in, root / name) for root, found_in in roots for name in _folder_names(root, exclude or ())
    ]
    classes = sorted_names(name for name, _, _ in by_class)
    check_names(classes, str(folder), _side_by_side(by_class))
    _say_number_order(classes)
    images = [
        (path, classes.index(name), found_in)
        for name, found_in, place in by_class
        for path in list_images(place)
        if not find_mask.is_mask(path) and not _excluded(path, folder, exclude or ())
    ]
    if exclude is None:
        _refuse_masks_among([path for path, _, _ in images], folder, classes)
    samples = [
        Sample(path, label, *_first_and_more(find_mask(path.relative_to(folder)), None, found_in, _id(path, folder)))
        for path, label, found_in in images
        if split in (None, found_in)
    ]
    if not samples:
        raise DataError(
            f"{folder} holds no images in class folders (like {folder / 'dog' / '1.jpg'})"
            f"{'' if split is None else f' for the split {split!r}'}. "
            "Set images to the folder of the class folders, or index to a CSV file with file and label."
            f"{about_volumes(sorted(folder.rglob('*')))}"
        )
    _refuse_shared_masks(samples)
    return FolderLayout(samples, classes, [])


def read_index(
    index: Path,
    folder: Path,
    find_mask: MaskFinder,
    split: str | None = None,
    columns: Mapping[str, str | Sequence[str] | None] | None = None,
) -> FolderLayout:
    """Images that a CSV file names; class and group names are sorted over all its rows.

    Args:
        index: the file.
        folder: of the images.
        find_mask: the mask files of an image that the index does not name.
        split: "train", "val" or "test"; None for all.
        columns: names of the columns "image", "label", "mask", "group", "split" where they are not the usual.
    """
    rows, header = read_rows(index)
    place = {role: column_of(role, header, (columns or {}).get(role), index) for role in ("image", "label", "mask")}
    split_column = column_of("split", header, (columns or {}).get("split"), index, needed=split is not None)
    group_columns = _group_columns(header, (columns or {}).get("group"), index)
    label_column = place["label"] or ""
    bases = [folder, index.parent]
    names = [_cell(row, label_column, index, number) for number, row in enumerate(rows)]
    classes = sorted_names(names)
    check_names(classes, str(index))
    splits = _splits([row[split_column] for row in rows], header, index) if split_column else [None] * len(rows)
    pairs = [", ".join(_group_name(column, row, group_columns) for column in group_columns) for row in rows]
    groups = sorted_names(pairs) if group_columns else []
    _say_columns(index, {**place, "split": split_column, "group": ", ".join(group_columns)})
    samples, seen = [], dict[str, tuple[object, ...]]()
    for number, (row, name, found_in, pair) in enumerate(zip(rows, names, splits, pairs, strict=True)):
        file = _cell(row, place["image"] or "", index, number)
        listed = row.get(place["mask"] or "")
        facts = {"labels": name, "masks": listed, "splits": found_in}
        for kind, one, other in zip(facts, seen.setdefault(file, (*facts.values(),)), facts.values(), strict=True):
            if one != other:
                raise DataError(f"{index} gives {file} the {kind} {one!r} and {other!r}. Keep one row for an image.")
        if split in (None, found_in):
            masks = (find_mask.named(listed, bases),) if listed else find_mask(Path(file))
            group = groups.index(pair) if groups else None
            tail = _first_and_more(masks, group, found_in, file)
            samples.append(Sample(existing_file(file, bases), classes.index(name), *tail))
    if not samples:
        raise DataError(f"{index} has no rows{'' if split is None else f' with split {split!r}'}. Add some.")
    return FolderLayout(samples, classes, groups)


def check_names(names: Sequence[str], source: str, apart: Collection[str] = ()) -> None:
    """Refuse two classes of one name, whatever their case; but for names `apart`, which are meant to be two.

    >>> check_names(["crane", "Crane"], "names.txt")
    Traceback (most recent call last):
        ...
    camtrain.errors.DataError: names.txt has the classes 'crane' and 'Crane': two of one name. Rename one of them.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other is name:
            continue
        if not {other, name} <= set(apart):
            raise DataError(f"{source} has the classes {other!r} and {name!r}: two of one name. Rename one of them.")
        announce(f"{other} and {name} are two classes, as their folders lie side by side")


def _side_by_side(by_class: Sequence[tuple[str, str | None, Path]]) -> set[str]:
    """The classes whose folders lie in every split: ImageNet has a dog Cardigan and a garment cardigan."""
    splits = {split for _, split, _ in by_class}
    places = {(name, split) for name, split, _ in by_class}
    return {name for name, _, _ in by_class if all((name, split) in places for split in splits)}


def say_splits(samples: Sequence[Sample]) -> None:
    """One line on which images are trained on, and which are held out, where the files say so."""
    counts = Counter(sample.split for sample in samples if sample.split)
    if counts:
        announce("splits: " + ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split]) + " images")


def _split_folders(folder: Path, find_mask: MaskFinder, exclude: Collection[str]) -> list[tuple[Path, str | None]]:
    """The folders that hold class folders, with their splits."""
    places = [folder / name for name in _folder_names(folder, exclude)]
    splits = [(place, split) for place in places if (split := split_of(place.name)) and _has_class_folders(place)]
    if not splits:
        return [(folder, None)]
    rest = [place for place in places if place not in [found for found, _ in splits]]
    masks = find_mask.folder
    left_out = [
        place.name for place in rest if not (masks and masks.is_relative_to(place)) and next(_images(place), None)
    ]
    if left_out:
        raise DataError(
            f"{folder} has the splits {', '.join(place.name for place, _ in splits)}, and beside them images in "
            f"{', '.join(left_out)}. Rename what is a split to train, val or test, move what is none, or name it in "
            f"exclude: [{', '.join(left_out)}]."
        )
    if any(place.name != split for place, split in splits):
        announce("splits: " + ", ".join(f"{place.name} is read as {split}" for place, split in splits))
    return [(place, split) for place, split in sorted(splits, key=lambda pair: SPLITS.index(str(pair[1])))]


def _has_class_folders(place: Path) -> bool:
    return any(next(_images(place / name), None) is not None for name in _folder_names(place, ()))


def has_class_folders(folder: Path) -> list[str]:
    """Names of the folders that are classes, below splits too; none where images lie flat, or flat in their splits."""
    names = [name for name in _folder_names(folder, ()) if next(_images(folder / name), None) is not None]
    splits = [name for name in names if split_of(name)]
    if splits:
        return sorted({inner for name in splits for inner in has_class_folders(folder / name)})
    return names


def _images(place: Path) -> Iterator[Path]:
    return (path for path in files_below(place) if path.suffix.lower() in IMAGE_SUFFIXES)


def _folder_names(folder: Path, exclude: Collection[str]) -> list[str]:
    folders = (path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    return sorted(path.name for path in folders if not any(fnmatch(path.name, pattern) for pattern in exclude))


def _excluded(path: Path, folder: Path, exclude: Collection[str]) -> bool:
    relative = path.relative_to(folder)
    return any(fnmatch(relative.as_posix(), pattern) or fnmatch(path.name, pattern) for pattern in exclude)


def _refuse_masks_among(images: Sequence[Path], folder: Path, classes: Sequence[str]) -> None:
    """Refuse masks that would be trained as images: `7_mask.png` beside `7.jpg`, a class folder `masks`."""
    stems = {(path.parent, path.stem) for path in images}
    tails: dict[str, Path] = {}
    for path in images:
        match = _MASK_TAIL.fullmatch(path.stem)
        if match and (path.parent, match.group("stem")) in stems:
            tails.setdefault(match.group("tail"), path)
    if tails:
        tail, path = next(iter(tails.items()))
        raise DataError(
            f"{path} looks like the mask of the image beside it, and would be trained as an image: set mask_suffix: "
            f'"{tail}" to read such masks, exclude: ["*{tail}*"] to leave them out, or exclude: [] to train on them.'
        )
    by_class: dict[str, set[str]] = {}
    for path in images:
        names = set(path.relative_to(folder).parts[:-1]) & set(classes)
        for name in names:
            by_class.setdefault(name, set()).add(path.stem)
    for name, of_masks in by_class.items():
        for other, of_images in by_class.items():
            shared = len(of_masks & of_images)
            if name != other and _MASK_FOLDER.fullmatch(name) and shared * 2 > len(of_masks):
                raise DataError(
                    f"The folder {name} of {folder} holds files of the names of those in {other}: masks, it "
                    f"seems, which would be a class. Set images: {other} and masks: {name}, or exclude: [] if it is."
                )


def _refuse_shared_masks(samples: Sequence[Sample]) -> None:
    owners: dict[Path, str] = {}
    for sample in samples:
        for mask in sample.masks:
            if mask in owners:
                raise DataError(
                    f"{mask} would be the mask of two images, {owners[mask]} and {sample.id}. Lay masks out as the "
                    "images are, in folders of the same names."
                )
            owners[mask] = sample.id


def _say_number_order(classes: Sequence[str]) -> None:
    if list(classes) != sorted(classes):
        announce(
            f"classes are numbers, in the order of numbers ({', '.join(classes[:4])}, ...); torchvision's ImageFolder "
            f"has them in that of text ({', '.join(sorted(classes)[:4])}, ...)"
        )


def _first_and_more(
    masks: Sequence[Path], group: int | None, split: str | None, name: str
) -> tuple[Path | None, int | None, str | None, str, tuple[Path, ...]]:
    return (masks[0] if masks else None), group, split, name, tuple(masks[1:])


def _id(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def read_rows(index: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV file that hold something, and its header."""
    if not index.is_file():
        raise DataError(f"There is no index file {index}. Set index to a CSV file with file and label.")
    try:
        text = index.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{index} is no text in UTF-8: {error}. Save it as a CSV file in UTF-8.") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter, restval="")
        rows, names = list(reader), list(reader.fieldnames or [])
    except csv.Error as error:
        raise DataError(f"{index} is no CSV file: {error}. Save it as one.") from error
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise DataError(f"{index} has several columns {twice[0]!r}. Rename all but one.")
    for number, row in enumerate(rows):
        if any(row.get(None, ())):
            raise DataError(
                f"Row {number + 2} of {index} has more cells than the header: {list(row.values())}. Put cells that "
                f'hold {delimiter!r} in quotes: "crane, bird".'
            )
    return [row for row in rows if any(row.values())], names


def column_of(
    role: str, header: Sequence[str], given: str | Sequence[str] | None, index: Path, needed: bool | None = None
) -> str | None:
    """The column of a role: the one that is named, or the one that is called so as people do."""
    if given is not None and not isinstance(given, str):
        raise DataError(f"{role}_column is one name; got {list(given)}.")
    if given is not None:
        if given not in header:
            raise DataError(f"{index} has no column {given!r}; it has {list(header)}. Correct {role}_column.")
        return given
    for names in _COLUMNS[role]:
        plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in reversed(header)}
        candidates = [plain[name] for name in names if name in plain]
        if len(candidates) > 1 and candidates[0] != names[0]:
            raise DataError(
                f"{index} has the columns {candidates}, each of which may be the {role}. Set {role}_column to one."
            )
        if candidates:
            return candidates[0]
    if needed or (needed is None and role != "mask"):
        usual = {"image": "file", "label": "label"}.get(role, role)
        raise DataError(
            f"{index} has no column [{usual!r}]; it has {list(header)}. Set {role}_column to the one that holds it."
        )
    return None


def _group_columns(header: Sequence[str], given: str | Sequence[str] | None, index: Path) -> list[str]:
    if given is not None:
        names = [given] if isinstance(given, str) else list(given)
        return [str(column_of("group", header, name, index)) for name in names]
    if _is_wilds(header) and "place" in header:
        return ["y", "place"]
    column = column_of("group", header, None, index, needed=False)
    return [column] if column else []


def _group_name(column: str, row: Mapping[str, str], columns: Sequence[str]) -> str:
    return row[column] if len(columns) == 1 else f"{column} {row[column]}"


def _is_wilds(header: Sequence[str]) -> bool:
    return {"img_filename", "y", "split"} <= set(header)


def _splits(values: Sequence[str], header: Sequence[str], index: Path) -> list[str | None]:
    """The split of each row: words in any spelling, or 0, 1, 2 of WILDS."""
    distinct = {value.strip() for value in values}
    if distinct == {""}:
        return [None] * len(values)
    if distinct <= {"0", "1", "2"} and (_is_wilds(header) or len(distinct) == 3):
        announce(f"splits of {index.name}: 0 is train, 1 val, 2 test")
        return [SPLITS[int(value)] for value in values]
    if unknown := sorted(value for value in distinct if split_of(value) is None):
        raise DataError(f"The column split of {index} holds train, val or test; got {unknown}. Rename them.")
    return [split_of(value) for value in values]


def _cell(row: Mapping[str, str], column: str, index: Path, number: int) -> str:
    value = (row.get(column) or "").strip()
    if not value or value in ("nan", "NaN"):  # how pandas writes an empty cell where it is told to
        raise DataError(f"Row {number + 2} of {index} has nothing in the column {column!r}. Complete or remove it.")
    return value


def existing_file(name: str, bases: Sequence[Path]) -> Path:
    """The file of a name below the first folder that has it, its suffix added and backslashes turned where needed."""
    variants: list[Callable[[Path], Iterable[Path]]] = [
        lambda base: [base / name],
        lambda base: [base / name.replace("\\", "/")],
        lambda base: [base / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES],
    ]
    candidates = (path for variant in variants for base in bases for path in variant(base))
    return next((path for path in candidates if path.is_file()), bases[0] / name)


def _say_columns(index: Path, columns: Mapping[str, str | None]) -> None:
    usual = {"image": "file"}
    taken = {role: column for role, column in columns.items() if column and column != usual.get(role, role)}
    if taken:
        announce(f"{index.name}: " + ", ".join(f"{role} is the column {column}" for role, column in taken.items()))
