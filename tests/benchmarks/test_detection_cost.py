import detection_cost
import pytest
import torch


def test_squares__have_a_background_that_tells_the_class_or_does_not():
    for cued in (True, False):
        images, labels, masks = detection_cost.squares(20, cued, 0).tensors
        corners = images[:, :, :8, :8].mean(dim=(2, 3))
        spread = torch.stack([corners[labels == c].std(dim=0).mean() for c in range(10)]).mean()
        assert (spread < 0.02) == cued
        assert masks.unique().tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_validation__knows_the_verdicts_of_the_pass_with_the_detector(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detection_cost, "SIDE", 16)
    module = detection_cost.learnt(True, "cpu")
    images = detection_cost.squares(20, True, 1)
    plain, nothing = detection_cost.validation(module, images, "cpu", detect=False)
    seconds, verdicts = detection_cost.validation(module, images, "cpu", detect=True)
    assert nothing == []
    assert seconds > plain > 0
    assert len(verdicts) == 10
    assert "reliant" in verdicts
    assert list(tmp_path.iterdir()) == []
