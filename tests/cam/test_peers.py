"""Other libraries' numbers, where they are right; where they are not, the whole graph in float64 says what is."""

import pytest
import torch

from camtrain import explain
from camtrain.cam import normalize, true_class

LABELS = torch.tensor([0, 3, 1, 4])


@pytest.fixture
def images():
    return torch.rand(4, 3, 9, 9)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_grad_cam__is_that_of_captum(make_net, images, dtype, error, layer):
    attr = pytest.importorskip("captum.attr")
    net, images = make_net(inplace=False).to(dtype).eval(), images.to(dtype)
    expected = attr.LayerGradCam(net, net[layer]).attribute(images, target=LABELS, relu_attributions=True)
    found = explain(net, images, layers=str(layer), methods="grad_cam", target=true_class, labels=LABELS)
    peak = expected.abs().max().item()
    torch.testing.assert_close(found.heatmaps["grad_cam"], expected[:, 0], rtol=error, atol=error * peak)


@pytest.mark.parametrize("layer", [0, 1])  # at the size of the image, so that nothing is resized
def test_grad_cam__normalized_is_that_of_pytorch_grad_cam(make_net, images, layer):
    peer = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net = make_net(inplace=False).eval()
    with peer.GradCAM(model=net, target_layers=[net[layer]]) as method:
        classes = [targets.ClassifierOutputTarget(label) for label in LABELS.tolist()]
        expected = torch.from_numpy(method(input_tensor=images, targets=classes))
    found = explain(net, images, layers=str(layer), methods="grad_cam", target=true_class, labels=LABELS)
    torch.testing.assert_close(normalize(found.heatmaps["grad_cam"]), expected, rtol=0, atol=1e-5)


def test_grad_cam__is_that_of_torchcam(make_net, images):
    methods = pytest.importorskip("torchcam.methods")
    net = make_net(inplace=False).eval()
    with methods.GradCAM(net, target_layer="3") as extractor:
        expected = extractor(LABELS.tolist(), net(images), normalized=False)[0]
    found = explain(net, images, layers="3", methods="grad_cam", target=true_class, labels=LABELS)
    torch.testing.assert_close(found.heatmaps["grad_cam"], expected.detach().reshape(4, 4, 4), rtol=1e-5, atol=1e-7)


def test_grad_cam__before_an_in_place_operation_is_that_of_float64(make_net, images, whole):
    from camtrain.cam import grad_cam

    net = make_net(inplace=True).eval()
    truth = whole(net, images, "3", lambda z: z.gather(1, LABELS[:, None]))
    expected = grad_cam(truth.activations, truth.gradients)
    found = explain(net, images, layers="3", methods="grad_cam", target=true_class, labels=LABELS)
    torch.testing.assert_close(found.heatmaps["grad_cam"].double(), expected, rtol=1e-4, atol=1e-6)
    assert (truth.activations < 0).any()  # which a ReLU in place has wiped out for whoever kept the tensor itself
