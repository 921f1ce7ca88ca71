"""Keras layers, losses and metrics in pure `keras.ops`, for every backend.

`attention` has the paper's two attentions, `augment` the augmentation layer with its `elastic` fields, `losses` what a
training minimises, `monitors` what it reports, `dropout` two kinds that resume. `sampling` and `randomness` are the
arithmetic below `augment`.
"""

from kitlib.layers.attention import ExternalAttention as ExternalAttention
from kitlib.layers.attention import LocalWindowAttention as LocalWindowAttention
from kitlib.layers.augment import Augment as Augment
from kitlib.layers.losses import BCE as BCE
from kitlib.layers.losses import BCEDice as BCEDice
from kitlib.layers.losses import LovaszHinge as LovaszHinge
