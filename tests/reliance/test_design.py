import pytest
import torch

from camtrain.reliance import choose_donors, usable


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_choose_donors__come_from_the_class_of_their_arm():
    labels = torch.arange(40) % 5
    design = choose_donors(labels, range(5), generator=generator())
    assert torch.equal(labels[design.donors], design.classes)
    assert torch.equal(design.classes[:, 0], labels)


def test_choose_donors__serve_each_class_once_and_never_themselves():
    labels = torch.arange(40) % 5
    design = choose_donors(labels, range(5), generator=generator())
    assert (design.donors[:, 0] != torch.arange(40)).all()
    for c in range(5):
        for arm in range(5):
            lent = design.donors[labels == c, arm]
            assert len(lent.unique()) == len(lent)


def test_choose_donors__of_many_classes_meets_a_balanced_few():
    labels = torch.arange(60) % 20
    design = choose_donors(labels, range(20), arms=4, generator=generator())
    assert design.classes.shape == (60, 4)
    assert design.classes.flatten().bincount().tolist() == [12] * 20


def test_choose_donors__leaves_images_without_a_donor_at_minus_one():
    labels = torch.tensor([0, 0, 0, 1])
    design = choose_donors(labels, (0, 1), generator=generator())
    assert (design.donors[:3, 1] >= 0).sum() == 1
    assert design.donors[3].tolist()[0] == -1
    assert design.forwards == 3 + 1 + 1


def test_choose_donors__with_one_class_has_no_other_arm():
    design = choose_donors(torch.zeros(3, dtype=torch.long), (0,), generator=generator())
    assert design.donors.shape == (3, 1)


def test_choose_donors__from_lenders_takes_their_indices_and_whole_rows_first():
    labels, lenders = torch.arange(20) % 2, torch.tensor([1, 0, 1, 0, 1])
    design = choose_donors(labels, (0, 1), lenders=lenders, generator=generator())
    lent = design.donors >= 0
    assert torch.equal(lenders[design.donors[lent]], design.classes[lent])
    assert lent.all(dim=1).sum() == 4  # two images of either class met both
    assert design.forwards == 10


@pytest.mark.parametrize("seed", [0, 1])
def test_choose_donors__repeats_with_the_generator(seed: int):
    labels = torch.arange(30) % 3
    first, second = (choose_donors(labels, range(3), generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first.donors, second.donors)


def test_usable__needs_an_object_and_a_background():
    masks = torch.stack([torch.full((4, 4), -1.0), torch.zeros(4, 4), torch.eye(4), torch.ones(4, 4)])
    assert usable(masks).tolist() == [False, False, True, False]
