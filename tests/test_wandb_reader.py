import pytest

from tests.wandb_reader import _records, read_run


@pytest.fixture
def run_file(wandb_offline):
    wandb = pytest.importorskip("wandb")
    run = wandb.init(project="camtrain", dir=wandb_offline)
    for step in range(3):
        run.log({"loss": 1.0 / (step + 1), "text": "x" * 20_000})  # three records over two blocks of 32 KiB
    folder = run.settings.sync_dir
    run.finish()
    assert [row["loss"] for row in read_run(folder)["history"]] == [1.0, 0.5, 1 / 3]
    return next(wandb_offline.rglob("*.wandb"))


def test_records__of_a_file_cut_anywhere_are_the_first_ones(run_file, tmp_path):
    content, whole = run_file.read_bytes(), list(_records(run_file))
    counts = []
    for end in [*range(0, len(content), 131), len(content)]:
        cut = tmp_path / "cut.wandb"
        cut.write_bytes(content[:end])
        found = list(_records(cut))
        assert found == whole[: len(found)]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == len(whole)
