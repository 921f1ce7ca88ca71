"""From packed scans to run folders.

    recipes    `Recipe`: network, loss, augmentation, optimizer, schedule, epochs, patience; ready-made recipes
    presets    which recipe, encoder and grid suit a machine
    fit        `fit_fold` trains one network into a run folder, or resumes it
    initial    pretrained weights, or another run's network, to start from
    jobs       lists of trainings: cross-validation, experiments, a process per GPU
    step       the compiled training step, and averages of weights
    epochs     after each epoch: validate, keep the best, early stopping, write the checkpoint
    evaluate   loss, Dice and host score of the validation scans
    resume     run.json, checkpoints and locks
    budget     stop in time for a deadline
    devices    the GPUs, precision and strategy

The command is `python -m kitlib.training`.
"""

from kitlib.training import recipes as recipes
from kitlib.training.fit import fit_fold as fit_fold
from kitlib.training.jobs import Job as Job
from kitlib.training.jobs import cross_validate as cross_validate
from kitlib.training.recipes import Recipe as Recipe
