"""From a folder in the official layout to batches: the slice table, the splits, the network's grid, tf.data.

Nothing here imports Keras, and TensorFlow is imported when the first data set is made.
"""

from kitlib.data.inputs import InputSpec as InputSpec
