"""The pure functions behind `camtrain.metrics`, a value for each image; import them from there."""
