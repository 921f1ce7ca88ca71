"""Keras layers and losses in pure `keras.ops`: attention, augmentation, losses and metrics, on every backend."""

from kitlib.layers.attention import ExternalAttention as ExternalAttention
from kitlib.layers.attention import LocalWindowAttention as LocalWindowAttention
from kitlib.layers.augment import Augment as Augment
