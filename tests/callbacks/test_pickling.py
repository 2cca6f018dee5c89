"""Every callback reaches the processes that a strategy spawns."""

import pickle

import pytest

import camtrain.callbacks


@pytest.mark.parametrize("name", camtrain.callbacks.__all__)
def test_callback__can_be_pickled(name):
    callback = pickle.loads(pickle.dumps(getattr(camtrain.callbacks, name)()))
    assert type(callback).__name__ == name
