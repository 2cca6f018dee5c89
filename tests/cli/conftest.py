import cv2
import numpy as np
import pytest
import torch

from camtrain.networks import SmallResNet


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures of three classes, with masks."""
    generator = np.random.default_rng(0)
    for index in range(12):
        name = ("boat", "car", "hen")[index % 3]
        for kind in ("images", "masks"):
            (tmp_path / "photos" / kind / name).mkdir(parents=True, exist_ok=True)
        picture = generator.integers(0, 256, (24, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / "images" / name / f"{index}.jpg"), picture)
        mask = np.zeros((24, 32), np.uint8)
        mask[:12] = 255
        cv2.imwrite(str(tmp_path / "photos" / "masks" / name / f"{index}.png"), mask)
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path):
    """The words that name a small network and its weights."""
    torch.manual_seed(0)
    torch.save(SmallResNet(3).state_dict(), tmp_path / "weights.pth")
    return ["--model", "camtrain.networks.SmallResNet", "--weights", str(tmp_path / "weights.pth"), "--size", "32"]


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("boat\ncar\nhen\n")
    return ["--classes", str(path)]
