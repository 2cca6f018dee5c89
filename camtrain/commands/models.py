"""The former place of `camtrain.loading`."""

from camtrain.loading import device_of, load_model, model_names

__all__ = ["device_of", "load_model", "model_names"]
