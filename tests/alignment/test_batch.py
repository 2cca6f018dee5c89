"""What a batch holds, counted and refused."""

import pytest
import torch

from camtrain.alignment.batch import Processes, count, mean_of
from camtrain.data.batches import Batch
from camtrain.errors import MaskError


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def test_count__clamps_twins_and_knows_that_one_image_has_none():
    assert count(batch_of(4), 3).of("twinned") == 3
    assert count(batch_of(1), 3).of("twinned") == 0


def test_count__refuses_a_mask_that_is_none():
    batch = batch_of()
    batch.masks[2, 0, 0] = -0.5
    with pytest.raises(MaskError, match="image 2"):
        count(batch, 4)


def test_census__shares_add_up_to_the_mean_over_all_images():
    two = Processes(2, total=lambda counts: counts + torch.tensor([1, 1, 1, 1, 0, 0, 0]))
    census = count(batch_of(3), 8, two)
    assert census.of("annotated", all_processes=True) == 4
    assert census.share("annotated") / 2 == 3 / 4  # Lightning halves the gradients


@pytest.mark.parametrize(("others", "mean"), [([3.0, 6.0, 1.0], [2.0, 4.0]), ([0.0, 0.0, 0.0], [1.0, 2.0])])
def test_mean_over_processes__leaves_out_those_without_values(others, mean):
    two, alone = Processes(2, total=lambda values: values + torch.tensor(others)), Processes()
    assert mean_of(two.gather(torch.tensor([1.0, 2.0]))) == mean
    if others[2] == 0:
        assert mean_of(two.gather(None)) is None
    assert mean_of(alone.gather(torch.tensor([1.0, 2.0]))) == [1.0, 2.0]
    assert mean_of(alone.gather(None)) is None
