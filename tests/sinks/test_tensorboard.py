import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from camtrain.callbacks import ExplanationMonitor
from camtrain.sinks import FAILURES, HEATMAPS, Scalars
from camtrain.sinks.base import logger_sinks
from camtrain.sinks.tensorboard import TensorBoardSink

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder):
    found = events.EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "histograms": 0})
    found.Reload()
    return found


def test_tensorboard_sink__is_read_back(tmp_path, make_pass):
    logger = TensorBoardLogger(tmp_path, name="tb", version="v")
    sink = TensorBoardSink(logger)
    for epoch in range(2):
        sink.write(*make_pass(epoch, 10 * epoch), Scalars({"own": 0.5}, epoch, 10 * epoch, logged=False))
    sink.close()
    found = read(logger.log_dir)
    tags = found.Tags()
    assert {
        f"{HEATMAPS}/s0",
        f"{HEATMAPS}/s1",
        f"{FAILURES}/s2",
        "reliance/examples/boat",
        "reliance/regions/car",
    } <= set(tags["images"])
    assert [event.step for event in found.Images(f"{HEATMAPS}/s0")] == [0, 10]
    assert (found.Images(f"{HEATMAPS}/s0")[0].width, found.Images(f"{HEATMAPS}/s0")[0].height) == (70, 16)
    assert tags["scalars"] == ["own"]
    histogram = found.Histograms("cam/inside_energy_histogram/grad_cam")[0].histogram_value
    assert (histogram.num, list(histogram.bucket)) == (8, [4, 0, 3, 1])
    texts = [found.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode() for name in
             ("reliance/verdicts", "camtrain/alerts")]  # fmt: skip
    assert "| boat | reliant | +0.41 | 0.35 to 0.47 | 64 |" in texts[0]
    assert "| car | undecided | – | – to – | 2 |" in texts[0]
    assert "boat leans on its background" in texts[1]


def test_logger_sinks__stand_beside_each_other(tmp_path, wandb_offline):
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path), WandbLogger(save_dir=wandb_offline)]
    assert [type(sink).__name__ for sink in logger_sinks(loggers)] == ["TensorBoardSink", "WandbSink"]


@pytest.mark.filterwarnings("ignore::Warning")
def test_monitor__feeds_several_loggers_at_once(tmp_path, make_trainer, wandb_offline, read_run):
    import torch

    from camtrain.module import ImageClassifier

    images, masks = torch.rand(4, 3, 16, 16), torch.zeros(4, 16, 16)
    masks[:, :8] = 1
    data = torch.utils.data.TensorDataset(images, torch.tensor([0, 1, 0, 1]), masks)
    loader = torch.utils.data.DataLoader(data, 2)
    csv, board = CSVLogger(tmp_path, "csv", "v"), TensorBoardLogger(tmp_path, "tb", "v")
    online = WandbLogger(project="p", save_dir=wandb_offline)
    trainer = make_trainer(logger=[csv, board, online], callbacks=[ExplanationMonitor(num_probes=2)], max_epochs=2)
    module = ImageClassifier("camtrain.networks.SmallResNet", 2, model_kwargs={"width": 4})
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)
    folder = online.experiment.settings.sync_dir
    online.experiment.finish()
    assert "cam/drift/shift_since_first" in (tmp_path / "csv" / "v" / "metrics.csv").read_text()
    found = read(board.log_dir)
    assert len(found.Images(f"{HEATMAPS}/val-0")) == 2  # and the test's apart
    assert [len(found.Images(tag)) for tag in found.Tags()["images"] if tag.startswith(f"test/{HEATMAPS}/")] == [1, 1]
    assert "cam/inside_energy/grad_cam" in found.Tags()["scalars"]
    run = read_run(folder)
    assert [row[HEATMAPS]["count"] for row in run["history"] if HEATMAPS in row] == [2, 2]
    assert [row[f"test/{HEATMAPS}"]["count"] for row in run["history"] if f"test/{HEATMAPS}" in row] == [2]
    assert all("masks" in str(row[HEATMAPS]) for row in run["history"] if HEATMAPS in row)
    assert "report" in str([kind for _, kind, _ in run["artifacts"]])
    assert run["config"]["camtrain"]["methods"] == ["grad_cam", "grad_cam_plus_plus"]
