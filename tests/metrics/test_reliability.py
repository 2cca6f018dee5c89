import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from camtrain.metrics import reliability


def test_reliability__is_torchmetrics_error_of_the_answers():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.arange(200) % 5
    confidence, predicted = logits.softmax(1).max(1)
    expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=5, n_bins=10)
    bins = reliability(confidence, predicted == labels)
    assert bins.error == pytest.approx(float(expected), abs=1e-6)
    gaps = (bins.confidence - bins.accuracy).abs().nan_to_num() * bins.counts
    assert float(gaps.sum() / 200) == pytest.approx(bins.error, abs=1e-6)


def test_reliability__counts_full_confidence_with_its_neighbors():
    confidence = torch.tensor([0.95] * 50 + [1.0] * 50)
    right = torch.tensor([True] * 95 + [False] * 5)
    bins = reliability(confidence, right)
    assert bins.counts.tolist() == [0] * 9 + [100]
    assert bins.error == pytest.approx(0.025, abs=1e-5)  # one bin: mean confidence 0.975, right 0.95


def test_reliability__of_nothing_is_unknown():
    bins = reliability(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert bins.error != bins.error
    assert bins.counts.sum() == 0
