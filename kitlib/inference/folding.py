"""Batch norms folded into the convolutions before them: the same function, with fewer steps, for inference only.

A trained batch norm is x -> gamma (x - mean) / sqrt(variance + eps) + beta, and so is linear: after a convolution with
kernel W and bias b it becomes the kernel W s and the bias (b - mean) s + beta, with s = gamma / sqrt(variance + eps).
"""

import keras
import numpy as np


class Passage(keras.layers.Layer):
    """What stands where a batch norm was: it hands its maps on."""

    def call(self, maps, training=None, mask=None):
        return maps


def fold(network: keras.Model, dtype: str | None = None) -> keras.Model:
    """Build the network again with every batch norm that directly follows a convolution folded into it.

    Shapes and names stay; a batch norm that has no convolution of its own before it stays too. The sums are made in
    float64, so that the result differs from the network's by rounding alone (under 1e-5 in float32).

    Args:
        network: a functional model.
        dtype: policy for every layer, such as "float32" for a network that was trained in 16 bits and has to run on a
            CPU; None keeps each layer's own.

    Returns:
        Another model for inference; train the one that was given.
    """
    folded = _pairs(network)
    norms = {norm.name for norm in folded.values()}

    copies = {}

    def again(layer):
        if layer.name in norms:
            return Passage(name=layer.name, dtype=dtype or layer.dtype_policy)
        config = layer.get_config() | ({"dtype": dtype} if dtype else {})
        copies[layer.name] = layer.from_config(config | {"use_bias": True} if layer.name in folded else config)
        return copies[layer.name]

    result = keras.models.clone_model(network, clone_function=again)
    for layer in network.layers:
        if layer.name in folded:
            copies[layer.name].set_weights(_folded_weights(layer, folded[layer.name]))
        elif layer.name in copies:
            copies[layer.name].set_weights(layer.get_weights())
    return result


def _pairs(network: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """Find the batch norms whose input is a convolution that feeds nothing else, by the convolution's name."""
    users: dict[str, set[str]] = {}
    for layer in network.layers:
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                users.setdefault(tensor._keras_history.operation.name, set()).add(layer.name)
    outputs = {tensor._keras_history.operation.name for tensor in network.outputs}
    pairs = {}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.BatchNormalization) or len(layer._inbound_nodes) != 1:
            continue
        before = layer.input._keras_history.operation
        linear = getattr(before, "activation", None) in (None, keras.activations.linear)
        last = layer.axis in (-1, len(layer.input.shape) - 1)
        alone = users[before.name] == {layer.name} and before.name not in outputs and len(before._inbound_nodes) == 1
        if type(before) is keras.layers.Conv2D and linear and last and alone:
            pairs[before.name] = layer
    return pairs


def _folded_weights(convolution, norm) -> list[np.ndarray]:
    """Compute kernel and bias of a convolution with its batch norm."""
    kernel, *bias = (np.asarray(weight, np.float64) for weight in convolution.get_weights())
    mean, variance = (
        keras.ops.convert_to_numpy(moment).astype(np.float64) for moment in (norm.moving_mean, norm.moving_variance)
    )
    gamma = keras.ops.convert_to_numpy(norm.gamma).astype(np.float64) if norm.scale else 1.0
    beta = keras.ops.convert_to_numpy(norm.beta).astype(np.float64) if norm.center else 0.0
    scale = gamma / np.sqrt(variance + norm.epsilon)
    shift = ((bias[0] if bias else 0.0) - mean) * scale + beta
    dtype = convolution.get_weights()[0].dtype
    return [(kernel * scale).astype(dtype), np.broadcast_to(shift, mean.shape).astype(dtype)]
