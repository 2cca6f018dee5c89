"""What a step asks: the call is found, places are kept or refused, and asking again gives the step's answer."""

import pytest
import torch
from torch import Tensor, nn

from camtrain.errors import ConfigurationError
from camtrain.tasks.calls import Calls, call_on, keeps_places, undo_values


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 2)
        self.other = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def heard(step, named=None):
    module, calls, images = (
        Module().eval(),
        Calls(),
        torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    calls.listen(module.modules(), module if named is None else getattr(module, named))
    output = step(module, images)
    return module, images, calls.take(), output


def test_call_on__takes_the_images_as_the_step_made_them_and_asks_again_alike():
    module, images, calls, output = heard(lambda module, images: module((images - 0.5) / 0.2))
    call = call_on(calls, images, module)
    assert call.module is module
    assert torch.equal(call.images, (images - 0.5) / 0.2)
    assert torch.equal(call.again(call.images), output)
    assert not module._forward_hooks


def test_call_on__of_several_calls_takes_the_one_on_the_images_themselves():
    module, images, calls, _ = heard(lambda module, images: module(images.flip(-1)) + module(images))
    assert call_on(calls, images, module).images is images
    module, images, calls, _ = heard(lambda module, images: module(images) + module(images.flip(-1)))
    assert call_on(calls, images, module).images is images


def test_call_on__finds_the_part_that_a_step_asks_past_its_module():
    module, images, calls, _ = heard(lambda module, images: module.other(images))
    assert call_on(calls, images, module).module is module.other


def test_call_on__hears_a_named_part_inside_another_call():
    module, images, calls, _ = heard(lambda module, images: module(images), named="backbone")
    assert call_on(calls, images, module.backbone).module is module.backbone


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda module, images: module(images.flip(-1)), "moves or mixes the images"),
        (lambda module, images: module(images[..., :6, :6]), "moves or mixes the images"),
        (lambda module, images: module.other(images) + module.backbone(images)[:, :2], "several modules"),
        (lambda module, images: images.mean(), "asks no module about images"),
        (lambda module, images: module.head(module.backbone(images)), "asks no module about images"),
    ],
)
def test_call_on__refuses_what_it_cannot_know(step, message):
    module, images, calls, _ = heard(step)
    with pytest.raises(ConfigurationError, match=message):
        call_on(calls, images, module)


def test_call_on__refuses_a_network_that_is_given_more_than_images():
    class Two(nn.Module):
        def forward(self, images: Tensor, more: Tensor) -> Tensor:
            return images.mean(dim=(2, 3)) + more

    net, calls, images = Two(), Calls(), torch.rand(2, 3, 4, 4)
    calls.listen([net], net)
    net(images, torch.ones(3))
    with pytest.raises(ConfigurationError, match=r"more than images \(\(3,\)\)"):
        call_on(calls.take(), images, net)


def test_keeps_places__of_bytes_and_of_another_size():
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    images = torch.stack([(y * 7 + x * k) % 64 for k in (1, 2, 3)]).unsqueeze(1).expand(3, 3, 32, 32)
    smooth = nn.functional.avg_pool2d(images.float(), 5, 1, 2)
    pixels = smooth.round().byte()
    assert keeps_places(pixels, pixels.float() / 255)
    assert keeps_places(smooth, nn.functional.interpolate(smooth, (20, 20), mode="bilinear", antialias=True))
    assert not keeps_places(smooth, smooth[..., 8:, 8:])
    assert not keeps_places(smooth, smooth.flip(-2))


def test_undo_values__by_channel():
    images = torch.rand(4, 3, 8, 8)
    given = (images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 1.0, 2.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(undo_values(images, given)(given), images, atol=1e-5, rtol=0)
