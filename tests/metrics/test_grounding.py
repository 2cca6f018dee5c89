import math

import pytest
import torch

from camtrain.metrics import ReasonCells, grounding, inside_energy, mask_area, pointing_game, reason_cells

HEAT = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])
LEFT = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])


def _full(value):
    return torch.full((1, 2, 2), value)


def test_inside_energy__is_the_hand_worked_fraction():
    assert inside_energy(HEAT, LEFT).item() == pytest.approx(5 / 8)


def test_inside_energy__pools_a_fine_mask_to_the_cells():
    fine = torch.zeros(1, 4, 4)
    fine[0, :2, 0] = 1  # half of the first cell
    assert inside_energy(HEAT, fine).item() == pytest.approx(0.5 * 4 / 8)


def test_inside_energy__is_the_area_for_a_uniform_map_and_does_not_depend_on_scale():
    mask = (torch.rand(5, 6, 6) > 0.5).float()
    uniform = torch.full((5, 6, 6), 0.3)
    torch.testing.assert_close(inside_energy(uniform, mask), mask_area(mask))
    heat = torch.rand(5, 6, 6)
    torch.testing.assert_close(inside_energy(heat, mask), inside_energy(1e6 * heat, mask))


def test_inside_energy__matches_a_loop_in_float64():
    heat, mask = torch.rand(7, 3, 5, dtype=torch.float64), torch.rand(7, 3, 5, dtype=torch.float64)
    expected = [
        sum(h * m for h, m in zip(a.flatten(), b.flatten(), strict=True)) / a.sum()
        for a, b in zip(heat, mask, strict=True)
    ]
    torch.testing.assert_close(inside_energy(heat, mask), torch.stack(expected))


@pytest.mark.parametrize("measure", [inside_energy, grounding, pointing_game])
@pytest.mark.parametrize(
    ("heat", "mask"),
    [(HEAT, _full(0.0)), (HEAT, _full(-1.0)), (_full(0.0), LEFT), (_full(math.nan), LEFT)],
    ids=["empty mask", "unannotated", "empty map", "nan map"],
)
def test_grounding_measures__of_what_has_no_answer_are_nan(measure, heat, mask):
    assert measure(heat, mask).isnan().all()


@pytest.mark.parametrize("measure", [inside_energy, grounding, pointing_game])
def test_grounding_measures__of_an_empty_batch_are_empty(measure):
    assert measure(torch.zeros(0, 2, 2), torch.zeros(0, 4, 4)).shape == (0,)


def test_grounding__is_zero_at_chance_one_inside_and_undefined_for_a_full_mask():
    assert grounding(_full(1.0), LEFT).item() == pytest.approx(0)
    assert grounding(LEFT, LEFT).item() == pytest.approx(1)
    assert grounding(1 - LEFT, LEFT).item() == pytest.approx(-1)
    assert grounding(HEAT, _full(1.0)).isnan().all()


def test_pointing_game__shares_ties():
    tied = torch.tensor([[[2.0, 2.0], [2.0, 0.0]]])
    assert pointing_game(tied, LEFT).item() == pytest.approx(2 / 3)


def test_pointing_game__looks_at_the_interpolated_maximum():
    heat = torch.zeros(1, 4, 4)
    heat[0, 3, 0] = 1
    mask = torch.zeros(1, 32, 32)
    mask[0, 24:, :8] = 1
    assert pointing_game(heat, mask).item() == 1
    assert pointing_game(heat, mask.flip(-1)).item() == 0


def test_reason_cells__follow_prediction_and_ground_and_leave_out_what_holds_nothing():
    heat = torch.stack([LEFT[0], 1 - LEFT[0], LEFT[0], 1 - LEFT[0], _full(0.0)[0], LEFT[0], LEFT[0]])
    masks = torch.stack([LEFT[0]] * 5 + [_full(-1.0)[0], _full(1.0)[0]])
    correct = torch.tensor([True, True, False, False, True, True, True])
    assert reason_cells(correct, heat, masks).tolist() == [0, 1, 2, 3, -1, -1, -1]


def test_reason_cells__are_counted_over_batches():
    metric = ReasonCells()
    metric.update(torch.tensor([0, 3, -1]))
    metric.update(torch.tensor([3]))
    assert metric.compute().tolist() == [1, 0, 0, 2]


@pytest.mark.filterwarnings("ignore")  # theirs, of what it imports
@pytest.mark.parametrize(
    ("measure", "named"), [(inside_energy, "RelevanceMassAccuracy"), (pointing_game, "PointingGame")]
)
def test_grounding_measures__are_those_of_quantus(measure, named):
    quantus = pytest.importorskip("quantus")
    heat, mask = torch.rand(8, 10, 10), (torch.rand(8, 10, 10) > 0.6).float()
    peer = getattr(quantus, named)(disable_warnings=True, abs=False, normalise=False)
    expected = peer(
        model=torch.nn.Flatten(),
        x_batch=torch.rand(8, 1, 10, 10).numpy(),
        y_batch=torch.zeros(8).long().numpy(),
        a_batch=heat.unsqueeze(1).numpy(),
        s_batch=mask.unsqueeze(1).bool().numpy(),
    )
    torch.testing.assert_close(measure(heat, mask), torch.tensor(expected).float(), rtol=0, atol=1e-5)
