from contextlib import nullcontext

import pytest
import torch

from camtrain.errors import ConfigurationError
from camtrain.metrics import blur, insertion_deletion

IMAGE = torch.tensor([[[[0.4, 0.3], [0.2, 0.1]]]])
ROW = torch.tensor([[[[0.3, 0.25, 0.2, 0.15, 0.1]]]])


@pytest.mark.parametrize(
    ("image", "steps", "fractions", "deletion", "insertion"),
    [(IMAGE, 2, [0, 0.5, 1], 0.4, 0.6), (ROW, 3, [0, 0.4, 0.8, 1], 0.41, 0.59), (IMAGE, 1, [0, 1], 0.5, 0.5)],
    ids=["two steps", "an uneven last step", "one step"],
)
def test_curves__of_a_sum_of_pixels_have_the_hand_worked_areas(pixel_sum, image, steps, fractions, deletion, insertion):
    model, confidence = pixel_sum
    found = insertion_deletion(model, image, {"mine": image[:, 0]}, target=confidence, steps=steps, start=0.0)["mine"]
    assert found.fractions.tolist() == pytest.approx(fractions)
    assert found.deletion_auc.item() == pytest.approx(deletion)
    assert found.insertion_auc.item() == pytest.approx(insertion)


def test_curves__are_those_of_a_loop_over_pixels(net):
    images, heat = torch.rand(3, 3, 12, 12), torch.rand(3, 12, 12)
    found = insertion_deletion(net, images, {"mine": heat}, steps=7, max_batch=5)["mine"]
    net.eval()
    start = blur(images)
    for row in range(3):
        order = heat[row].flatten().argsort(descending=True)
        chosen = net(images[row : row + 1]).argmax()
        for place, count in enumerate([0, 21, 42, 63, 84, 105, 126, 144]):
            deleted, inserted = images[row].flatten(1).clone(), start[row].flatten(1).clone()
            deleted[:, order[:count]] = 0
            inserted[:, order[:count]] = images[row].flatten(1)[:, order[:count]]
            both = torch.stack([deleted, inserted]).view(2, 3, 12, 12)
            expected = net(both).softmax(1)[:, chosen].tolist()
            values = [found.deletion[row, place].item(), found.insertion[row, place].item()]
            assert values == pytest.approx(expected, abs=1e-5)


class _Given:
    """A CAM extractor of torchcam's kind that returns maps it was given."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, *_, **__):
        return [self.maps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return nullcontext()


@pytest.mark.parametrize("steps", [6, 50])  # below and above the number of forwards that is worth folding
def test_curves__are_those_of_torchcam(net, steps):
    metrics = pytest.importorskip("torchcam.metrics")
    images, heat = torch.rand(4, 3, 12, 12), torch.rand(4, 12, 12)
    peer = metrics.DeletionInsertionMetric(_Given(net, heat), torch.nn.Softmax(dim=-1), steps=steps)
    peer.update(images)
    found = insertion_deletion(net, images, {"mine": heat}, steps=steps, start=0.0)["mine"]
    assert found.deletion_auc.mean().item() == pytest.approx(peer.summary()["deletion_auc"], abs=1e-5)
    assert found.insertion_auc.mean().item() == pytest.approx(peer.summary()["insertion_auc"], abs=1e-5)


@pytest.mark.filterwarnings("ignore")  # theirs, of what it imports
def test_deletion__is_that_of_quantus(net):
    quantus = pytest.importorskip("quantus")
    images, heat, net = torch.rand(3, 3, 12, 12), torch.rand(3, 12, 12), net.eval()
    options = {"disable_warnings": True, "abs": False, "normalise": False, "return_auc_per_sample": False}
    flipping = quantus.PixelFlipping(
        features_in_step=24 * 3, perturb_baseline=0.0, **options
    )  # a pixel is three of its
    expected = flipping(
        model=net,
        x_batch=images.numpy(),
        y_batch=net(images).argmax(dim=1).numpy(),
        a_batch=heat.unsqueeze(1).numpy(),
        softmax=True,
        channel_first=True,
    )
    found = insertion_deletion(net, images, {"mine": heat}, steps=6)["mine"]
    torch.testing.assert_close(found.deletion[:, 1:], torch.tensor(expected).float(), rtol=0, atol=1e-5)


def test_curves__of_several_methods_share_their_ends(net):
    images, maps = torch.rand(2, 3, 12, 12), {"a": torch.rand(2, 12, 12), "b": torch.rand(2, 6, 6)}
    seen = []
    with net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
        both = insertion_deletion(net, images, maps, steps=4)
    assert sum(seen) == 2 * (1 + 2 + 2 * 2 * 3)  # the image, both ends, and between for two methods and curves
    for name, heat in maps.items():
        alone = insertion_deletion(net, images, {name: heat}, steps=4)[name]
        torch.testing.assert_close(alone.insertion, both[name].insertion)
        torch.testing.assert_close(alone.deletion, both[name].deletion)


def test_curves__of_an_empty_map_are_nan_and_leave_others_alone(net):
    images, heat = torch.rand(2, 3, 12, 12), torch.rand(2, 4, 4)
    heat[0] = 0
    found = insertion_deletion(net, images, {"mine": heat}, steps=4)["mine"]
    assert found.insertion.isnan().all(dim=1).tolist() == [True, False]
    assert found.deletion_auc.isnan().tolist() == [True, False]
    assert insertion_deletion(net, images, {}) == {}


def test_curves__of_a_video_change_pixels_of_frames():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 6 * 6, 3))
    found = insertion_deletion(net, torch.rand(2, 3, 4, 6, 6), {"mine": torch.rand(2, 2, 3, 3)}, steps=5)["mine"]
    assert found.insertion.isfinite().all()
    assert found.deletion[:, 0].tolist() == pytest.approx(found.insertion[:, -1].tolist())


def test_curves__leave_the_model_and_the_random_state_as_they_were(net):
    net[1].eval()
    images, heat = torch.rand(4, 3, 12, 12), {"mine": torch.rand(4, 4, 4)}
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    values = {name: value.clone() for name, value in net.state_dict().items()}
    insertion_deletion(net, images, heat, steps=50)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in net.modules()] == modes
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())


def test_curves__need_a_step():
    with pytest.raises(ConfigurationError, match="steps=0"):
        insertion_deletion(torch.nn.Identity(), IMAGE, {"mine": IMAGE[:, 0]}, steps=0)


def test_blur__is_that_of_torchvision():
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = torch.rand(2, 3, 16, 20)
    torch.testing.assert_close(blur(images), functional.gaussian_blur(images, 11, 5.0))
    video = torch.rand(2, 3, 4, 16, 20)
    frames = functional.gaussian_blur(video.transpose(1, 2).flatten(0, 1), 11, 5.0).view(2, 4, 3, 16, 20)
    torch.testing.assert_close(blur(video), frames.transpose(1, 2))
