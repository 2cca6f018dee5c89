"""The parts of AttentionAlignment that need no Trainer."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from camtrain.callbacks import AttentionAlignment
from camtrain.callbacks._alignment_balance import Balance, squared_norms
from camtrain.callbacks._alignment_batch import count
from camtrain.callbacks._alignment_deal import Dealer, find_images
from camtrain.callbacks._alignment_dose import Dose
from camtrain.callbacks._alignment_memory import Memory
from camtrain.callbacks._alignment_patch import patch, patched
from camtrain.callbacks._alignment_recording import Call, depends_on, recording
from camtrain.callbacks._alignment_start import progress
from camtrain.callbacks._alignment_terms import add_to_loss, answer_twins, penalize, require_gradient
from camtrain.callbacks._lightning import mean_over_processes
from camtrain.cam import Layer, contribution_cam, log_probability
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError, GradientError, MaskError
from camtrain.losses import AlignmentLoss
from camtrain.swaps.blending import Blend


def recorded(net, images):
    layer = Layer("0", net[0])
    with recording({"net": net}, [layer]) as calls:
        net(images)
    (call,) = calls.made
    return call, [layer]


def small_net(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def penalty_of(call, layers, batch):
    return penalize(call, layers, batch, method=contribution_cam, target=log_probability, loss=AlignmentLoss())


def test_penalty__of_confident_answers_survives_half_precision():
    """The gradient of a log-probability of 0.9999 is far below what float16 can hold."""
    net, batch = small_net(), batch_of()
    with torch.no_grad():
        net[4].weight.mul_(0.01)
        net[4].bias.copy_(torch.tensor([12.0, 0.0, 0.0]))
    batch = Batch(batch.images, torch.zeros(4, dtype=torch.long), batch.masks)
    exact = penalty_of(*recorded(net, batch.images), batch)
    with torch.autocast("cpu", dtype=torch.float16):
        call, layers = recorded(net, batch.images)
        half = penalty_of(call, layers, batch)
    assert call.activations[0].dtype == torch.float16
    assert half.dead == 0
    torch.testing.assert_close(half.value, exact.value, rtol=0.02, atol=0)
    gradients = torch.autograd.grad(half.value, list(net.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_penalty__counts_dead_maps_among_annotated_images():
    net, batch = small_net(), batch_of()
    net[0].weight.data.zero_()
    net[0].bias.data.zero_()
    penalty = penalty_of(*recorded(net, batch.images), batch)
    assert penalty.dead == 1
    assert penalty.value == 0


def test_penalty__of_another_number_of_rows_is_refused():
    net, batch = small_net(), batch_of()
    call, layers = recorded(net, torch.cat([batch.images, batch.images]))
    with pytest.raises(BatchError, match="holds 4 images and net returned 8 rows"):
        penalty_of(call, layers, batch)


def test_require_gradient__tells_zero_from_none():
    weight = nn.Linear(2, 1)
    assert require_gradient(weight(torch.ones(1, 2)).sum(), weight)
    assert not require_gradient(0 * weight(torch.ones(1, 2)).sum(), weight)
    for value in (torch.tensor(1.0), torch.ones((), requires_grad=True) * 2):
        with pytest.raises(GradientError, match="any trainable parameter"):
            require_gradient(value, weight)


def test_answer_twins__exchanges_every_input_that_belongs_to_an_image():
    seen = []

    class TwoInputs(nn.Module):
        def forward(self, images, codes, scale=1.0):
            seen.append((images, codes, scale))
            return torch.zeros(len(images), 3, requires_grad=True)

    batch, net = batch_of(4), TwoInputs()
    batch.masks[0] = -1
    call = Call("net", net, (batch.images, torch.arange(4)), {"scale": 2.0}, None, ())
    memory = Memory(8)
    twins = answer_twins(call, (), batch, memory, torch.Generator(), limit=8)
    images, codes, scale = seen[0]
    assert len(memory) == 0  # what an earlier batch's images travelled with is gone
    assert twins.loss.item() == pytest.approx(torch.tensor(3.0).log().item())
    assert images.shape == (3, 3, 8, 8)
    assert codes.tolist() == [1, 2, 3]
    assert scale == 2


def test_answer_twins__makes_them_of_earlier_batches_where_this_one_has_no_mask():
    memory, net = Memory(8), small_net()
    for batch in (batch_of(4), Batch(torch.rand(4, 3, 8, 8), torch.arange(4) % 3, torch.full((4, 8, 8), -1.0))):
        call = Call("", net, (batch.images,), {}, net(batch.images), ())
        twins = answer_twins(call, (), batch, memory, torch.Generator(), limit=2)
        assert twins.batch.images.shape == (2, 3, 8, 8)
        assert twins.loss.requires_grad
        memory.settle()
    assert len(memory) == 4


def test_memory__is_a_ring_that_keeps_only_what_can_have_a_twin():
    memory = Memory(3)
    masks = torch.zeros(5, 4, 4)
    masks[:, :2] = 1
    masks[1] = -1
    memory.remember(torch.rand(5, 1, 4, 4), masks, torch.arange(5))
    assert sorted(memory.recall(9, torch.Generator())[2].tolist()) == [2, 3, 4]
    memory.remember(torch.rand(1, 1, 4, 4), masks[:1], torch.tensor([7]))
    assert sorted(memory.recall(9, torch.Generator())[2].tolist()) == [3, 4, 7]
    memory.remember(torch.rand(1, 1, 6, 6), torch.eye(6)[None], torch.tensor([9]))
    assert memory.recall(9, torch.Generator())[2].tolist() == [9]


def test_memory__forgets_the_oldest_first():
    memory = Memory(3)
    for label in range(5):
        memory.remember(torch.rand(1, 1, 8, 8), torch.eye(8)[None], torch.tensor([label]))
    assert sorted(memory.recall(3, torch.Generator())[2].tolist()) == [2, 3, 4]


def test_balance__keeps_the_ratio_and_leaves_out_what_is_not_finite():
    balance = Balance(0.5)
    assert balance.weight == 0
    balance.add(float("inf"), 1.0)
    assert balance.weight == 0
    for _ in range(50):
        balance.add(task=9.0, penalty=1.0)
    assert balance.weight == pytest.approx(1.5)
    again = Balance(0.5)
    again.restore(balance.state())
    assert again.weight == balance.weight


def test_squared_norms__of_a_task_and_a_penalty_by_hand():
    x = torch.ones(2, 2, requires_grad=True) * 1.0
    norms = squared_norms((3 * x).sum(), x.square().sum(), [x])
    assert norms.tolist() == [36.0, 16.0]
    assert squared_norms(torch.tensor(1.0), x.sum(), [x]).tolist() == [0.0, 4.0]


def test_answer_twins__of_a_head_alone_is_refused():
    call = Call("head", nn.Linear(5, 3), (torch.rand(4, 5),), {}, None, ())
    with pytest.raises(ConfigurationError, match=r"Name the whole network with model="):
        answer_twins(call, (), batch_of(4), Memory(0), torch.Generator(), limit=8)


def test_count__clamps_twins_and_knows_that_one_image_has_none():
    assert count(batch_of(4), 3).twinned == 3
    assert count(batch_of(1), 3).twinned == 0


def test_count__refuses_a_mask_that_is_partly_unannotated():
    batch = batch_of()
    batch.masks[2, 0, 0] = -1
    with pytest.raises(MaskError, match="image 2"):
        count(batch, 4)


def test_census__shares_add_up_to_the_mean_over_all_images():
    class TwoProcesses:
        def reduce(self, counts, reduce_op):
            return counts + torch.tensor([1, 1, 1, 1, 0, 0, 0])

    census = count(batch_of(3), 8, TwoProcesses(), processes=2)
    assert census.all_annotated == 4
    assert census.penalty_share / 2 == 3 / 4  # Lightning halves the gradients


def test_add_to_loss__keeps_the_other_keys_and_none():
    output = {"loss": torch.tensor(1.0), "logits": 3}
    assert add_to_loss(output, torch.tensor(2.0)) == {"loss": torch.tensor(3.0), "logits": 3}
    assert output["loss"] == 1
    assert add_to_loss(None, torch.tensor(2.0)) is None


def test_depends_on__sees_detached_tensors_as_independent():
    source = torch.ones(2, requires_grad=True) * 2
    assert depends_on((source.relu() + 1).sum(), source)
    assert not depends_on((source.detach() + torch.ones(2, requires_grad=True)).sum(), source)


def test_patch__restores_class_methods_and_instance_attributes():
    class Thing:
        def step(self, value):
            return value

    thing = Thing()
    with patched(thing, "step", lambda original, value: original(value) + 1):
        assert thing.step(1) == 2
        assert thing.step.__wrapped__.__func__ is Thing.step
    assert "step" not in vars(thing)
    thing.step = own = lambda value: 10 * value
    restore = patch(thing, "step", lambda original, value: original(value) + 1)
    assert thing.step(1) == 11
    restore()
    restore()
    assert thing.step is own


def test_progress__is_within_zero_and_one():
    assert [progress(now, 0.5) for now in (0.4, 0.5, 0.75, 1.2)] == [0, 0, 0.5, 1]
    assert progress(1.0, 1.0) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
def test_precision__on_a_gpu_trains_without_skipping(make_trainer, precision):
    import pytorch_lightning as pl
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch["image"]), batch["label"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    batch = batch_of(8)
    data = DataLoader([{"image": batch.images, "label": batch.labels, "mask": batch.masks}] * 4, batch_size=None)
    callback = AttentionAlignment(weight=3.0, twins=1.0)
    trainer = make_trainer(accelerator="gpu", precision=precision, callbacks=[callback], max_epochs=2)
    trainer.fit(Module(), data)
    assert callback.skipped == 0
    assert trainer.callback_metrics["alignment/penalty"].isfinite()


@pytest.mark.parametrize(
    ("twins", "annotated", "weight"),
    [("auto", 100, 4.0), ("auto", 5, 2.2), ("auto", 1, 2.16), ("auto", 0, 2.0), (3.0, 5, 3.0)],
)
def test_added_twins__weigh_more_where_each_is_of_another_image(twins, annotated, weight):
    dose = Dose(twins, share=0.5, reuse=10.0)
    dose.see(100, annotated)
    assert dose.plan(32).weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("annotated", "kin", "weight", "added", "dealt"),
    [
        (100, 0.1, 1.0, 0, 1.0),
        (100, 0.5, 1.0, 0, 1.0),
        (90, 0.5, 1.0, 4, 0.9),  # 3.2 keep their own background without an annotation, and 3.2 twins make up for them
        (50, 0.5, 1.0, 16, 0.5),
        (50, 0.25, 15 / 7, 16, 0.5),  # 48 would be needed; 12 dealt and 16 added, for 20 that should be a third of them
        (5, 0.25, 2.2, 16, 0.05),
        (0, 0.25, 2.0, 1, 0.0),
        (100, 1.0, 4.0, 16, None),  # a batch of one class lends no other's: twins of earlier batches are added
    ],
)
def test_plan__adds_and_weighs_what_dealing_leaves_to_do(annotated, kin, weight, added, dealt):
    dose = Dose("auto", share=0.5, reuse=10.0)
    dose.see(100, annotated)
    plan = dose.plan(32, kin)
    assert (plan.added, plan.dealt) == (added, pytest.approx(dealt))
    assert plan.weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("losses", "added"),
    [
        ([], 13),
        ([(0.4, 0.4)], 13),
        ([(0.6, 0.4)], 13),
        ([(0.3, 0.4)], 5),
        ([(0.0, 0.4)], 1),
        ([(0.2, 0.4), (0.2, 0.0)], 13),
    ],
)
def test_plan__adds_fewer_of_what_is_known_by_heart(losses, added):
    dose = Dose("auto", share=0.4, reuse=10.0)
    dose.see(100, 10)
    for pair in losses:
        dose.compare(*pair)
    assert dose.plan(32).added == added
    assert dose.plan(32).weight == pytest.approx(2 + 2 * 3.2 / 13)  # what each weighs is not changed by that


def test_plan__of_a_given_weight_adds_as_many_whatever_is_known_by_heart():
    dose = Dose(2.0, share=0.5, reuse=10.0)
    dose.see(100, 100)
    dose.compare(0.0, 1.0)
    assert dose.plan(32).added == 16


def test_dose__keeps_running_means_without_what_is_not_finite_and_goes_on_from_a_checkpoint():
    dose, after = Dose("auto", share=0.5, reuse=10.0), Dose("auto", share=0.5, reuse=10.0)
    for twins, images in ((1.0, 2.0), (float("nan"), 2.0), (1.0, float("inf")), (3.0, 4.0)):
        dose.compare(twins, images)
    assert (dose.twins_loss, dose.images_loss, dose.measured) == (2.0, 3.0, 2)
    dose.see(10, 5)
    after.restore(dose.state())
    assert after == dose
    after.restore([7, 3])  # as checkpoints held it before
    assert (after.images, after.annotated, after.measured, after.worth) == (7, 3, 0, 1.0)


@pytest.mark.parametrize("kin", [None, 1.0])
def test_plan__of_an_empty_batch_adds_nothing(kin):
    for annotated in (0, 100):
        dose = Dose("auto", share=0.5, reuse=10.0)
        dose.see(annotated, annotated)
        assert dose.plan(0, kin).added == 0


def test_plan__leaves_a_weight_that_was_given_alone():
    dose = Dose(3.0, share=0.5, reuse=10.0)
    assert dose.plan(32, 0.25).weight == dose.plan(32).weight == 3
    assert dose.plan(32, 0.25).added == 0


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


def test_find_images__are_floating_point_of_the_batchs_size():
    batch = batch_of(4)
    given = (torch.arange(4), batch.images.byte(), batch.images[:2], {"x": batch.images[:, :1]})
    assert find_images(given, {"y": batch.images}, batch) is batch.images
    assert find_images(given, {"y": batch.images.clone()}, batch).shape == batch.images.shape  # before one in gray
    assert find_images(given, {}, batch) is given[3]["x"]
    assert find_images(given[:3], {}, batch) is None


@pytest.mark.parametrize(("others", "mean"), [([3.0, 6.0, 1.0], [2.0, 4.0]), ([0.0, 0.0, 0.0], [1.0, 2.0])])
def test_mean_over_processes__leaves_out_those_without_values(others, mean):
    class Strategy:
        root_device = "cpu"

        def reduce(self, found, reduce_op):
            return found + torch.tensor(others)

    def trainer(processes):
        kind = type("Several", (pl.Trainer,), {"world_size": processes, "strategy": Strategy()})
        return kind.__new__(kind)

    two, alone = trainer(2), trainer(1)
    assert mean_over_processes(two, torch.tensor([1.0, 2.0])) == mean
    if others[2] == 0:
        assert mean_over_processes(two, None) is None
    assert mean_over_processes(alone, torch.tensor([1.0, 2.0])) == [1.0, 2.0]
    assert mean_over_processes(alone, None) is None


def test_memory__keeps_images_without_a_forbidden_region_where_masks_mark_all_that_may_matter():
    for fill_donors, kept in ((True, 0), (False, 3)):
        memory = Memory(4, fill_donors)
        memory.remember(torch.rand(3, 1, 4, 4), torch.ones(3, 4, 4), torch.arange(3))
        assert len(memory) == kept
