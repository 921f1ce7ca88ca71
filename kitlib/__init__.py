"""kitlib: the package behind the notebooks of the UW-Madison GI tract segmentation kit.

Import the modules by name (`from kitlib import rle, scans`); nothing is re-exported, and importing the package is instant.

    facts     contest  rle  phantom
    tables    scans  inputs  statistics  metric  postprocess  tuning  submission  runs
    tensors   pipeline  elastic  augment
    models    attention  unet  losses  monitors
    acts      training  inference  runtime  figures
"""

__version__ = "0.1.0"
