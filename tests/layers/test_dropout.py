"""Dropout that resumes: what is dropped, and the state that is saved with the weights."""

import keras
import numpy as np
import pytest
from keras import ops

from kitlib.layers.dropout import DropPath, ResumableDropout


@pytest.mark.parametrize(("kind", "together"), [(ResumableDropout, (1, 2)), (DropPath, (1, 2, 3))])
def test_channels_or_samples_are_dropped_as_a_whole_and_a_training_resumes(kind, together, tmp_path):
    layer = kind(0.5, seed=1)
    model = keras.Sequential([keras.Input((4, 4, 31)), layer])
    x = np.ones((29, 4, 4, 31), "float32")
    first = ops.convert_to_numpy(layer(x, training=True))
    assert set(np.unique(first)) == {0.0, 2.0}
    assert (np.ptp(first, axis=together) == 0).all()
    model.save_weights(tmp_path / "state.weights.h5")
    second = ops.convert_to_numpy(layer(x, training=True))
    assert not np.array_equal(second, first)
    model.load_weights(tmp_path / "state.weights.h5")
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, training=True)), second)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, training=False)), x)
    twin = kind.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
