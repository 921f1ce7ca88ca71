"""The run folder that a training writes, and the choice of the runs to predict or score with."""

from kitlib.runs.folder import *  # noqa: F403
