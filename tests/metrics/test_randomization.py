import pytest
import torch
from torch import nn

from camtrain.errors import ConfigurationError
from camtrain.metrics import cascading_randomization, rank_correlation


@pytest.fixture
def images():
    return torch.rand(6, 3, 12, 12)


def test_cascade__goes_from_the_output_to_the_input_in_equal_parts(net, images):
    sanity = cascading_randomization(net, images, layers="5", methods="grad_cam", stages=3)
    assert sanity.stages == (("9",), ("4", "3"), ("1", "0"))
    assert sanity.similarity["grad_cam"].shape == (3, 6)
    assert cascading_randomization(net, images, layers="5", methods="grad_cam", stages=1).stages == (
        ("9", "4", "3", "1", "0"),
    )


def test_cascade__counts_a_module_that_is_never_called_where_what_holds_it_is(images):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.attention, self.stem = nn.Linear(8, 3), nn.MultiheadAttention(8, 2), nn.Conv2d(3, 8, 3)

        def forward(self, images):
            tokens = self.stem(images).flatten(2).permute(2, 0, 1)
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(dim=0))

    sanity = cascading_randomization(Attending(), images, layers="stem", methods="grad_cam", stages=4)
    assert sanity.stages[0] == ("head",)
    assert sanity.stages[-1] == ("stem",)
    assert {name for stage in sanity.stages[1:-1] for name in stage} == {"attention", "attention.out_proj"}


def test_cascade__flags_a_map_of_the_image_alone_and_clears_one_of_the_head(images):
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 4)).eval()

    def edges(model, images, layer, *, target, labels):
        return images.abs().sum(dim=1)

    def head_weights(activations, gradients):
        return gradients.abs().sum(dim=1) + 1e-6 * torch.rand(len(gradients), 12, 12)

    edges.needs_model = True
    sanity = cascading_randomization(net, images, layers="0", methods=[edges, head_weights])
    assert sanity.at_last("edges") == pytest.approx(1)
    assert sanity.flagged() == ["edges"]
    assert sanity.flagged(changed_below=-1.0) == ["edges", "head_weights"]


def test_cascade__changes_only_what_a_stage_has_reached_and_the_copy_alone(net, images):
    values, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    modes = [module.training for module in net.modules()]
    first = cascading_randomization(net, images, layers="5", methods="grad_cam", seed=3)
    again = cascading_randomization(net, images, layers="5", methods="grad_cam", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, values[k]) for k, v in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    torch.testing.assert_close(first.similarity["grad_cam"], again.similarity["grad_cam"], equal_nan=True)


def test_cascade__first_stage_is_a_model_with_another_head(net, images):
    from camtrain import explain
    from camtrain.cam import class_index

    sanity = cascading_randomization(net, images, layers="5", methods="hires_cam", stages=5, seed=1)
    trained = explain(net, images, layers="5", methods="hires_cam")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight, bias = net[-1].weight, net[-1].bias
        weight.copy_(torch.randn(weight.numel(), generator=generator).view_as(weight) * weight.std(correction=0))
        bias.copy_(bias[torch.randperm(len(bias), generator=generator)])
    classes = class_index(trained.logits.argmax(dim=1))
    random = explain(net, images, layers="5", methods="hires_cam", target=classes)
    expected = rank_correlation(random.heatmaps["hires_cam"], trained.heatmaps["hires_cam"])
    torch.testing.assert_close(sanity.similarity["hires_cam"][0], expected, equal_nan=True)


def test_cascade__needs_a_stage_and_weights(net, images):
    with pytest.raises(ConfigurationError, match="stages=0"):
        cascading_randomization(net, images, stages=0)
