"""From packed scans to a run folder: one training, a cross-validation, recipes."""

from kitlib.training.fit import cross_validate as cross_validate
from kitlib.training.fit import fit_fold as fit_fold
