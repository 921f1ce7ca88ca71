"""From packed scans to run folders: a recipe, one training, a cross-validation, a list of trainings.

A `Recipe` says how a network is trained, and `recipes` has ready-made ones; `fit_fold` trains one network into a run
folder and resumes it; `cross_validate` trains one per fold; `jobs.run` trains any list, a process per GPU where told
to. The command is `python -m kitlib.training`.
"""

from kitlib.training import recipes as recipes
from kitlib.training.fit import fit_fold as fit_fold
from kitlib.training.jobs import Job as Job
from kitlib.training.jobs import cross_validate as cross_validate
from kitlib.training.recipes import Recipe as Recipe
