"""From probabilities to masks, with settings chosen by the score.

    cleaning    Settings, and `masks`: threshold and cleaning steps of one scan
    intervals   presence of an organ on a slice, and one run of slices per organ, decoded exactly
    rescoring   the host score of many settings on the same probabilities
    tuning      the search for the best settings on held-out cases
    fusion      the weights of a mean over networks of several kinds
    baselines   an empty file, an atlas and the earlier day, to compare a submission with

`python -m kitlib.postprocess ROOT SUBMISSION` scores a submission beside the baselines on a synthetic competition.
"""

from kitlib.postprocess.cleaning import DEFAULT as DEFAULT
from kitlib.postprocess.cleaning import PLAIN as PLAIN
from kitlib.postprocess.cleaning import Settings as Settings
from kitlib.postprocess.cleaning import masks as masks
from kitlib.postprocess.tuning import tune as tune
