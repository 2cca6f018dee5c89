import pytest
import torch
from torch import nn

from camtrain.cam.passes import quickened


def _trained_norms(net, size=(8, 3, 10, 10)):
    with torch.no_grad():
        for _ in range(10):
            net(3 * torch.randn(size) - 1)
    return net.eval()


def _plain():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, groups=3, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


class Viewing(nn.Module):
    """Calls `view`, which refuses images whose channels come last."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(384, 4)

    def forward(self, images):
        return self.head(self.norm(self.convolution(images)).view(len(images), -1))


class Reusing(Viewing):
    """Uses the convolution's own output beside its normalized one: it cannot be folded."""

    def forward(self, images):
        maps = self.convolution(images)
        return self.head((self.norm(maps) + maps).flatten(1))


def _used(net, images):
    """The logits within, and whether normalization was folded and channels came last."""
    with torch.no_grad(), quickened(net, images) as layout:
        laid_out = layout(images)
        folded = any("forward" in vars(module) for module in net.modules())
        return net(laid_out), folded, not laid_out.is_contiguous()


@pytest.mark.parametrize(
    ("make", "expected"), [(_plain, (True, True)), (Viewing, (True, False)), (Reusing, (False, True))]
)
def test_quickened__gives_the_same_logits_by_what_the_model_allows(make, expected):
    net, images = _trained_norms(make()), torch.randn(4, 3, 10, 10)
    found, *used = _used(net, images)
    with torch.no_grad():
        torch.testing.assert_close(found, net(images), rtol=1e-4, atol=1e-4)
    assert tuple(used) == expected


@pytest.mark.parametrize("watch", ["hook", "training", "patched"])
def test_quickened__folds_no_module_that_is_watched_training_or_patched(watch):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2))
    _trained_norms(net)
    if watch == "hook":
        net[0].register_forward_hook(lambda *_: None)
    elif watch == "training":
        net[1].train()
    else:
        net[0].forward = net[0].forward
    before = dict(vars(net[0]))
    with torch.no_grad(), quickened(net, torch.randn(4, 3, 10, 10)):
        assert vars(net[0]).get("forward") is before.get("forward")
        assert "forward" not in vars(net[1])


def test_quickened__lets_pass_a_model_whose_logits_are_not_finite():
    net, images = _trained_norms(_plain()), torch.randn(4, 3, 10, 10)
    with torch.no_grad():
        net[-1].bias.fill_(torch.nan)
    found, folded, laid_out = _used(net, images)
    assert found.isnan().all()
    assert (folded, laid_out) == (False, False)


def test_quickened__leaves_nothing_behind_after_an_error():
    net = _trained_norms(_plain())
    with pytest.raises(KeyError), torch.no_grad(), quickened(net, torch.randn(2, 3, 10, 10)):
        raise KeyError
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_quickened__lets_pass_what_has_no_logits_or_images():
    class Boxes(nn.Module):
        def forward(self, images):
            return {}

    for net, images in ((Boxes(), torch.rand(2, 3, 4, 4)), (_trained_norms(_plain()), torch.rand(0, 3, 10, 10))):
        with quickened(net, images) as layout:
            assert layout(images) is images
