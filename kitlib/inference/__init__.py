"""From trained runs to submission.csv, within the time limit and whatever the test set holds."""

from kitlib.inference.networks import load as load
from kitlib.inference.prediction import predict as predict
from kitlib.inference.prediction import predict_scan as predict_scan
from kitlib.inference.prediction import rows as rows
from kitlib.inference.prediction import submit as submit
