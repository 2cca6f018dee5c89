"""The engine against closed forms and whole-graph autograd in float64."""

import pytest
import torch
import torchvision
from torch import nn

from camtrain import explain
from camtrain.cam import Layer, capture, grad_cam, gradients_of, log_probability, predicted_class, true_class
from camtrain.cam.capture import capture_each
from camtrain.errors import BatchError, GradientError, LayerError

METHODS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "contribution_cam")


def test_grad_cam__under_a_pooled_linear_head_is_the_class_activation_map(make_net):
    net, images = make_net().double().eval(), torch.rand(4, 3, 9, 9, dtype=torch.float64)
    captured = capture(net, images, "4")
    weights = net[8].weight[captured.logits.argmax(dim=1)]  # (B, K)
    cells = captured.activations[0].shape[2:].numel()
    expected = torch.einsum("bk,bkhw->bhw", weights, captured.activations[0]).relu() / cells
    torch.testing.assert_close(grad_cam(captured.activations[0], captured.gradients[0]), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4"])
@pytest.mark.parametrize("frozen", [False, True])
def test_capture__equals_the_whole_graph_before_and_after_in_place_operations(make_net, whole, layer, frozen):
    net, images = make_net().eval().requires_grad_(not frozen).double(), torch.rand(3, 3, 9, 9).double()
    captured = capture(net, images, layer)
    truth = whole(net, images, layer, lambda z: z.amax(dim=1))
    torch.testing.assert_close(captured.activations[0], truth.activations, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(captured.gradients[0], truth.gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4.1.bn2"),  # followed by an in-place addition
        ("resnet18", "layer4.1.bn1"),  # followed by an in-place ReLU
        ("densenet121", "features"),  # followed by a functional in-place ReLU
    ],
)
def test_capture__of_a_layer_that_is_written_over_equals_float64(whole, name, layer):
    net = getattr(torchvision.models, name)(num_classes=7).eval()
    images = torch.randn(3, 3, 64, 64)  # three classes of their own: each image must get its own gradient
    labels = torch.tensor([0, 3, 5])
    captured = capture(net, images, layer, true_class, labels=labels)
    truth = whole(net, images, layer, lambda z: z.gather(1, labels[:, None]))
    for found, expected in ((captured.activations[0], truth.activations), (captured.gradients[0], truth.gradients)):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    one_by_one = [capture(net, images[i : i + 1], layer, true_class, labels=labels[i : i + 1]) for i in range(3)]
    alone = torch.cat([one.gradients[0] for one in one_by_one])
    torch.testing.assert_close(captured.gradients[0], alone, rtol=1e-3, atol=1e-5 * alone.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_explain__of_a_batch_is_that_of_each_image_and_of_the_permuted_batch(make_net, method):
    net, images, order = make_net().double(), torch.rand(5, 3, 9, 9).double(), torch.tensor([3, 0, 4, 1, 2])
    labels = torch.tensor([0, 1, 2, 3, 4])

    def maps(images, labels):
        explanation = explain(net, images, layers="3", methods=method, target=true_class, labels=labels)
        return explanation.heatmaps[method]

    together = maps(images, labels)
    alone = torch.cat([maps(images[i : i + 1], labels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(maps(images[order], labels[order]), together[order], rtol=1e-11, atol=1e-13)


def test_capture__of_several_layers_equals_each_on_its_own(make_net):
    net, images = make_net().double(), torch.rand(2, 3, 9, 9).double()
    both = capture(net, images, ["4", "0"])
    for position, name in enumerate(["4", "0"]):
        alone = capture(net, images, name)
        torch.testing.assert_close(both.activations[position], alone.activations[0], rtol=0, atol=0)
        torch.testing.assert_close(both.gradients[position], alone.gradients[0], rtol=1e-12, atol=1e-15)


def test_capture_each__makes_one_forward_for_all_targets(make_net):
    net, images, calls = make_net(), torch.rand(2, 3, 9, 9), []
    net.register_forward_hook(lambda *_: calls.append(1))
    captures = capture_each(net, images, "3", [lambda z, _, c=c: z[:, c] for c in range(3)])
    assert len(calls) == 1
    for index, captured in enumerate(captures):
        expected = capture(net, images, "3", lambda z, _, c=index: z[:, c])
        torch.testing.assert_close(captured.gradients[0], expected.gradients[0])


def test_capture__with_named_layers_makes_one_forward_and_a_small_graph(make_net):
    net, images, calls, saved = make_net(), torch.rand(4, 3, 64, 64), [], []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        capture(net, images, "4")
    assert len(calls) == 1
    assert max(t.numel() for t in saved) <= 4 * 8 * 31 * 31  # the head's input at most, no 64 x 64 map


def test_capture__for_training_leaves_mode_and_graph_whole(make_net):
    net, images = make_net().train(), torch.rand(2, 3, 9, 9)
    captured = capture(net, images, "3", log_probability, labels=torch.tensor([0, 1]), create_graph=True)
    (captured.gradients[0] * captured.activations[0]).abs().sum().backward()
    assert net.training
    assert net[0].weight.grad.abs().sum() > 0


def test_capture__of_a_layer_used_twice_explains_and_names_the_last_use(whole):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.conv(self.conv(x).relu()).relu().mean((2, 3)))

    net, images = Twice().double(), torch.rand(2, 3, 6, 6).double()
    captured = capture(net, images, "conv")
    truth = whole(net, images, "conv", lambda z: z.amax(dim=1))
    torch.testing.assert_close(captured.gradients[0], truth.gradients)
    torch.testing.assert_close(captured.activations[0], truth.activations)
    assert captured.layers[0].reason == "given; used 2 times, the last use that the answer depends on is explained"


def test_capture__of_a_layer_used_again_for_what_is_no_answer_means_the_answers_use():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Linear(2, 2)

        def forward(self, x):
            return {"logits": self.head(self.body(x).mean((2, 3))), "features": self.body(x.flip(-1))}

    torch.manual_seed(0)
    net, images = Net(), torch.rand(2, 1, 6, 6)
    captured = capture(net, images, "body")
    alone = capture(nn.Sequential(net.body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head), images, "0")
    torch.testing.assert_close(captured.activations[0], alone.activations[0])
    torch.testing.assert_close(captured.gradients[0], alone.gradients[0])
    assert captured.gradients[0].abs().sum() > 0
    assert "used 2 times" in capture(net, images).layers[0].reason


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_capture__does_not_depend_on_the_grad_mode_around_it(make_net, outer):
    net, images = make_net(), torch.rand(2, 3, 9, 9)
    expected = capture(net, images, "3", true_class, labels=torch.tensor([1, 2]))
    with outer():
        found = capture(net, images.clone(), "3", true_class, labels=torch.tensor([1, 2]))
        automatic = capture(net, images.clone())
        assert not found.gradients[0].requires_grad
        assert not found.logits.requires_grad
    torch.testing.assert_close(found.gradients[0], expected.gradients[0], rtol=0, atol=0)
    assert automatic.layers[0].name == "3"


def test_capture__crosses_a_no_grad_block_inside_the_model(whole):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x)
            return self.head(x)

    net, images = Frozen().double(), torch.rand(2, 3, 8, 8).double()
    free = nn.Sequential(net.body, *net.head)
    truth = whole(free, images, "0.0", lambda z: z.amax(dim=1))
    torch.testing.assert_close(capture(net, images, "body.0").gradients[0], truth.gradients)
    assert capture(net, images).layers[0].name == "body"


def test_explain__of_no_images_gives_no_heatmaps(make_net):
    explanation = explain(make_net(), torch.rand(0, 3, 9, 9))
    assert explanation.heatmaps["grad_cam"].shape == (0, 4, 4)
    assert explanation.logits.shape == (0, 5)
    assert explanation.states["grad_cam"].shape == explanation.scores.shape == (0,)
    assert explanation.resized("grad_cam").shape == (0, 9, 9)


def test_capture__takes_positional_and_keyword_inputs_and_any_output():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 3)

        def forward(self, image, question):
            features = self.conv(image).relu().mean((2, 3))
            return {"loss": features.sum(), "logits": self.head(torch.cat([features, question], dim=1))}

    net, image, question = Two(), torch.rand(2, 3, 8, 8), torch.rand(2, 2)
    first = capture(net, (image, question))
    second = capture(net, {"question": question, "image": image}, "conv")
    torch.testing.assert_close(first.gradients[0], second.gradients[0])


def test_capture__refuses_a_target_that_gives_another_number_of_scores(make_net):
    with pytest.raises(BatchError, match=r"one score per image, \(B,\) = \(2,\); this one returned \(2, 5\)"):
        capture(make_net(), torch.rand(2, 3, 9, 9), "3", lambda z, _: z)


def test_capture__of_a_detached_layer_says_so(make_net):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Detach(), nn.Linear(2, 2))
    with pytest.raises(GradientError, match="differentiable path"):
        capture(net.requires_grad_(False), torch.rand(1, 3, 8, 8), "0")


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


def test_gradients_of__a_layer_outside_the_graph_says_so():
    scores = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(GradientError, match="not part of the graph"):
        gradients_of(scores, [torch.ones(2, 3)])


def test_capture__of_an_unreached_layer_says_so(make_net):
    net = make_net()
    net.add_module("aside", nn.Conv2d(3, 3, 1))
    net.forward = lambda x: nn.Sequential(*list(net)[:-1])(x)
    with pytest.raises(LayerError, match="'aside' is not reached"):
        capture(net, torch.rand(1, 3, 9, 9), "aside")


def test_capture__trusts_resolved_layers_for_images_of_another_size(make_net):
    net = make_net()
    layers = capture(net, torch.rand(2, 3, 9, 9)).layers
    again = capture(net, torch.rand(2, 3, 13, 17), layers)
    assert isinstance(again.layers[0], Layer)
    assert again.activations[0].shape == (2, 8, 6, 8)


def test_scores__are_those_of_the_predicted_class(make_net):
    captured = capture(make_net(), torch.rand(3, 3, 9, 9), "3", predicted_class)
    torch.testing.assert_close(captured.scores, captured.logits.amax(dim=1))


class Preactivated(nn.Module):
    """`x + conv(f(x))`, where `f` may return its input, as it is or written over: then the skip depends on it too."""

    def __init__(self, f):
        super().__init__()
        self.stem, self.f, self.conv, self.head = nn.Conv2d(3, 4, 1), f, nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(self.f(x))
        return self.head(x.add_(y).mean((2, 3)))


@pytest.mark.parametrize(("f", "both"), [(nn.ReLU(inplace=True), True), (nn.Dropout(), True), (nn.ReLU(), False)])
def test_capture__of_a_layer_that_returns_its_input_counts_whoever_else_holds_it(whole, f, both):
    net, images = Preactivated(f).double().eval(), torch.rand(2, 3, 4, 4).double()
    captured = capture(net, images, "f")
    torch.testing.assert_close(captured.logits, net(images).detach())
    weights = net.head.weight[captured.logits.argmax(dim=1)] / 16  # d score / d each cell of the sum
    expected = weights @ net.conv.weight[:, :, 0, 0] + (weights if both else 0)
    torch.testing.assert_close(captured.gradients[0], expected[..., None, None].expand_as(captured.gradients[0]))
    truth = whole(net, images, "f", lambda z: z.amax(dim=1))
    torch.testing.assert_close(captured.gradients[0], truth.gradients)
    torch.testing.assert_close(captured.activations[0], truth.activations)


class Overwritten(nn.Module):
    """Squares its maps, which saves them for backward, and writes over them through a dropout that is at rest."""

    def __init__(self):
        super().__init__()
        self.stem, self.dropout, self.head = nn.Conv2d(3, 4, 1), nn.Dropout(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        squares = x * x
        x = self.dropout(x).sub_(5)
        return self.head((x + squares).mean((2, 3)))


def test_capture__of_maps_that_are_written_over_differentiates_what_they_were():
    net, images = Overwritten().double().eval(), torch.rand(2, 3, 4, 4).double()
    captured = capture(net, images, "stem")
    maps = net.stem(images).detach()
    weights = net.head.weight[captured.logits.argmax(dim=1)].detach()[..., None, None] / 16
    torch.testing.assert_close(captured.activations[0], maps)
    torch.testing.assert_close(captured.gradients[0], weights * (2 * maps + 1))
