"""kitlib: the package behind the notebooks of the UW-Madison GI tract segmentation kit.

Import modules by name (`from kitlib import rle, scans`); nothing is re-exported, and importing the package is instant.
A module imports only from its own floor and those below.

    facts    contest  rle
             phantom (cohort geometry anatomy contrast annotation)
    tables   scans (splits)  inputs  submission  runs  baselines
             statistics (areas habits published intensities)
             metric (hausdorff conventions bootstrap borders scorecard)
             postprocess  tuning (rescoring heldout standin)
             rescue (faults)  tiling  deadline  manifest
             likeness (census traits guesses)
    tensors  pipeline  augment  elastic (splines sampling randomness)
    models   unet (sides)  attention  losses  monitors  folding
    acts     training (presets schedules steps epochs judging averages checkpoints closing records locks budget
             workers trackers command)  inference (ensemble engine)  runtime
             experiments (evidence)  cluster
    pictures figures  figures_*
"""

__version__ = "0.1.0"
