"""Targets of tasks beyond classification, against numbers worked by hand."""

import math

import pytest
import torch

from camtrain.cam.targets import settled
from camtrain.cam.tasks import (
    answer_log_probability,
    caption_token,
    detection_box,
    embedding_similarity,
    regression_output,
    segmentation_region,
)
from camtrain.errors import BatchError


def test_regression_output__reads_flat_and_column_outputs():
    assert regression_output()(torch.tensor([1.0, 2.0]), None).tolist() == [1.0, 2.0]
    assert regression_output(1, sign=-1)(torch.tensor([[1.0, 2.0]]), None).tolist() == [-2.0]


def test_regression_output__outside_is_refused():
    with pytest.raises(BatchError, match="outside the 1 outputs"):
        regression_output(1)(torch.zeros(3), None)


def test_embedding_similarity__is_the_cosine():
    outputs = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    similarity = embedding_similarity(torch.tensor([[1.0, 0.0]] * 3))(outputs, None)
    torch.testing.assert_close(similarity, torch.tensor([0.6, 0.0, 0.0]))


def test_embedding_similarity__refuses_another_length():
    with pytest.raises(BatchError, match="compares with 3 numbers"):
        embedding_similarity(torch.ones(3))(torch.ones(2, 4), None)


def test_segmentation_region__sums_the_class_over_the_mask():
    logits = torch.arange(16.0).reshape(1, 2, 2, 4)
    mask = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]])
    assert segmentation_region(1, mask)(logits, None).tolist() == [8.0 + 14.0]


def test_segmentation_region__pools_a_finer_mask():
    logits = torch.tensor([[[[2.0, 10.0]]]])
    mask = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert segmentation_region(0, mask)(logits, None).tolist() == [0.25 * 2 + 0.5 * 10]


def test_segmentation_region__is_where_the_class_is_predicted():
    logits = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 2.0, 3.0]]]])
    target = segmentation_region(1)
    assert target(logits, None).tolist() == [5.0]
    assert settled(target, logits)(logits.flip(1), None).tolist() == [0.0]
    assert segmentation_region(0, torch.zeros(1, 3))(logits, None).tolist() == [0.0]


def test_segmentation_region__refuses_class_logits():
    with pytest.raises(BatchError, match="needs logits"):
        segmentation_region(0)(torch.zeros(2, 3), None)


def test_caption_token__is_the_log_probability_of_a_word():
    logits = torch.log(torch.tensor([[[0.1, 0.9], [0.75, 0.25]]]))
    for target, labels, expected in (
        (caption_token(1), None, 0.75),
        (caption_token(1, token=1), None, 0.25),
        (caption_token(0), torch.tensor([[0, 0]]), 0.1),
        (caption_token(-1), None, 0.75),
    ):
        assert target(logits, labels).exp().item() == pytest.approx(expected)
    assert settled(caption_token(1), logits)(logits.flip(2), None).exp().item() == pytest.approx(0.25)


def test_caption_token__beyond_the_caption_is_refused():
    with pytest.raises(BatchError, match="caption_token\\(2\\)"):
        caption_token(2)(torch.zeros(1, 2, 3), None)


def test_answer_log_probability__sums_its_tokens_without_padding():
    logits = torch.log(torch.tensor([[[0.1, 0.9], [0.75, 0.25]], [[0.5, 0.5], [0.2, 0.8]]]))
    found = answer_log_probability(torch.tensor([[1, 1], [0, -100]]))(logits, None)
    torch.testing.assert_close(found, torch.tensor([math.log(0.9 * 0.25), math.log(0.5)]))


def test_answer_log_probability__of_a_class():
    logits = torch.log(torch.tensor([[0.1, 0.9], [0.75, 0.25]]))
    torch.testing.assert_close(answer_log_probability(1)(logits, None).exp(), torch.tensor([0.9, 0.25]))


BOXES = torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 4], [6, 6, 8, 8]])


def found(scores, labels=(1, 1, 2)):
    return {"boxes": BOXES, "scores": torch.tensor(scores), "labels": torch.tensor(labels)}


def test_detection_box__takes_the_score_that_overlaps_most():
    target = detection_box(torch.tensor([[0.0, 0, 4, 3], [5, 5, 8, 8]]))
    assert target([found([0.1, 0.2, 0.3]), found([0.4, 0.5, 0.6])], None).tolist() == pytest.approx([0.2, 0.6])


def test_detection_box__of_a_class_looks_at_its_boxes_only():
    output = [found([0.1, 0.2, 0.3], (1, 2, 2))]
    assert detection_box(torch.tensor([0.0, 0, 4, 4]), 1)(output, None).tolist() == pytest.approx([0.1])
    assert detection_box(torch.tensor([0.0, 0, 4, 4]), 9)(output, None).tolist() == [0.0]


def test_detection_box__without_overlap_scores_zero():
    assert detection_box(torch.tensor([20.0, 20, 30, 30]))([found([0.1, 0.2, 0.3])], None).tolist() == [0.0]


def test_detection_box__reads_a_score_for_each_anchor():
    output = {"boxes": BOXES.unsqueeze(0), "logits": torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])}
    assert detection_box(torch.tensor([6.0, 6, 8, 8]), 0)(output, None).tolist() == [5.0]
    assert detection_box(torch.tensor([6.0, 6, 8, 8]))(output, None).tolist() == [6.0]


def test_detection_box__refuses_logits():
    with pytest.raises(BatchError, match="the model gave Tensor"):
        detection_box(torch.zeros(4))(torch.zeros(2, 3), None)
