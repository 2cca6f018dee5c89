"""Volumes: NIfTI files and folders of DICOM slices by class, with 3-D masks, read by nibabel and pydicom.

`pip install camtrain[volumes]` brings both.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.files import announce, require_folder
from camtrain.data.layouts import sorted_names
from camtrain.errors import CamtrainError, ConfigurationError, DataError, MaskError

Array = NDArray[Any]
NIFTI = (".nii", ".nii.gz")


def read_volume(path: Path, value_range: Sequence[int | float] | None = None) -> Float[Tensor, "1 D H W"]:
    """A volume in [0, 1]: slices first, from a NIfTI file or a folder of the DICOM slices of one series.

    A NIfTI file is turned to the axes of the body nearest to its own (right, anterior, superior), with its slices along
    the last; DICOM slices lie in the order of their positions, and their rescale slope and intercept are applied
    (Hounsfield units for CT).

    Args:
        path: the file or folder.
        value_range: the values that become 0 and 1, what lies beyond is cut off; None for the volume's own extremes.

    Raises:
        DataError: for what is missing, no volume, of several series, or holds values that are not finite.
        ConfigurationError: where the reader is not installed.
    """
    values = _values(path)
    low, high = value_range if value_range is not None else (float(values.min()), float(values.max()))
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return torch.from_numpy(np.clip(scaled, 0, 1).astype(np.float32)).unsqueeze(0)


def read_volume_mask(
    path: Path, mask_values: Sequence[int] | None = None, ignore_value: int | None = None
) -> Float[Tensor, "D H W"]:
    """A mask of a volume: 0 and one other value, or the values that are named; -1 where a voxel is unknown.

    Raises:
        MaskError: for other values, with their shares, or none of the background.
    """
    values = _values(path)
    unknown = np.zeros(values.shape, bool) if ignore_value is None else values == ignore_value
    values = np.where(unknown, 0, values)
    kinds, counts = np.unique(values, return_counts=True)
    if mask_values is not None:
        inside = np.isin(values, mask_values) & ~unknown
        return torch.from_numpy(np.where(unknown, -1, inside).astype(np.float32))
    if len(kinds) > 2 or (0 not in kinds):
        shown = ", ".join(f"{kind:g} ({count / values.size:.0%})" for kind, count in list(zip(kinds, counts))[:6])  # noqa: B905
        raise MaskError(
            f"{path} has the values {shown}: a mask has 0 and one other value. Say which are the object's "
            f"by mask_values: [{kinds[-1]:g}], and which is of unknown voxels by ignore_value."
        )
    return torch.from_numpy(np.where(unknown, -1, values != 0).astype(np.float32))


class VolumeFolder(Dataset[dict[str, Any]]):
    """Volumes in class folders, with masks of the same names in folders beside.

    Items are `{"image": (1, D, H, W), "label", "mask": (D, H, W), "id"}`; the mask is all -1 without an annotation.
    `images/benign/7.nii.gz` and `masks/benign/7.nii.gz`, or folders of DICOM slices `images/benign/7/*.dcm`.

    Args:
        root: the folder of the dataset.
        images: folder of the class folders below root.
        masks: folder of the masks below root; None for none.
        value_range: see `read_volume`.
        mask_values: the object's values where a mask has several.
        ignore_value: of unknown voxels, which are -1 in the mask.

    Raises:
        DataError: for a folder that is missing or holds no volume.
        MaskError: at construction, for a mask of another size or orientation than its volume, of other values than
            two, or where no mask has the object's values.
    """

    def __init__(
        self,
        root: str | Path,
        images: str = "",
        masks: str | None = None,
        value_range: Sequence[int | float] | None = None,
        mask_values: Sequence[int] | None = None,
        ignore_value: int | None = None,
    ) -> None:
        base = require_folder(Path(root), "the dataset")
        folder = require_folder(base / images, "volumes")
        mask_folder = None if masks is None else require_folder(base / masks, "masks")
        self.value_range, self.mask_values, self.ignore_value = value_range, mask_values, ignore_value
        places = sorted(path for path in folder.iterdir() if path.is_dir() and path != mask_folder)
        self.class_names = sorted_names(path.name for path in places)
        self.files = [(path, self.class_names.index(place.name)) for place in places for path in volumes_in(place)]
        if not self.files:
            raise DataError(f"{folder} holds no volumes in class folders (like {folder / 'benign' / '7.nii.gz'}).")
        self.folder = folder
        self.masks = [_mask_of(path, folder, mask_folder) for path, _ in self.files]
        covered = [self._checked(number, mask) for number, mask in enumerate(self.masks) if mask is not None]
        if covered and not any(covered):
            raise MaskError(
                f"No mask in {mask_folder} has an object (mask_values: {mask_values}). Correct mask_values or masks."
            )
        if mask_folder is not None:
            announce(
                f"annotated: {sum(mask is not None for mask in self.masks)} of {len(self.files)} volumes in {folder}"
            )
            if not any(self.masks):
                raise DataError(f"No file in {mask_folder} is the mask of a volume: give masks the volumes' names.")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        image, mask = read_volume(path, self.value_range), self.masks[index]
        drawn = torch.full(image.shape[1:], -1.0) if mask is None else self._mask(mask)
        return {"image": image, "label": label, "mask": drawn, "id": path.relative_to(self.folder).as_posix()}

    def _mask(self, path: Path) -> Tensor:
        return read_volume_mask(path, self.mask_values, self.ignore_value)

    def _checked(self, number: int, mask: Path) -> bool:
        """Whether a mask has an object; one that does not lie on its volume is refused."""
        path = self.files[number][0]
        size, drawn = _values(path).shape, self._mask(mask)
        if size != tuple(drawn.shape):
            raise MaskError(
                f"A mask has the size of its volume: {mask} is {tuple(drawn.shape)}, {path} is {size}. Resample it."
            )
        axes, own = _axes(path), _axes(mask)
        if axes and own and axes != own:
            raise MaskError(
                f"A mask is stored in the directions of its volume: {mask} says {own}, {path} {axes}, and each "
                "would be turned to the body's axes in its own way. Save the mask with the volume's affine."
            )
        return bool((drawn == 1).any())


def _axes(path: Path) -> str:
    """The directions of a NIfTI file's axes, as "RAS"; empty for other files."""
    if not path.name.endswith(NIFTI):
        return ""
    nibabel = _required("nibabel")
    return "".join(str(code) for code in nibabel.aff2axcodes(nibabel.load(path).affine))


def volumes_in(folder: Path) -> list[Path]:
    """NIfTI files, and folders of DICOM slices, below a folder."""
    files = [path for path in folder.rglob("*") if path.name.endswith(NIFTI)]
    series = {path.parent for path in folder.rglob("*.dcm")}
    return sorted([*files, *series])


def _mask_of(path: Path, folder: Path, masks: Path | None) -> Path | None:
    if masks is None:
        return None
    place = masks / path.relative_to(folder)
    stem = place.name.partition(".")[0]
    candidates = [place, *(place.with_name(f"{stem}{suffix}") for suffix in NIFTI)]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _values(path: Path) -> Array:
    """Slices first, in double precision; whatever a reader meets is a `DataError` that names the file."""
    if not path.exists():
        raise DataError(f"There is no volume {path}. Restore it or remove its entry.")
    read: Callable[[Path], Array] = _dicom if path.is_dir() else _nifti
    try:
        values = read(path)
    except CamtrainError:
        raise
    except Exception as error:  # readers raise nearly anything over a broken file
        raise DataError(f"{path} cannot be read as a volume: {error or type(error).__name__}. Replace it.") from error
    if values.ndim != 3 or not values.size:
        raise DataError(f"A volume has three axes; {path} has shape {values.shape}. Save one volume a file.")
    if not np.isfinite(values).all():
        raise DataError(f"{path} has values that are not finite. Replace them.")
    return values


def _nifti(path: Path) -> Array:
    if not path.name.endswith(NIFTI):
        raise DataError(
            f"{path} is no volume that is read: NIfTI files (.nii, .nii.gz) and folders of DICOM slices are."
        )
    nibabel = _required("nibabel")
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values: Array = np.asarray(image.dataobj, dtype=np.float64)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)) if values.ndim == 3 else values


def _dicom(folder: Path) -> Array:
    pydicom = _required("pydicom")
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    if not slices:
        raise DataError(f"{folder} holds no .dcm files.")
    series = {str(getattr(part, "SeriesInstanceUID", "")) for part in slices}
    if len(series) > 1:
        raise DataError(f"{folder} holds slices of {len(series)} series. Give each a folder of its own.")
    if len(slices) == 1:
        pixels = slices[0].pixel_array
        return _rescaled(slices[0], pixels if pixels.ndim == 3 else pixels[None])
    slices.sort(key=_position)
    return np.stack([_rescaled(part, part.pixel_array) for part in slices])


def _position(part: Any) -> float:
    """Along the normal of the slices, from their position and orientation; else the number of the instance."""
    if hasattr(part, "ImagePositionPatient") and hasattr(part, "ImageOrientationPatient"):
        across, down = np.reshape([float(value) for value in part.ImageOrientationPatient], (2, 3))
        return float(np.dot(np.cross(across, down), [float(value) for value in part.ImagePositionPatient]))
    return float(part.InstanceNumber)


def _rescaled(part: Any, pixels: Array) -> Array:
    slope, intercept = float(getattr(part, "RescaleSlope", 1)), float(getattr(part, "RescaleIntercept", 0))
    stored = pixels.astype(np.float64)
    if getattr(part, "PhotometricInterpretation", "") == "MONOCHROME1":  # black is the highest that can be stored
        stored = ((1 << int(part.BitsStored)) - 1 if part.PixelRepresentation == 0 else -1) - stored
    return stored * slope + intercept


def _required(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"Volumes are read by {name}, which is not installed: pip install camtrain[volumes]."
        ) from error
