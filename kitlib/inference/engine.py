"""The fastest exact way to run a network on this machine.

On TensorFlow: batch norms folded into the convolutions, weights frozen into the graph as constants, and TensorFlow's
own optimiser over it, which fuses convolution, bias and ReLU into one step and computes once what depends on weights
alone. On other backends, and for what cannot be frozen, Keras' `predict_on_batch`, which compiles the network once.
"""

import numpy as np

from kitlib.inference.folding import fold

TOLERANCE = 1e-5  # largest difference of a probability between engine and network, in float32


class Engine:
    """A network made ready to run.

    The frozen graph is compared with the network on one batch of random numbers when it is made, and left aside when
    they differ by more than rounding: `kind` says what runs. A network trained in 16 bits keeps them on an accelerator,
    where it is not folded, as its rounding would show; a CPU, which would be slower for it, computes it in float32.

    Args:
        network: functional keras.Model from (B, height, width, C) to (B, height, width, organs).
        batch_size: the B to make the graph for; others get a graph of their own when they come.
    """

    def __init__(self, network, batch_size: int = 16):
        import keras

        self.network = network
        self._graphs: dict[int, object] = {}
        backend = keras.backend.backend()
        self.kind = f"Keras on {backend}"
        if backend != "tensorflow":
            return
        single = all(layer.compute_dtype in ("float32", "float64", None) for layer in network.layers)
        try:
            if not single and not keras.distribution.list_devices("gpu"):
                network, single = fold(network, "float32"), True
                self.network = network
            self._source = fold(network) if single else network
            trial = np.random.default_rng(0).random((batch_size, *network.input_shape[1:]), np.float32)
            found, wanted = self._run_graph(trial), np.asarray(network.predict_on_batch(trial))
            if np.abs(found - wanted).max() <= (TOLERANCE if single else 1e-2):
                self.kind = f"frozen TensorFlow graph{', batch norms folded' if single else ''}"
        except Exception:  # TensorFlow's errors share no narrower name; Keras then runs the network
            self._graphs.clear()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Run a batch (B, height, width, C) float32; gives (B, height, width, organs) float32.

        Raises:
            MemoryError: when the device has not enough memory for the batch.
        """
        frozen = self.kind.startswith("frozen")
        if not frozen and not self.kind.endswith("tensorflow"):
            return np.asarray(self.network.predict_on_batch(images), np.float32)
        import tensorflow as tf

        try:
            return self._run_graph(images) if frozen else np.asarray(self.network.predict_on_batch(images), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(f"a batch of {len(images)} does not fit: {error.message[:200]}") from error

    def _run_graph(self, images: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        graph = self._graphs.get(len(images))
        if graph is None:
            graph = self._graphs[len(images)] = _freeze(self._source, len(images))
        (result,) = graph(tf.constant(images))
        return result.numpy()


def _freeze(network, batch_size: int):
    """Make a concrete function of one static shape, with constants for weights."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shape = (batch_size, *network.input_shape[1:])
    function = tf.function(lambda images: network(images, training=False), autograph=False)
    return convert_variables_to_constants_v2(function.get_concrete_function(tf.TensorSpec(shape, tf.float32)))
