"""Backgrounds dealt anew on their way into a network."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from camtrain.alignment.exchange import Dealer
from camtrain.data.batches import Batch
from camtrain.swaps import Blend


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def test_dealer__exchanges_images_wherever_they_are_given_and_leaves_the_rest():
    seen = []

    class TwoInputs(nn.Module):
        def forward(self, codes, images):
            seen.append((codes, images))
            return images.mean((1, 2, 3))

    batch, net = batch_of(6), TwoInputs()
    codes = torch.arange(6)
    dealer = Dealer(batch, seed=1, blend=Blend(feather=0))
    with dealer.dealing([net]):
        net(codes, images=batch.images)
        net(codes, batch.images + 1)  # another view
        net(codes[:2], batch.images[:2])  # not the batch's images
    deal = dealer.close()
    assert len(deal.index) > 0
    assert all(given is codes for given, _ in seen[:2])
    changed = (seen[0][1] != batch.images).flatten(1).any(dim=1).nonzero().flatten()
    assert torch.equal(changed, deal.index)
    torch.testing.assert_close(seen[1][1], seen[0][1] + 1)  # the same deal
    assert torch.equal(seen[2][1], batch.images[:2])
    assert deal.originals.shape == batch.images.shape
    assert not net._forward_pre_hooks


def test_dealer__does_nothing_once_it_is_closed():
    batch, net = batch_of(6), nn.Identity()
    dealer = Dealer(batch, seed=1)
    with dealer.dealing([net]):
        assert dealer.close() is None
        assert net(batch.images) is batch.images


def test_dealer__lets_gradients_reach_the_images():
    batch = batch_of(6)
    images = batch.images.requires_grad_()
    with Dealer(batch, seed=1).dealing([net := nn.Identity()]):
        net(images).sum().backward()
    assert images.grad.count_nonzero() > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_dealer__exchanges_again_what_the_backward_pass_asks_for_and_nothing_else(reentrant):
    batch, net, seen = batch_of(6), nn.Conv2d(3, 1, 1), []
    dealer = Dealer(batch, seed=1)
    images = batch.images.requires_grad_()
    with dealer.dealing([net]):
        net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))  # after the dealer's
        output = checkpoint(net, images, use_reentrant=reentrant)
        dealer.close()
        net(images)
        output.sum().backward()
    dealt, looked_at, again = seen
    assert torch.equal(dealt, again)
    assert not torch.equal(dealt, images)
    assert torch.equal(looked_at, images)


def test_dealer__leaves_other_images_alone_where_the_network_takes_the_batchs_own():
    batch, net, seen = batch_of(6), nn.Identity(), []
    net.register_forward_hook(lambda module, args, output: seen.append(output))
    with Dealer(batch, seed=1, own_only=True).dealing([net]):
        for images in (batch.images, batch.images.clone()):
            net(images)
    assert not torch.equal(seen[0], batch.images)
    assert torch.equal(seen[1], batch.images)


def test_dealer__deals_nothing_to_a_copy_of_the_network():
    batch, net = batch_of(6), nn.Identity()
    with Dealer(batch, seed=1).dealing([net]):
        copied = copy.deepcopy(net)
        assert torch.equal(copied(batch.images), batch.images)
        assert torch.equal(pickle.loads(pickle.dumps(net))(batch.images), batch.images)
        assert not torch.equal(net(batch.images), batch.images)
