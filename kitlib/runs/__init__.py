"""The run folder that a training writes, and the choice of the runs to predict or to score with.

folder      run.json, history.csv, out-of-fold probabilities: read, write, list and compare
selection   choose the runs and settings that predict, and the validation scans that are scored
weights     store the weights of a mean over cross-validations
manifest    the check sums of a bundle, to find damaged files
"""

from kitlib.files import replacing as replacing
from kitlib.runs.folder import ROLES as ROLES
from kitlib.runs.folder import UNKNOWN as UNKNOWN
from kitlib.runs.folder import Run as Run
from kitlib.runs.folder import check_disk as check_disk
from kitlib.runs.folder import compare as compare
from kitlib.runs.folder import find as find
from kitlib.runs.folder import finished as finished
from kitlib.runs.folder import read as read
from kitlib.runs.folder import surroundings as surroundings
from kitlib.runs.folder import write_history as write_history
from kitlib.runs.folder import write_presence as write_presence
from kitlib.runs.folder import write_probabilities as write_probabilities
from kitlib.runs.folder import write_record as write_record
from kitlib.runs.selection import Choice as Choice
from kitlib.runs.selection import HeldOut as HeldOut
from kitlib.runs.selection import choose as choose
from kitlib.runs.selection import choose_held_out as choose_held_out
from kitlib.runs.selection import choose_settings as choose_settings
from kitlib.runs.weights import write_weights as write_weights
