"""From trained runs to submission.csv, within the time limit and whatever faults the test set has.

`predict` yields the probabilities of scan after scan, `submit` writes the file, `open_members` loads the networks.
"""

from kitlib.inference.faults import Faults as Faults
from kitlib.inference.networks import load as load
from kitlib.inference.networks import open_members as open_members
from kitlib.inference.prediction import predict as predict
from kitlib.inference.prediction import predict_scan as predict_scan
from kitlib.inference.prediction import rows as rows
from kitlib.inference.prediction import submit as submit
