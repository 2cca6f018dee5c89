from types import SimpleNamespace

import pytest
import torch
from torch import nn

from camtrain.errors import ConfigurationError
from camtrain.loading import build_network, load_model, load_weights, model_names, zoo_names
from camtrain.module import ImageClassifier
from camtrain.networks import DecoyNet, SmallResNet


def test_decoy_net__has_the_published_layers():
    layers = [(type(m).__name__, tuple(m.weight.shape)) for m in DecoyNet() if hasattr(m, "weight")]
    assert layers == [
        ("Conv2d", (20, 1, 5, 5)),
        ("Conv2d", (50, 20, 5, 5)),
        ("Linear", (256, 800)),
        ("Linear", (10, 256)),
    ]


def test_small_resnet__keeps_a_map_of_an_eighth_of_the_image():
    network, images = SmallResNet(num_classes=3), torch.rand(2, 3, 96, 96)
    assert network.blocks(network.stem(images)).shape == (2, 64, 12, 12)
    assert network(images).shape == (2, 3)


def test_small_resnet__is_the_mean_of_a_linear_head_over_cells():
    network, images = SmallResNet(num_classes=3, width=4).eval().double(), torch.rand(2, 3, 32, 32).double()
    cells = network.blocks(network.stem(images))
    logits = torch.einsum("bkhw,ck->bc", cells, network.head.weight) / cells[0, 0].numel() + network.head.bias
    torch.testing.assert_close(network(images), logits)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "ResNet18", "squeezenet1_1"])
def test_build_network__gives_any_torchvision_name_the_classes_asked_for(name):
    with torch.device("meta"):
        assert build_network(name, num_classes=5)(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_build_network__passes_options_on():
    assert build_network("camtrain.networks.SmallResNet", 2, width=4).head.in_features == 16
    assert build_network("mobilenet_v3_small", 2, dropout=0.5).classifier[2].p == 0.5


def test_build_network__returns_a_network_as_it_is():
    network = nn.Linear(2, 2)
    assert build_network(network, num_classes=7) is network


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet19", r"No network named 'resnet19' in torchvision.models; closest: 'resnet1"),
        ("no.such.module.Net", r"Cannot import a network from 'no.such.module.Net': No module named 'no'"),
        ("camtrain.networks.Missing", r"Cannot import a network from 'camtrain.networks.Missing'"),
        ("torch.nn.Identity2", r"Cannot import"),
        ("torch.nn.ReLU", r"torch.nn.ReLU is called with num_classes=5 and refused it"),
        ("builtins.dict", r"must build a torch.nn.Module; it built dict"),
    ],
)
def test_build_network__says_what_is_wrong_with_a_name(model, said):
    with pytest.raises(ConfigurationError, match=said):
        build_network(model, num_classes=5)


def test_load_weights__loads_what_fits_and_names_the_rest(tmp_path):
    source, target = SmallResNet(5, width=4), SmallResNet(2, width=4)
    state = source.state_dict()
    del state["stem.0.weight"]
    torch.save(state | {"extra": torch.zeros(1)}, tmp_path / "weights.pth")
    head = target.head.weight.clone()
    loaded = load_weights(target, str(tmp_path / "weights.pth"))
    assert loaded.missing == ("stem.0.weight",)
    assert loaded.mismatched == ("head.weight", "head.bias")
    assert loaded.unexpected == ("extra",)
    assert loaded.loaded == len(state) - 2
    assert torch.equal(target.head.weight, head)
    assert torch.equal(target.blocks[0].body[0].weight, source.blocks[0].body[0].weight)
    assert "2 mismatched (head.weight, head.bias)" in str(loaded)


def test_load_weights__reads_the_network_of_a_lightning_checkpoint(tmp_path):
    source, target = DecoyNet(), DecoyNet()
    state = {f"network.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    assert load_weights(target, str(tmp_path / "last.ckpt")).loaded == len(state)
    assert torch.equal(target[0].weight, source[0].weight)


@pytest.mark.parametrize(
    ("weights", "model", "said"),
    [
        ("nowhere/weights.pth", None, r"No weights file nowhere/weights.pth"),
        ("IMAGENET1K_V9", "resnet18", r"No weights 'IMAGENET1K_V9' for resnet18; there are IMAGENET1K_V1"),
        ("DEFAULT", None, r"needs a torchvision model's name"),
        ("DEFAULT", "camtrain.networks.DecoyNet", r"There are no torchvision weights for camtrain.networks.DecoyNet"),
    ],
)
def test_load_weights__says_what_is_wrong_with_a_source(weights, model, said):
    with pytest.raises(ConfigurationError, match=said):
        load_weights(DecoyNet(), weights, model)


def test_load_weights__refuses_weights_of_which_nothing_fits(tmp_path):
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigurationError, match=r"Nothing in .*other.pth fits DecoyNet: it holds a, b"):
        load_weights(DecoyNet(), str(tmp_path / "other.pth"))


def test_load_weights__loads_real_torchvision_weights(shared_data):
    network = build_network("mobilenet_v2", num_classes=7)
    loaded = load_weights(network, str(shared_data / "weights" / "mobilenet_v2-b0353104.pth"))
    assert loaded.mismatched == ("classifier.1.weight", "classifier.1.bias")
    assert not loaded.missing
    assert not loaded.unexpected


def test_model_names__come_from_the_file_the_network_its_configuration_or_its_checkpoint(tmp_path):
    network = torch.nn.Linear(1, 2)
    assert model_names(network, None) is None
    torch.save({"state_dict": {}, "hyper_parameters": {"class_names": ["a", "b"]}}, tmp_path / "a.ckpt")
    assert model_names(network, None, str(tmp_path / "a.ckpt")) == ["a", "b"]
    network.config = SimpleNamespace(id2label={1: "dog", 0: "cat"})
    assert model_names(network, None, str(tmp_path / "a.ckpt")) == ["cat", "dog"]
    network.class_names = ("hen", "cow")
    assert model_names(network, None) == ["hen", "cow"]
    (tmp_path / "names.txt").write_text("sky\nsea\n")
    assert model_names(network, tmp_path / "names.txt") == ["sky", "sea"]


def test_zoo_names__are_those_of_the_weights_of_as_many_classes():
    assert zoo_names("torchvision:mobilenet_v2", 1000)[281] == "tabby"
    assert zoo_names("torchvision:mobilenet_v2", 999) is None
    assert zoo_names("torchvision:fcn_resnet50", 21)[1] == "aeroplane"
    assert zoo_names("camtrain.networks.DecoyNet", 10) is None
    pytest.importorskip("timm")
    assert zoo_names("timm:resnet18", 1000)[285] == "Egyptian cat"
    assert zoo_names("timm:resnet18", 10) is None


def test_load_model__asks_for_the_class_where_a_checkpoint_does_not_say_it(tmp_path, make_trainer):
    module = ImageClassifier("camtrain.networks.SmallResNet", 3, model_kwargs={"width": 4})
    trainer = make_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    with pytest.raises(ConfigurationError, match="does not say of which class it is: give --model package"):
        load_model(str(tmp_path / "model.ckpt"), None, None)
