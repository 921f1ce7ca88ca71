# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 2 · Training
#
# A 2.5D U-Net learns to outline large bowel, small bowel and stomach, is checked on cases it has never seen, and leaves
# a run folder that the inference notebook reads. On a GPU it follows the paper: 128 x 128 pixels, BCE + 0.5 Dice,
# elastic augmentation, at most 40 epochs. Without one it takes a short course of some minutes, on the same code.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if not importlib.util.find_spec("kitlib"):  # on Kaggle: the attached wheel; in a checkout: the folder above
    wheels = [wheel for place in ("*", "datasets/*/*") for wheel in Path("/kaggle/input").glob(f"{place}/kitlib-*.whl")]
    sys.path.insert(0, str(Path.cwd().parent))
    for wheel in wheels[:1]:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel], check=True)

from kitlib import runtime

print(runtime.versions())

# %% tags=["parameters"]
DATA = ""  # folder of the competition; empty: found, see kitlib.scans.find_root
RUNS = "../runs"  # where run folders go
RUN = ""  # name of the run; empty: the time of day
QUICK = None  # True: the short course; None: exactly when there is no GPU
EPOCHS = 0  # at most; 0: 40 as in the paper, 10 in the short course
SIZE = 0  # pixels of the grid, each way; 0: 128 as in the paper, 64 in the short course
FOLDS, FOLD = 5, 0
ATTENTION = True  # window and external attention, as in the paper
AUGMENT = "paper"  # "paper", "full" or "none"
SEED = 0

# %%
from datetime import datetime

import pandas as pd

from kitlib import augment, figures_model, inputs, pipeline, scans, training

# %% [markdown]
# ## Data and machine
#
# Which competition is attached, and what will do the arithmetic? A phantom is a synthetic competition in the official
# layout; its scores say how the kit works, not what the leaderboard would say.

# %%
root = scans.find_root(DATA or None)
slices = scans.read(root)
devices = runtime.devices()
quick = devices.accelerators == 0 if QUICK is None else QUICK
print(f"{'PHANTOM (synthetic)' if scans.is_phantom(root) else 'competition data'}: {root}")
print(f"{len(slices):,} slices, {slices['scan'].nunique()} scans, {slices['case'].nunique()} cases")
print(devices, "- short course" if quick else "- full course")

# %% [markdown]
# ## Folds
#
# Who is held out? Days of one case look alike, so a case lies in one fold whole; scikit-learn deals the cases so that
# each fold has its share of slices with 0, 1, 2 and 3 organs.

# %%
folds = scans.folds(slices, min(FOLDS, slices["case"].nunique()))
held_out = folds == FOLD
pd.crosstab(folds, scans.organ_count(slices), margins=True)

# %%
assert not set(slices.loc[held_out, "case"]) & set(slices.loc[~held_out, "case"]), "a case lies on both sides"
print("held out: cases", ", ".join(map(str, slices.loc[held_out, "case"].unique())))

# %% [markdown]
# ## What the network sees
#
# How does a slice reach the network? Scaled by the percentiles of its scan, stretched to the grid, with two neighbours
# on either side. The middle of the five is the one to outline.

# %%
size = SIZE or (64 if quick else 128)
spec = inputs.InputSpec(size, size)
packed = pipeline.pack(slices, spec)
busiest = int(scans.organ_count(slices).to_numpy().argmax())
figures_model.stack(packed, busiest)

# %% [markdown]
# ## Augmentation
#
# What does the network see instead of the same slice twice? The stack and its masks are bent by one elastic field,
# drawn anew for every sample, inside the training step.

# %%
layers = {"paper": augment.paper, "full": augment.Augment, "none": lambda: None}
layer = layers[AUGMENT]()

# %% [markdown]
# ## Training
#
# Does the loss fall on cases that are not learned from? A star marks the best epoch so far; its weights are kept.

# %%
course = (
    {"epochs": EPOCHS or 10, "batch_size": 8, "schedule": "cosine", "learning_rate": 2e-3}
    if quick
    else {"epochs": EPOCHS or 40, "batch_size": 16, "patience": 15}
)
options = {} if ATTENTION else {"window_stages": (), "external_bottleneck": False}
folder = Path(RUNS) / (RUN or datetime.now().strftime("%Y%m%d-%H%M%S"))
run = training.fit_fold(
    slices,
    folder,
    held_out=held_out,
    spec=spec,
    packed=packed,
    augment=layer,
    network_options=options,
    seed=SEED,
    **course,
)

# %%
figures_model.history(run.history())

# %% [markdown]
# ## Score
#
# What would the leaderboard say of the held-out scans? 0.4 Dice + 0.6 (1 - Hausdorff), rows without truth and
# prediction left out; see the score notebook for what else goes by that name.

# %%
pd.Series(run.score(), name="held-out scans").round(4).to_frame()

# %% [markdown]
# ## Predictions
#
# Where is it right and where not? Image, truth and prediction of held-out slices, as in the paper's Figure 11.

# %%
figures_model.predictions(run, slices[held_out])

# %%
print(f"The run lies in {run.folder}; 03_inference reads it.")
