import against
import pytest


def test_compare__is_the_median_ratio_to_the_other_build_of_the_first_and_of_later_rounds(monkeypatch, tmp_path):
    def in_build(build, case, weights):
        cpu = {"mine": (2.0, 1.0, 1.0), "other": (4.0, 4.0, 4.0)}[build]
        return [{"cpu": seconds, "wall": 2 * seconds, "reliant": 3} for seconds in cpu]

    monkeypatch.setattr(against, "in_build", in_build)
    row = against.compare("round_all", ("mine", "other"), 3, tmp_path)
    assert row["cpu"] == row["wall"] == pytest.approx(0.5)
    assert row["later_cpu"] == pytest.approx(0.25)
    assert row["cpu, spread"] == 0
    assert (row["reliant"], row["reliant, other"]) == (3, 3)
