"""Averages of weights: the moving one that the optimizer keeps, and the mean of the last epochs.

Both are read out and put into a second network, which is judged and saved; the network that learns never holds them, so
that nothing has to be swapped back before the next step.
"""

from collections.abc import Sequence

import keras
import numpy as np


def weights(model: keras.Model, network: keras.Model) -> list[np.ndarray]:
    """Read the weights to judge: the optimizer's moving average where it keeps one, else the weights themselves.

    The optimizer averages what it trains, and batch norms keep their statistics (over some ten steps, at the network's
    momentum of 0.9) for the weights as they are at the moment. An average over a thousand steps (0.999, in
    `presets.strong`) is thus judged by statistics that are not its own, which counts against it while the rate is high;
    under a cosine both draw together towards the end. They are not estimated anew, which would take a pass over
    training batches before each judging, and what that would gain has not been measured.

    Args:
        model: the compiled model.
        network: the part of it to read.

    Returns:
        Arrays in the order of `network.weights`.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # below the loss scaling
    averages = {}
    if optimizer.use_ema:
        pairs = zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        averages = {id(variable): average for variable, average in pairs if average is not None}
    return [keras.ops.convert_to_numpy(averages.get(id(variable), variable)) for variable in network.weights]


def add_to_mean(mean: Sequence[np.ndarray] | None, count: int, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Take one more epoch into the mean of `count` epochs: mean + (x - mean) / (count + 1).

    Statistics of batch norms are averaged like weights. Where the rate has fallen to its end the epochs lie close
    together, and the pass over the training set that Izmailov et al. (2018) need for a high constant rate is spared.
    """
    if mean is None or not count:
        return [np.array(array) for array in arrays]
    return [one + (array - one) / (count + 1) for one, array in zip(mean, arrays, strict=True)]
