"""Inference: from trained runs to submission.csv, within a time limit and despite damaged test files.

prediction   scan by scan: read, predict, average, post-process, write
networks     load the networks of some runs and make them ready to predict
stacks       run a network over the stacks or volumes of one scan
windows      a sliding window in n dimensions, for networks that label volumes
clock        forecast the time of the run, and drop passes to meet the deadline
rescue       repair what can be repaired: unreadable images, damaged sample files, memory limits
faults       the list of what was met and how it was handled
"""

from kitlib.inference.faults import Faults as Faults
from kitlib.inference.networks import check_roles as check_roles
from kitlib.inference.networks import load as load
from kitlib.inference.networks import open_members as open_members
from kitlib.inference.prediction import Prediction as Prediction
from kitlib.inference.prediction import looks_back as looks_back
from kitlib.inference.prediction import predict as predict
from kitlib.inference.prediction import rows as rows
from kitlib.inference.prediction import submit as submit
from kitlib.inference.stacks import predict_scan as predict_scan
