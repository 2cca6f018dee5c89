"""Loggers other than Weights & Biases and TensorBoard: what they can show, they get; what they cannot is said."""

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from camtrain.callbacks import ExplanationMonitor
from camtrain.records import Scalars
from camtrain.sinks.base import logger_sinks
from camtrain.sinks.pictures import PictureSink
from camtrain.sinks.run import guard
from tests.sinks.test_run import Foreign, fit


class Own(Logger):
    """Somebody's logger, with an image method and one for files."""

    name, version, save_dir = "own", "1", None

    def __init__(self, folder=None):
        super().__init__()
        self.save_dir = folder
        self.images, self.files, self.numbers = [], [], {}

    def log_image(self, key, images, step=None, *, caption):
        self.images.append((key, images[0], step, caption[0]))

    def log_file(self, path):
        self.files.append(path.name)

    def log_metrics(self, metrics, step=None):
        self.numbers |= metrics

    def log_hyperparams(self, params):
        pass


class Service:
    """Remembers the calls of a client."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.append((name, args, options))


def of_lightning(name, **attributes):
    """A logger of this class's name in Lightning's package, whose service need not be installed."""
    kind = type(name, (), {"__module__": "pytorch_lightning.loggers.anything", **attributes})
    return kind()


def test_own_logger__gets_every_picture_with_a_caption_that_says_what_it_is(make_pass, make_document, tmp_path):
    logger = Own()
    (sink,) = logger_sinks([logger])
    sink.write(*make_pass(3, 30), make_document(tmp_path))
    keys = [key for key, *_ in logger.images]
    assert keys[:3] == ["cam/heatmaps/s0", "cam/heatmaps/s1", "cam/failures/s0"]
    assert {"reliance/examples/boat-000", "reliance/regions/boat"} <= set(keys)
    _key, pixels, step, caption = logger.images[0]
    assert (pixels.dtype, pixels.ndim, step) == (np.uint8, 3, 30)
    assert caption.startswith("boat taken for car 97 % (boat 2 %)")
    assert caption.endswith("wrong · s0 · epoch 3")
    assert logger.images[1][3].endswith("right · s1 · epoch 3")
    assert logger.files == ["report.html"]


def test_own_logger__gets_the_numbers_that_lightning_does_not_log():
    logger = Own()
    PictureSink(logger).write(Scalars({"a": 1.0}, 0, 0), Scalars({"b": 2.0}, 0, 0, logged=False))
    assert logger.numbers == {"b": 2.0}


def test_mlflow__gets_pictures_and_the_report_as_artifacts(make_pass, make_document, tmp_path):
    service = Service()
    (sink,) = logger_sinks([of_lightning("MLFlowLogger", experiment=service, run_id="r1")])
    sink.write(*make_pass(3, 30), make_document(tmp_path))
    name, (run, pixels), options = service.calls[0]
    assert (name, run, pixels.dtype) == ("log_image", "r1", np.uint8)
    assert options == {"artifact_file": "camtrain/cam/heatmaps/s0/0000030.png"}
    assert ("log_artifact", ("r1", str(tmp_path / "report.html"), "camtrain"), {}) in service.calls


def test_mlflow__is_given_no_number_whose_file_would_be_a_folder_too(tmp_path):
    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(value))

    logger = of_lightning("MLFlowLogger", log_metrics=log_metrics)
    undo = guard(logger)
    logger.log_metrics(metrics={"reliance/effect": 0.5, "reliance/effect/sea (north)": 0.25, "val/loss": 1.0}, step=1)
    undo()
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"reliance/effect", "reliance/effect_of/sea _north_", "val/loss"}


def test_comet__gets_pictures_and_the_report(make_pass, make_document, tmp_path):
    service = Service()
    (sink,) = logger_sinks([of_lightning("CometLogger", experiment=service)])
    sink.write(*make_pass(3, 30), make_document(tmp_path))
    name, (_pixels,), options = service.calls[0]
    assert (name, options["name"], options["step"]) == ("log_image", "cam/heatmaps/s0", 30)
    assert ("log_asset", (str(tmp_path / "report.html"),), {"file_name": "camtrain/report.html"}) in service.calls


def test_monitor__sends_pictures_to_a_logger_of_ones_own(make_trainer, tmp_path):
    logger = Own(str(tmp_path))
    fit(make_trainer(callbacks=[ExplanationMonitor(layers="net.4")], logger=logger), Foreign())
    assert any(key.startswith("cam/heatmaps/") for key, *_ in logger.images)
    assert "report.html" in logger.files


@pytest.mark.parametrize(("loggers", "said"), [(["csv"], True), (["csv", "own"], False)], ids=["alone", "with another"])
def test_run__says_where_the_pictures_are_that_no_logger_shows(make_trainer, tmp_path, capsys, loggers, said):
    made = {"csv": lambda: CSVLogger(tmp_path), "own": lambda: Own(str(tmp_path))}
    callbacks = [ExplanationMonitor(layers="net.4")]
    fit(make_trainer(callbacks=callbacks, logger=[made[name]() for name in loggers]), Foreign())
    text = capsys.readouterr().out
    assert text.count("(the pictures are here: CSVLogger can show none)") == said
