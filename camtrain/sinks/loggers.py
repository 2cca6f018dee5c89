"""Sinks over Lightning's loggers, those of both packages."""

from collections.abc import Iterable
from typing import Any, Literal

from camtrain.packages import is_a
from camtrain.sinks.base import Sink

PictureFormat = Literal["jpg", "png"]


def logger_sinks(loggers: Iterable[Any], pictures: PictureFormat = "jpg") -> list[Sink]:
    """A sink for each logger that shows pictures; the others get their scalars from Lightning."""
    sinks = (sink_of(logger, pictures) for logger in loggers)
    return [sink for sink in sinks if sink is not None]


def sink_of(logger: Any, pictures: PictureFormat = "jpg") -> Sink | None:
    """The sink for a logger of either package, None for one that shows no pictures."""
    if is_a(logger, "WandbLogger"):
        from camtrain.sinks.wandb import WandbSink

        return WandbSink(logger, pictures)
    if is_a(logger, "TensorBoardLogger"):
        from camtrain.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(logger)
    if shows_pictures(logger):
        from camtrain.sinks.pictures import PictureSink

        return PictureSink(logger)
    return None


def shows_pictures(logger: Any) -> bool:
    """Whether the logger gets pictures: a known one, or one of your own (`camtrain.sinks.pictures.ShowsImages`)."""
    known = is_a(logger, "WandbLogger", "TensorBoardLogger", "MLFlowLogger", "CometLogger")
    return known or hasattr(logger, "log_image")
