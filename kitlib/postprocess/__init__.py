"""From probabilities to masks, with settings chosen by the score."""

from kitlib.postprocess.cleaning import HABITS as HABITS
from kitlib.postprocess.cleaning import Settings as Settings
from kitlib.postprocess.cleaning import masks as masks
from kitlib.postprocess.tuning import tune as tune
