import pytest
import torch

from camtrain.errors import BatchError, ConfigurationError
from camtrain.metrics import impute, road


def _solved_directly(image, missing):
    """The linear system written out, in float64."""
    weight = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12}
    cells = [tuple(cell) for cell in missing.nonzero().tolist()]
    system, right = torch.zeros(len(cells), len(cells)).double(), torch.zeros(len(cells)).double()
    for row, (y, x) in enumerate(cells):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                there = (y + dy, x + dx)
                if (dy, dx) == (0, 0) or not (0 <= there[0] < image.shape[0] and 0 <= there[1] < image.shape[1]):
                    continue
                system[row, row] += weight[abs(dy), abs(dx)]
                if there in cells:
                    system[row, cells.index(there)] -= weight[abs(dy), abs(dx)]
                else:
                    right[row] += weight[abs(dy), abs(dx)] * image[there]
    return dict(zip(cells, torch.linalg.solve(system, right).tolist(), strict=True))


def test_impute__solves_the_linear_system():
    images, missing = torch.rand(2, 1, 6, 7), torch.rand(2, 6, 7) > 0.4
    filled = impute(images, missing, noise=0.0, tolerance=1e-6)
    for image, mask, found in zip(images[:, 0], missing, filled[:, 0], strict=True):
        for cell, value in _solved_directly(image, mask).items():
            assert found[cell].item() == pytest.approx(value, abs=1e-4)
        assert torch.equal(found[~mask], image[~mask])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, of NumPy
def test_impute__is_that_of_pytorch_grad_cam():
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0.0)
    images, missing = torch.rand(2, 3, 16, 16), torch.rand(2, 16, 16) > 0.3
    expected = torch.stack([peer(image, (~mask).float()) for image, mask in zip(images, missing, strict=True)])
    torch.testing.assert_close(impute(images, missing, noise=0.0, tolerance=1e-6), expected, rtol=0, atol=1e-4)


def test_impute__adds_the_noise_to_missing_pixels_alone_and_fills_a_lost_image_with_its_mean():
    images, missing = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    missing[0, :4], missing[1] = True, True
    difference = impute(images, missing, noise=0.1, generator=torch.Generator().manual_seed(0)) - impute(
        images, missing, noise=0.0
    )
    assert difference[0, :, 4:].abs().max() == 0
    assert difference[0, :, :4].std().item() == pytest.approx(0.1, rel=0.3)
    torch.testing.assert_close(
        impute(images, missing, noise=0.0)[1], images[1].mean((1, 2)).view(3, 1, 1).expand(3, 8, 8)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, of NumPy
def test_road__is_that_of_pytorch_grad_cam(net):
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images, heat, net = torch.rand(2, 3, 12, 12), torch.rand(2, 12, 12), net.eval()
    heat = (heat - heat.amin((1, 2), keepdim=True)) / (
        heat.amax((1, 2), keepdim=True) - heat.amin((1, 2), keepdim=True)
    )
    classes = net(images).argmax(1).tolist()
    targets = [lambda output, c=c: output.softmax(0)[c] for c in classes]
    kept = (25, 50, 75)
    first, last = (
        sum(
            peer.PerturbationConfidenceMetric(kind(p, peer.NoisyLinearImputer(noise=0.0)))(
                images, heat.numpy(), targets, net
            )
            for p in kept
        )
        / len(kept)
        for kind in (peer.RemoveMostRelevantFirst, peer.RemoveLeastRelevantFirst)
    )
    found = road(net, images, {"mine": heat}, percentiles=(25, 50, 75), noise=0.0)["mine"]
    assert found.tolist() == pytest.approx(((last - first) / 2).tolist(), abs=2e-3)  # a pixel more or less at a tie


def test_road__rewards_the_map_of_the_pixels_that_count(pixel_sum):
    model, confidence = pixel_sum
    images = torch.zeros(1, 1, 10, 10)
    images[..., 3:6, 3:6] = 1
    maps = {"right": images[:, 0] + 0.01 * torch.rand(1, 10, 10), "wrong": 1 - images[:, 0], "empty": 0 * images[:, 0]}
    found = road(model, images, maps, target=confidence, percentiles=(20,), noise=0.0)
    assert found["right"].item() > 1 > -1 > found["wrong"].item()
    assert found["empty"].isnan().all()


def test_road__does_not_depend_on_the_batch(net):
    images, heat = torch.rand(3, 3, 12, 12), torch.rand(3, 4, 4)
    whole = road(net, images, {"mine": heat})["mine"]
    torch.testing.assert_close(road(net, images[1:2], {"mine": heat[1:2]}, max_batch=2)["mine"], whole[1:2])


def test_road__refuses_what_it_cannot_remove(net):
    with pytest.raises(ConfigurationError, match="between 0 and 100"):
        road(net, torch.rand(1, 3, 12, 12), {"mine": torch.rand(1, 4, 4)}, percentiles=(0,))
    with pytest.raises(BatchError, match="not \\(1, 3, 2, 4, 4\\)"):
        road(net, torch.rand(1, 3, 2, 4, 4), {"mine": torch.rand(1, 2, 4, 4)})
