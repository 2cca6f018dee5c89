import pytest
import torch

from camtrain.errors import BatchError
from camtrain.metrics import average_drop, confidence_increase, masked_confidences

IMAGE = torch.tensor([[[[0.4, 0.3], [0.2, 0.1]]]])


def test_average_drop__of_the_first_pixel_alone_is_the_hand_worked_one(pixel_sum):
    model, confidence = pixel_sum
    heat = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    found = masked_confidences(model, IMAGE, {"mine": heat}, target=confidence)["mine"]
    assert found.before.item() == pytest.approx(1.0)
    assert average_drop(found.before, found.after).item() == pytest.approx(0.6)


def test_masked_confidences__replace_what_is_cold_by_the_baseline(pixel_sum):
    model, confidence = pixel_sum
    heat = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    found = masked_confidences(model, IMAGE, {"mine": heat}, target=confidence, baseline=0.5)["mine"]
    assert found.after.item() == pytest.approx(0.4 + 3 * 0.5)


def test_masked_confidences__of_an_empty_map_are_nan(pixel_sum):
    model, confidence = pixel_sum
    found = masked_confidences(model, IMAGE, {"empty": torch.zeros(1, 2, 2)}, target=confidence)["empty"]
    assert found.after.isnan().all()
    assert found.before.isfinite().all()


def test_masked_confidences__are_those_of_torchcam(net):
    cams, metrics = pytest.importorskip("torchcam.methods"), pytest.importorskip("torchcam.metrics")
    net.eval()
    images = torch.rand(6, 3, 12, 12)
    with cams.LayerCAM(net, net[2]) as extractor:  # at the size of the image, so that nothing is resized
        peer = metrics.ClassificationMetric(extractor, torch.nn.Softmax(dim=-1))
        peer.update(images)
        scores = net(images).softmax(1)  # whose gradient the peer takes
        heat = extractor(scores.argmax(1).tolist(), scores)[0].detach()
    found = masked_confidences(net, images, {"layer_cam": heat})["layer_cam"]
    assert average_drop(found.before, found.after).mean().item() == pytest.approx(peer.summary()["avg_drop"], abs=1e-5)
    increase = confidence_increase(found.before, found.after).mean().item()
    assert increase == pytest.approx(peer.summary()["conf_increase"])


def test_average_drop__is_not_that_of_pytorch_grad_cam_which_does_not_divide(pixel_sum):
    peer = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image").DropInConfidence()
    model, confidence = pixel_sum
    heat = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    theirs = peer(2 * IMAGE, heat.numpy(), [lambda output: output[0]], model)
    ours = masked_confidences(model, 2 * IMAGE, {"mine": heat}, target=confidence)["mine"]
    assert theirs.item() == pytest.approx(1.2)  # 2 - 0.8
    assert average_drop(ours.before, ours.after).item() == pytest.approx(0.6)  # (2 - 0.8) / 2


def test_masked_confidences__with_known_logits_are_the_same_and_spare_a_forward(net):
    images, heat = torch.rand(3, 3, 12, 12), {"a": torch.rand(3, 4, 4), "b": torch.rand(3, 6, 6)}
    expected = masked_confidences(net, images, heat)
    with torch.no_grad():
        logits = net.eval()(images)
    calls = []
    with net.register_forward_hook(lambda *_: calls.append(1)):
        found = masked_confidences(net, images, heat, logits=logits)
    for name in heat:
        torch.testing.assert_close(found[name].after, expected[name].after)
    assert len(calls) == 1


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4)])
def test_masked_confidences__need_a_heatmap_for_each_image(net, shape):
    with pytest.raises(BatchError, match="heatmaps of 'mine'"):
        masked_confidences(net, torch.rand(3, 3, 12, 12), {"mine": torch.rand(shape)})


def test_masked_confidences__need_a_confidence_for_each_image(net):
    with pytest.raises(BatchError, match="one confidence for each of 3 images"):
        masked_confidences(net, torch.rand(3, 3, 12, 12), {"a": torch.rand(3, 4, 4)}, target=lambda z, _: z)
