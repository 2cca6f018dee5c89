import pytest
import torch

from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError
from camtrain.reliance import Collecting, Collector, Count, Pool, PoolCensus, Pools, Samples
from camtrain.reliance.pool import masks_about
from camtrain.tasks import View


def batch(labels: list[int], side: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    masks = torch.zeros(len(labels), side, side)
    masks[:, 1:3, 1:3] = 1
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 3, side, side)
    return images.double(), torch.tensor(labels), masks


def kept(collector: Collector) -> list[int]:
    return collector.pool().labels.tolist()


def test_collector__keeps_the_first_of_each_class():
    collector = Collector(per_class=2, most=100)
    collector.add(*batch([1, 0, 1, 1]))
    collector.add(*batch([0, 0]))
    assert kept(collector) == [0, 0, 1, 1]
    assert collector.pool().images[:, 0, 0, 0].tolist() == [1, 0, 0, 2]
    assert collector.pool().images.dtype == torch.float32


def test_collector__leaves_out_what_cannot_be_judged():
    images, labels, masks = batch([0, 0, 0, -1])
    masks[0], masks[1] = -1, 0
    collector = Collector(per_class=5, most=100)
    collector.add(images, labels, masks)
    assert collector.pool().images[:, 0, 0, 0].tolist() == [2]


def test_collector__of_sorted_data_makes_room_for_classes_that_come_late():
    collector = Collector(per_class=6, most=9, least=2)
    for label in range(4):
        collector.add(*batch([label] * 6))
    assert sorted(torch.tensor(kept(collector)).bincount().tolist()) == [2, 2, 2, 3]
    assert collector.left_out == set()


def test_collector__never_goes_below_the_least_and_names_who_is_left_out():
    collector = Collector(per_class=4, most=4, least=2)
    for label in range(3):
        collector.add(*batch([label] * 4))
    assert kept(collector) == [0, 0, 1, 1]
    assert collector.left_out == {2}


@pytest.mark.parametrize("order", ["by class", "interleaved"])
def test_collector__of_many_classes_keeps_the_first_ones_in_any_order(order):
    labels = [label for label in range(6) for _ in range(4)]
    labels = labels if order == "by class" else sorted(range(24), key=lambda i: i % 4)
    labels = labels if order == "by class" else [i // 4 for i in labels]
    collector = Collector(per_class=8, most=9, least=4)
    for first in range(0, 24, 5):
        collector.add(*batch(labels[first : first + 5]))
    assert kept(collector)[:8] == [0] * 4 + [1] * 4
    assert collector.left_out == {2, 3, 4, 5} - set(kept(collector))


def test_collector__keeps_listed_classes_only():
    collector = Collector(per_class=4, most=10, classes=[2])
    collector.add(*batch([0, 2, 1]))
    assert kept(collector) == [2]


def test_collector__of_nothing_usable_is_an_empty_pool_and_of_no_batch_is_none():
    collector = Collector(per_class=4, most=10)
    assert collector.pool() is None
    images, labels, masks = batch([0])
    collector.add(images, labels, -torch.ones_like(masks))
    assert collector.pool().images.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("labels", [torch.zeros(2, 3), torch.zeros(2), torch.zeros(3, dtype=torch.long)])
def test_collector__refuses_labels_that_are_not_class_indices(labels):
    images, _, masks = batch([0, 0])
    with pytest.raises(BatchError, match="one class index per image"):
        Collector(per_class=1, most=1).add(images, labels, masks)


def test_collector__refuses_images_of_another_size():
    collector = Collector(per_class=4, most=10)
    collector.add(*batch([0]))
    with pytest.raises(BatchError, match="one size"):
        collector.add(*batch([0], side=6))


def views(labels: list[int]) -> list[View]:
    return [View(torch.zeros(len(labels), 2), torch.tensor(labels))]


def annotated(count: int = 4) -> Batch:
    masks = torch.ones(count, 8, 8)
    masks[:, 4:] = 0
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count), masks)


def new() -> Samples:
    return Samples(per_class=8, most=16)


def test_collecting__lenders_are_those_of_the_first_epoch():
    held = Collecting()
    held.begin_training_epoch()
    held.add_training(annotated(), views([0, 1, 2, 3]), new)
    first = held.lenders
    held.begin_training_epoch()
    held.add_training(annotated(), views([0, 1, 2, 3]), new)
    assert held.lenders is first
    assert len(first[-1].annotated) == 4


def test_collecting__nothing_lends_where_that_is_not_wanted():
    held = Collecting(lend=False)
    held.begin_training_epoch()
    held.add_training(annotated(), views([0, 1, 2, 3]), new)
    assert held.lenders is None


def test_collecting__what_a_pass_brought_is_taken_once():
    held = Collecting()
    held.add(annotated(), views([0, 1, 2, 3]), new)  # a pass that is not examined
    assert held.take() == {}
    held.begin_pass()
    held.add(annotated(), views([0, 1, 2, 3]), new)
    assert len(held.take()[-1].annotated) == 4
    assert held.take() == {}


def test_collecting__a_batch_without_labels_is_refused():
    with pytest.raises(ConfigurationError, match="needs labels"):
        Collecting().read({"image": torch.rand(4, 3, 8, 8)})


def test_masks_about__a_label_are_the_objects_of_all_labels_unless_its_own_is_unknown():
    masks = torch.zeros(3, 2, 1, 2)
    masks[0, 1, 0, 0] = masks[0, 0, 0, 1] = masks[1, 0, 0, 1] = 1
    masks[2, 1] = -1
    view = View(torch.zeros(3, 2), torch.tensor([1, 0, 1]), about=1)
    assert masks_about(masks, view, axes=4).tolist() == [[[1.0, 1.0]], [[0.0, 1.0]], [[-1.0, -1.0]]]


def test_samples__of_which_none_is_annotated_are_known_by_their_size():
    samples = new()
    samples.add(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), None)
    assert samples.annotated.pool().images.shape == (0, 3, 4, 4)
    assert samples.chosen(guessed=True).pool().labels.tolist() == [0, 1]


def test_census__a_process_without_images_adds_nothing():
    held = annotated()
    pool = Pool(held.images, torch.tensor([0, 0, 1, 1]), held.masks)
    counts = [Count.of(pool, None), Count.of(Pool.empty((3, 8, 8)), None), Count.of(None, None)]
    census = PoolCensus.of(counts, least=1)
    assert census.classes == (0, 1)
    assert census.size == (3, 8, 8)
    assert not census.training_lends


def test_census__training_lends_where_every_class_has_enough_of_one_size():
    held = annotated()
    pool = Pool(held.images, torch.tensor([0, 0, 1, 1]), held.masks)
    small = Pool(held.images[..., :4, :4], pool.labels, held.masks[..., :4, :4])
    cases = (pool, 2), (pool, 3), (small, 2)
    lends = [PoolCensus.of([Count.of(pool, lent)], least).training_lends for lent, least in cases]
    assert lends == [True, False, False]


def test_pools__leave_out_what_another_process_has_as_well():
    held = annotated()
    pools = Pools(Pool(held.images, held.labels, held.masks), None, False, frozenset(), 4)
    left = pools.without(set(pools.keys()[:3]))
    assert torch.equal(left.judged.images, held.images[3:])
    assert left.judged.labels.tolist() == [3]
