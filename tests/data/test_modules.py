import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.utils.data import DataLoader

from camtrain.data.batches import MaskedPair, check_masks, read_batch
from camtrain.data.collate import Collate, denormalize, flip_some, normalize
from camtrain.data.modules import CocoDataModule, DecoyDataModule, ImageFolderDataModule, ScenesDataModule
from camtrain.errors import BatchError, ConfigurationError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def scenes(**arguments) -> ScenesDataModule:
    return ScenesDataModule(batch_size=4, image_size=24, train_size=10, val_size=8, test_size=8, **arguments)


def folder(root, **arguments) -> ImageFolderDataModule:
    return ImageFolderDataModule(
        str(root), images="images", masks="masks", image_size=16, val_fraction=0.25, num_workers=0, **arguments
    )


@pytest.fixture(params=["scenes", "decoy", "folder", "coco"])
def module(request, digits, class_folders, write_coco):
    if request.param == "scenes":
        return scenes()
    if request.param == "decoy":
        return DecoyDataModule(str(digits), batch_size=50)
    if request.param == "folder":
        return folder(class_folders)
    boxes = [{"id": k, "image_id": k % 2 + 1, "category_id": 7, "bbox": [0, 0, 6, 8]} for k in range(2)]
    path = write_coco(annotations=boxes)
    return CocoDataModule(str(path.parent / "images"), str(path), image_size=16, val_fraction=0.5, num_workers=0)


def test_every_data_module__yields_readable_batches_from_every_loader(module):
    module.setup()
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for raw in loader:
            batch = read_batch(raw)
            check_masks(batch)
            assert batch.images.dtype == torch.float32
            assert batch.labels.max() < module.num_classes
            assert len(batch.ids) == len(batch.images)
            assert batch.groups is None or batch.groups.max() < module.num_groups


def test_every_data_module__denormalizes_to_unit_range(module):
    module.setup("validate")
    images = module.denormalize(next(iter(module.val_dataloader()))["image"])
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.max() > 0.1


def test_scenes_data_module__denormalize_inverts_the_normalization():
    module = scenes()
    batch = next(iter(module.val_dataloader()))
    original = module.datasets["val"].gather(torch.arange(4))["image"]
    assert torch.allclose(module.denormalize(batch["image"]), original, atol=1e-6)


def test_scenes_data_module__validation_is_balanced_and_training_is_not():
    module = ScenesDataModule(image_size=16, train_size=80, val_size=16)
    module.setup("fit")
    assert torch.bincount(module.datasets["val"].groups).tolist() == [2] * 8
    assert torch.bincount(module.datasets["train"].groups).tolist() == [1, 19, 1, 19, 19, 1, 19, 1]
    assert module.group_names[1] == "boat on water"


def test_scenes_data_module__only_training_loses_masks():
    module = scenes(mask_fraction=0.2)
    module.setup("fit")
    assert int(module.datasets["train"].annotated.sum()) == 2
    assert module.datasets["val"].annotated.all()


def test_scenes_data_module__flips_image_and_mask_together_in_training_only():
    module = scenes(drop_last=True)
    module.setup("fit")
    images, masks = module.datasets["train"].pictures
    for batch in module.train_dataloader():
        for image, mask, name in zip(module.denormalize(batch["image"]), batch["mask"], batch["id"], strict=True):
            index = int(name.split("/")[1])
            flipped = not torch.allclose(image, images[index].float() / 255, atol=1e-5)
            expected = masks[index].flip(-1) if flipped else masks[index]
            assert torch.equal(mask, expected.float())
    assert not module.loader("val").collate_fn.flip


def test_scenes_data_module__drop_last_leaves_out_the_remainder():
    assert len(scenes(drop_last=True).train_dataloader()) == 2
    assert len(scenes().train_dataloader()) == 3


def test_scenes_data_module__workers_yield_the_same_batches():
    module = scenes()
    alone = list(module.val_dataloader())
    module.num_workers = 1
    for expected, batch in zip(alone, module.val_dataloader(), strict=True):
        assert torch.equal(expected["image"], batch["image"])


def test_scenes_data_module__setup_builds_once():
    module = scenes()
    module.setup("fit")
    train = module.datasets["train"]
    module.setup("fit")
    assert module.datasets["train"] is train
    assert "test" not in module.datasets


def test_batch_format__triple_and_pair():
    images, labels, masks = next(iter(scenes(batch_format="triple").val_dataloader()))
    assert (images.shape, labels.shape, masks.shape) == ((4, 3, 24, 24), (4,), (4, 24, 24))
    pair = next(iter(scenes(batch_format="pair").val_dataloader()))
    assert isinstance(pair, MaskedPair)
    assert torch.equal(pair.masks, masks)
    assert pair.groups.shape == (4,)


def test_decoy_data_module__has_one_channel_and_both_groups(digits):
    module = DecoyDataModule(str(digits), "mnist", train_size=100, mask_fraction=0.1)
    module.setup()
    assert next(iter(module.train_dataloader()))["image"].shape == (100, 1, 28, 28)
    assert int(module.datasets["train"].annotated.sum()) == 10
    assert len(module.datasets["val"]) == 40
    assert module.group_names[0] == "matching decoy"


def test_image_folder_data_module__parts_are_disjoint_and_stratified(class_folders):
    module = folder(class_folders)
    module.setup("fit")
    ids = {split: {sample.id for sample in module.datasets[split].samples} for split in ("train", "val")}
    assert ids["train"].isdisjoint(ids["val"])
    assert sorted(name.split("/")[0] for name in ids["val"]) == ["cat", "dog"]


def test_image_folder_data_module__follows_the_splits_of_an_index(class_folders):
    (class_folders / "index.csv").write_text(
        "file,label,split\ncat/0.png,cat,train\ndog/0.png,dog,train\ncat/1.png,cat,val\ndog/1.png,dog,test\n"
    )
    module = folder(class_folders, index="index.csv")
    module.setup()
    assert [[s.id for s in module.datasets[split].samples] for split in ("val", "test")] == [
        ["cat/1.png"],
        ["dog/1.png"],
    ]


@pytest.mark.parametrize(
    "module",
    [DecoyDataModule("gone"), ImageFolderDataModule("gone"), CocoDataModule("gone", "gone.json")],
    ids=["decoy", "folder", "coco"],
)
def test_data_modules__a_missing_folder_is_an_error_in_setup(module):
    with pytest.raises(DataError, match="gone"):
        module.setup("fit")


@pytest.mark.parametrize("arguments", [{"batch_format": "dict"}, {"num_workers": -1}])
def test_data_modules__bad_arguments_are_refused_at_construction(arguments):
    name = next(iter(arguments))
    with pytest.raises(Exception, match=name):  # the type checks of the tests come first for a Literal
        scenes(**arguments)


def test_collate__names_an_unknown_format():
    with pytest.raises(ConfigurationError, match="mapping, triple, pair; got 'dict'"):
        Collate("dict")


def test_normalize__and_denormalize_are_inverse():
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    moved = normalize(images, mean, std)
    assert torch.allclose(moved[:, 1], (images[:, 1] - 0.5) / 0.3)
    assert torch.allclose(denormalize(moved, mean, std), images)


def test_flip_some__flips_about_half():
    torch.manual_seed(0)
    images = torch.arange(4.0).expand(200, 1, 1, 4)
    flipped, masks = flip_some(images, images[:, 0])
    assert torch.equal(flipped[:, 0], masks)
    assert 70 < int((flipped[:, 0, 0, 0] == 3).sum()) < 130


class Plain(pl.LightningModule):
    """A module that knows nothing of masks."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 10))

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch, _):
        self.log("loss", self.training_step(batch, _))  # Lightning infers the batch size from the pair

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Seen(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batch = batch


def test_masked_pair__trains_a_plain_module_and_reaches_callbacks_with_masks(make_trainer):
    seen = Seen()
    make_trainer(callbacks=[seen]).fit(Plain(3, 24), datamodule=scenes(batch_format="pair"))
    assert read_batch(seen.batch).masks.shape[1:] == (24, 24)


@pytest.mark.parametrize("kind", [ScenesDataModule, DecoyDataModule, ImageFolderDataModule, CocoDataModule])
def test_data_modules__can_be_made_from_the_command_line(kind):
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "data")
    needed = {
        ImageFolderDataModule: ["--data.root=x"],
        CocoDataModule: ["--data.images_dir=x", "--data.annotation_file=y"],
    }
    config = parser.parse_args([*needed.get(kind, []), "--data.batch_size=7", "--data.batch_format=pair"])
    assert parser.instantiate_classes(config).data.batch_size == 7
    assert "batch_format" in parser.dump(config)


def test_mapping__says_to_a_step_that_reads_pairs_what_gives_them():
    batch = next(iter(DataLoader([{"image": torch.zeros(3, 4, 4), "label": 1}] * 2, 2, collate_fn=Collate())))
    assert torch.equal(batch["label"], torch.tensor([1, 1]))
    with pytest.raises(BatchError, match=r"with image, label, and the step reads batch\[0\].*batch_format='pair'"):
        batch[0]
    with pytest.raises(KeyError, match="mask"):
        batch["mask"]
    moved = move_data_to_device(batch, torch.device("cpu"))
    with pytest.raises(BatchError, match="batch_format"):
        moved[1]
