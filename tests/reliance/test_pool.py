import pytest
import torch

from camtrain.errors import BatchError, ConfigurationError
from camtrain.reliance import Collecting, Collector, Samples


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


def samples() -> Samples:
    return Samples(per_class=8, most=16)


def batch_of(annotation: float = 1.0) -> dict[str, torch.Tensor]:
    masks = torch.full((4, 8, 8), annotation)
    masks[:, 4:] = min(0.0, annotation)
    return {"image": torch.rand(4, 3, 8, 8).half(), "label": torch.arange(4), "mask": masks}


def collecting(lend: bool = True) -> Collecting:
    return Collecting(None, lend=lend)


def test_collecting__lenders_are_those_of_the_first_epoch():
    held = collecting()
    held.begin_training_epoch(samples())
    held.add_training(batch_of())
    first = held.lenders
    held.begin_training_epoch(samples())
    held.add_training(batch_of())
    assert held.lenders is first
    assert len(first.annotated) == 4


def test_collecting__nothing_lends_where_that_is_not_wanted():
    held = collecting(lend=False)
    held.begin_training_epoch(samples())
    held.add_training(batch_of())
    assert held.lenders is None


def test_collecting__after_a_training_batch_that_cannot_be_read_no_further_one_is():
    held = collecting()
    held.begin_training_epoch(samples())
    held.add_training([torch.rand(4, 7)])
    held.add_training(batch_of())
    assert len(held.lenders.annotated) == 0


def test_collecting__what_an_epoch_brought_is_taken_once():
    held = collecting()
    held.add(batch_of())  # an epoch that is not examined
    assert held.take() is None
    held.begin_pass(samples())
    held.add(batch_of())
    assert len(held.take().annotated) == 4
    assert held.take() is None
    assert held.dtype == torch.float16


def test_collecting__a_validation_batch_without_labels_is_refused():
    held = collecting()
    held.begin_pass(samples())
    with pytest.raises(ConfigurationError, match="needs labels"):
        held.add({"image": torch.rand(4, 3, 8, 8)})
