import json
import sys

import distillation
import pytest
import torch
from distillation import Images, cross_entropy, gains, knowledge, student_loss

from camtrain.networks import SmallResNet


def taught(count=12):
    torch.manual_seed(0)
    return Images(
        torch.randn(count, 1, 28, 28), torch.arange(count) % 10, torch.randn(count, 10), torch.rand(count, 4, 4)
    )


def test_knowledge__of_a_student_that_answers_as_its_teacher_is_its_share_of_cross_entropy():
    batch = taught()
    torch.testing.assert_close(knowledge(batch.logits, batch), 0.1 * cross_entropy(batch.logits, batch))


def test_student_loss__without_a_weight_is_the_base():
    net, batch = SmallResNet(10, in_channels=1, width=2).eval(), taught()
    torch.testing.assert_close(student_loss(net, batch, knowledge, 0.0), knowledge(net(batch.images), batch))


def test_student_loss__teaches_the_map():
    net, batch = SmallResNet(10, in_channels=1, width=2).eval(), taught()
    term = student_loss(net, batch, cross_entropy, 1.0) - student_loss(net, batch, cross_entropy, 0.0)
    assert 0 < term.item() <= 2  # both maps are at unit norm, and not negative
    assert any(
        g.count_nonzero() for g in torch.autograd.grad(term, net.parameters(), allow_unused=True) if g is not None
    )


def test_gains__are_differences_between_rows_of_the_same_seed():
    accuracies = {("cross_entropy", 0): 50.0, ("cross_entropy", 1): 70.0, ("cross_entropy + explanation", 0): 53.0}
    accuracies |= {("cross_entropy + explanation", 1): 71.0, ("distillation", 0): 80.0}
    runs = [{"setting": {"row": row, "seed": seed}, "accuracy": value} for (row, seed), value in accuracies.items()]
    assert gains(runs) == {"cross_entropy.gain": 2.0, "cross_entropy.gain_deviation": pytest.approx(2**0.5)}


def test_distillation__trains_writes_and_skips_what_is_finished(tmp_path, monkeypatch):
    def read(source, root, train, download):
        return torch.randint(0, 256, (60, 28, 28), dtype=torch.uint8), torch.arange(60) % 10

    monkeypatch.setattr(distillation, "read_digits", read)
    monkeypatch.setattr(distillation, "HELD_OUT", 20)
    monkeypatch.setattr(distillation, "CANDIDATES", (0.1,))
    file = tmp_path / "distillation.json"
    small = "--device=cpu --seeds=2 --images=16 --epochs=1 --teacher-images=32 --teacher-epochs=1"
    monkeypatch.setattr(sys, "argv", ["distillation", *small.split(), f"--data={tmp_path}", f"--json={file}"])
    distillation.main()
    written = json.loads(file.read_text())
    assert [row["seeds"] for row in written["rows"]] == [2, 2, 2, 2]
    assert {"cross_entropy.gain", "distillation.gain", "teacher"} <= set(written["summary"])
    monkeypatch.setattr(distillation, "student_loss", None)
    distillation.main()
    assert json.loads(file.read_text())["runs"] == written["runs"]
