import pytest
import torch
from torch import nn

from camtrain.errors import ConfigurationError
from camtrain.reliance import Pool, examine, retrain_last_layer
from camtrain.reliance.retrain import fit_logistic
from tests.reliance.worlds import World


def trained(pool, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(128, 4),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(pool.images), pool.labels).backward()
        optimizer.step()
    return net


def answers(net):
    pool = World(4, 60, 50).pool()
    with torch.no_grad():
        found = examine(net.eval(), pool, list("abcd"), range(4))
    return [one.verdict for one in found.verdicts]


@pytest.mark.parametrize("seed", [0, 1])
def test_retraining__removes_what_was_flagged(seed):
    pool = World(4, 60, seed).pool()
    net = trained(pool, seed)
    assert answers(net) == ["reliant"] * 4
    net.train()
    rest = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("5.")}
    found = retrain_last_layer(net, pool)
    assert net.training
    assert all(torch.equal(net.state_dict()[name], value) for name, value in rest.items())
    assert (found.head, found.images) == ("5", 4 * 4 * 60)
    assert found.worst_before < 0.2 < 0.8 < found.worst_after
    assert "reliant" not in answers(net)
    alone, along = (recognized(net, World(4, 100, 77, correlation)) for correlation in (0.0, 1.0))
    assert along - alone < 0.1


def recognized(net, world):
    """The mean probability of the true class."""
    pool = world.pool()
    with torch.no_grad():
        return net.eval()(pool.images).softmax(1).gather(1, pool.labels[:, None]).mean().item()


def test_retraining__fits_the_swapped_images_as_the_network_sees_them():
    pool = World(4, 20, 0).pool()
    net = trained(pool)
    found = retrain_last_layer(net, pool, strengths=(1e-4,))
    swapped = World(4, 40, 7, correlation=0.0).pool()
    assert (net.eval()(swapped.images).argmax(1) == swapped.labels).float().mean() > 0.8
    assert found.strength == 1e-4


def test_retraining__repeats_to_the_bit_and_leaves_the_random_state():
    pool = World(4, 10, 0).pool()
    states = []
    for _ in range(2):
        net = trained(pool)
        before = torch.get_rng_state()
        retrain_last_layer(net, pool, seed=3)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(net[5].weight.clone())
    assert torch.equal(*states)


def test_retraining__takes_looks_and_a_head_without_bias():
    pool = World(4, 10, 0).pool()
    net = nn.Sequential(nn.Flatten(), nn.Linear(4 * 256, 4, bias=False))
    assert retrain_last_layer(net, pool, cues=["background", "background tint"]).images == 2 * 4 * 4 * 10
    assert net[1].bias is not None


class Twice(nn.Sequential):
    def forward(self, images):
        return 2 * super().forward(images)


@pytest.mark.parametrize(
    ("net", "arguments", "said"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3)), {}, "has no linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 4)), {"head": "fc"}, "No linear layer 'fc'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 1)), {}, "one logit"),
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 6)), {}, r"too few or beyond it: \[4, 5\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 3)), {}, r"beyond it: \[3\]"),
        (Twice(nn.Flatten(), nn.Linear(1024, 4)), {}, "not what the head gives"),
        (nn.Sequential(nn.Flatten(), nn.Linear(1024, 4)), {"cues": ["smell"]}, "got 'smell'"),
    ],
)
def test_retraining__says_what_it_lacks(net, arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        retrain_last_layer(net, World(4, 6, 0).pool(), **arguments)


def test_retraining__from_lenders_of_another_correlation():
    pool, lenders = World(4, 20, 0, correlation=0.0).pool(), World(4, 20, 1).pool()
    net = trained(lenders)
    found = retrain_last_layer(net, pool, lenders=lenders)
    assert found.worst_before < found.worst_after
    assert isinstance(pool, Pool)


def test_fit_logistic__of_two_points_satisfies_its_own_gradient():
    features, labels = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    weight, bias = fit_logistic(features, labels, outputs=4, strength=0.1)
    off = (features @ weight.T + bias).softmax(dim=1) - torch.nn.functional.one_hot(labels, 4)
    assert (off.T @ features / 2 + 0.2 * weight).abs().max() < 1e-3
