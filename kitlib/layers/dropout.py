"""Dropout whose random state is saved with the weights, so that a resumed training drops the same units.

Keras does not save the state of its generators. The replicas of a strategy draw the same numbers, for different
samples.
"""

import keras
from keras import ops


class _SavedState:
    """The state of `seed_generator` among a layer's saved variables."""

    def save_own_variables(self, store):
        if self.rate > 0:
            store["state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        if self.rate > 0:
            self.seed_generator.state.assign(store["state"])


@keras.saving.register_keras_serializable("kitlib")
class ResumableDropout(_SavedState, keras.layers.SpatialDropout2D):
    """Drop whole channels.

    Shapes: (B, H, W, C) -> (B, H, W, C).

    Args:
        rate: probability that a channel of a sample is dropped while training; the others are scaled up.
    """


@keras.saving.register_keras_serializable("kitlib")
class DropPath(_SavedState, keras.layers.Dropout):
    """Drop a whole sample on a residual branch (stochastic depth, Huang et al., 2016).

    Shapes: (B, H, W, C) -> (B, H, W, C).

    Args:
        rate: probability that a sample is dropped while training; the others are scaled up.
        seed: of the generator.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1, 1), seed=seed, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config
