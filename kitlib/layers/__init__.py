"""Keras layers, losses and metrics in pure `keras.ops`, for every backend.

attention    the paper's local window attention and external attention
augment      the augmentation layer: one warp per sample, then changes of intensity
elastic      the displacement fields of the augmentation
sampling     interpolation of images at displaced positions, and cubic splines
randomness   random numbers from a seed, the same on every backend
losses       the loss functions: BCE, Dice, soft Dice, Lovasz, their weighted sums
monitors     metrics shown during training: Dice, IoU, two accuracies
dropout      dropout and stochastic depth whose random state is saved with the weights
"""

from kitlib.layers.attention import ExternalAttention as ExternalAttention
from kitlib.layers.attention import LocalWindowAttention as LocalWindowAttention
from kitlib.layers.augment import Augment as Augment
from kitlib.layers.losses import BCE as BCE
from kitlib.layers.losses import BCEDice as BCEDice
from kitlib.layers.losses import LovaszHinge as LovaszHinge
from kitlib.layers.losses import Weighted as Weighted
