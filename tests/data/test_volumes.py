from pathlib import Path

import numpy as np
import pytest
import torch

from camtrain.data.batches import check_masks, read_batch
from camtrain.data.files import read_image
from camtrain.data.folders import MaskedImageFolder
from camtrain.data.volumes import VolumeFolder, read_volume, read_volume_mask
from camtrain.errors import DataError, MaskError

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # x, y, z


def nifti(path, values, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def dicom(folder, slices, *, slope=1, intercept=0, uid="1.2.3", reverse=False):
    """Slices of one series, whose files are named in an order that is not theirs."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{uid}.{number}"
        name = folder / f"{len(slices) - number if reverse else number}.dcm"
        part = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        part.SeriesInstanceUID, part.SOPInstanceUID, part.SOPClassUID = uid, f"{uid}.{number}", "1.2"
        part.Rows, part.Columns, part.SamplesPerPixel, part.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
        part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation = 16, 16, 15, 1
        part.ImageOrientationPatient, part.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2.5 * number]
        part.RescaleSlope, part.RescaleIntercept = slope, intercept
        part.PixelData = pixels.astype(np.int16).tobytes()
        part.save_as(name, enforce_file_format=True)
    return folder


def test_read_volume__of_nifti_has_its_slices_first_and_its_values_in_the_unit_interval(tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii.gz", VALUES))
    assert volume.shape == (1, 6, 4, 5)
    assert torch.allclose(volume[0], torch.from_numpy(np.moveaxis(VALUES, -1, 0) / 119).float())
    flipped = read_volume(nifti(tmp_path / "b.nii", VALUES[::-1], np.diag([-1, 1, 1, 1])))
    assert torch.equal(flipped, volume)  # the same body, stored from left to right


def test_read_volume__of_dicom_is_in_the_order_of_positions_and_in_hounsfield_units(tmp_path):
    slices = [np.full((3, 4), 100 * number) for number in range(5)]
    folder = dicom(tmp_path / "series", slices, slope=2, intercept=-1000, reverse=True)
    volume = read_volume(folder, value_range=(-1000, 0))
    assert volume.shape == (1, 5, 3, 4)
    assert volume[0, :, 0, 0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_read_volume__says_what_it_does_not_read(tmp_path):
    with pytest.raises(DataError, match="no volume"):
        read_volume(tmp_path / "gone.nii")
    (tmp_path / "b.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.nii cannot be read as a volume"):
        read_volume(tmp_path / "b.nii")
    with pytest.raises(DataError, match=r"three axes.*\(2, 2, 2, 3\)"):
        read_volume(nifti(tmp_path / "c.nii", np.zeros((2, 2, 2, 3), np.float32)))
    folder = dicom(dicom(tmp_path / "two", [np.zeros((2, 2))]), [np.zeros((2, 2))] * 2, uid="9.9")
    dicom(tmp_path / "three", [np.zeros((2, 2))] * 3)
    (tmp_path / "three/0.dcm").write_bytes((folder / "0.dcm").read_bytes())
    with pytest.raises(DataError, match="slices of 2 series"):
        read_volume(tmp_path / "three")


def test_volume_folder__reads_volumes_and_masks_by_class(tmp_path):
    mask = (VALUES > 60).astype(np.uint8)
    for name in ("benign", "malignant"):
        nifti(tmp_path / "images" / name / "0.nii.gz", VALUES)
    nifti(tmp_path / "masks/benign/0.nii.gz", mask)
    dataset = VolumeFolder(tmp_path, "images", "masks")
    assert dataset.class_names == ["benign", "malignant"]
    items = [dataset[0], dataset[1]]
    assert items[0]["mask"].sum() == mask.sum()
    assert (items[1]["mask"] == -1).all()
    batch = read_batch({key: torch.stack([item[key] for item in items]) for key in ("image", "mask")})
    check_masks(batch)


def test_volume_folder__refuses_masks_of_several_values_or_another_size(tmp_path):
    nifti(tmp_path / "images/a/0.nii", VALUES)
    nifti(tmp_path / "masks/a/0.nii", (VALUES % 3).astype(np.uint8))
    with pytest.raises(MaskError, match=r"values 0 \(33%\), 1 \(33%\), 2 \(33%\).*mask_values: \[2\]"):
        VolumeFolder(tmp_path, "images", "masks")
    assert VolumeFolder(tmp_path, "images", "masks", mask_values=[2])[0]["mask"].sum() == 40
    nifti(tmp_path / "masks/a/0.nii", (VALUES[:3] > 5).astype(np.uint8))
    with pytest.raises(MaskError, match=r"\(6, 3, 5\).*\(6, 4, 5\)"):
        VolumeFolder(tmp_path, "images", "masks")
    assert read_volume_mask(nifti(tmp_path / "m.nii", (VALUES > 5).astype(np.uint8))).sum() == 114


def test_volume_folder__leaves_unknown_voxels_out_and_wants_an_object(tmp_path):
    labels = np.zeros(VALUES.shape, np.int16)
    labels[1:3, 1:3, 1:3], labels[0] = 2, 255
    nifti(tmp_path / "images/benign/7.nii.gz", VALUES)
    nifti(tmp_path / "masks/benign/7.nii.gz", labels)
    mask = VolumeFolder(tmp_path, "images", "masks", mask_values=[2], ignore_value=255)[0]["mask"]
    assert [int((mask == value).sum()) for value in (1, -1)] == [8, 30]
    assert torch.equal(mask, VolumeFolder(tmp_path, "images", "masks", ignore_value=255)[0]["mask"])
    with pytest.raises(MaskError, match=r"No mask in .* has an object \(mask_values: \[3\]\)"):
        VolumeFolder(tmp_path, "images", "masks", mask_values=[3])


def test_volume_folder__refuses_a_mask_that_is_stored_in_other_directions(tmp_path):
    nifti(tmp_path / "images/benign/7.nii.gz", VALUES, np.diag([-1, -1, 1, 1]))
    nifti(tmp_path / "masks/benign/7.nii.gz", (VALUES > 60).astype(np.int16))
    with pytest.raises(MaskError, match=r"7\.nii\.gz says RAS, .* LPS.*the volume's affine"):
        VolumeFolder(tmp_path, "images", "masks")


@pytest.mark.parametrize("name", ["7.nii.gz", "7/0001.dcm"])
def test_pictures__refuse_volumes_in_one_sentence(tmp_path, name):
    (tmp_path / "benign" / name).parent.mkdir(parents=True)
    (tmp_path / "benign" / name).write_bytes(b"")
    sentence = f"{Path(name).name} is a volume: camtrain.data.volumes.VolumeFolder reads those"
    with pytest.raises(DataError, match=sentence):
        MaskedImageFolder(tmp_path)
    with pytest.raises(DataError, match=sentence):
        read_image(tmp_path / "benign" / name)
