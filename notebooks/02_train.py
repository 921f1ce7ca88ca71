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
# This notebook trains a 2.5D U-Net for large bowel, small bowel and stomach, and saves it in a run folder that
# 03_inference reads. On a GPU it follows the paper: 128 x 128 pixels, BCE + 0.5 Dice, elastic augmentation, at most
# 40 epochs. Without a GPU it uses a short preset for 64 x 64 pixels that takes a few minutes. If training is
# interrupted, run the notebook again with the same `RUN`: it continues after the last finished epoch.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

mount = Path(os.environ.get("KITLIB_KAGGLE_INPUT", "/kaggle/input"))
links = [f"--find-links={wheel.parent}" for depth in range(1, 5) for wheel in mount.glob("*/" * depth + "kitlib-*.whl")]
pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--force-reinstall"]
if links:  # on Kaggle: the newest attached wheel; no other package changes
    subprocess.run([*pip, *links, "kitlib"], check=True)
elif Path("../kitlib").is_dir():  # in the notebooks folder of a checkout
    sys.path.insert(0, str(Path.cwd().parent))
elif not importlib.util.find_spec("kitlib"):
    there = ", ".join(path.name for place in ("*", "datasets/*/*") for path in sorted(mount.glob(place))) or "nothing"
    text = f"No data set with a kitlib wheel is attached: {mount} holds {there}, and no kitlib-*.whl outside a zip."
    raise ModuleNotFoundError(f"{text} Run `make bundle`, upload it (kaggle/README.md) and attach it with Add Input.")
from kitlib import session

print(session.versions())

# %% tags=["parameters"]
DATA = ""  # folder of the competition; empty: searched for as kitlib.data.scans.find_root describes
RUNS = ""  # folder for the run folders; empty: runs/ here on Kaggle, which keeps it, ../runs elsewhere
RUN = ""  # name of a new run, or of the run to resume; empty: the current date and time
PRESET = ""  # "paper", "paper_first", "strong" or "short" (kitlib.training.recipes); empty: paper on a GPU, else short
HOURS = 0.0  # time limit for all trainings together; run the notebook again to continue; 0: 11 on Kaggle, else no limit
EPOCHS = 0  # maximum number of epochs; 0: the preset's
SIZE = 0  # height and width of the network's input in pixels; 0: 128 as in the paper, 64 with the preset short
FOLDS = 5  # number of folds, the groups that the cases are split into
FOLD = 0  # fold to validate on; the others are the training set
FOLDS_TO_TRAIN = 1  # folds to train, one network each, starting with FOLD; all FOLDS are a cross-validation
UNSEEN = ""  # scans held out of everything until a final score: "fold" (one case in FOLDS) or "later-days"; empty: none
CARDS = 0  # GPUs to use, each for a fold of its own; 0: all
LEVELS = 4  # number of poolings; the paper compares 4 and 5
ATTENTION = True  # window and external attention, as in the paper
AUGMENT = ""  # "paper", "full" or "none"; empty: the preset's
COMPARE = ()  # alternatives to train too, with the same seed and steps: any of "plain" (no attention), "unaugmented"
SEED = 0

# %%
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
from IPython.display import display

from kitlib import contest, runs, training
from kitlib.data import folds, inputs, pipeline, scans
from kitlib.figures import training as figures_model, layers
from kitlib.layers import augment, elastic
from kitlib.models import unet
from kitlib.training import devices, evaluate, jobs, recipes

# %%
session.parameters(
    globals(),
    DATA="",
    RUNS="",
    RUN="",
    PRESET=("", "paper", "paper_first", "strong", "short"),
    HOURS=0.0,
    EPOCHS=0,
    SIZE=lambda: (0, range(16, 2049, max(16, 2**LEVELS))),
    FOLDS=(5, range(2, 101)),
    FOLD=lambda: (0, range(FOLDS)),
    FOLDS_TO_TRAIN=lambda: (1, range(1, FOLDS + 1)),
    UNSEEN=("", "fold", "later-days"),
    CARDS=0,
    LEVELS=(4, range(1, 8)),
    ATTENTION=(True, False),
    AUGMENT=("", "paper", "full", "none"),
    COMPARE=["plain", "unaugmented"],
    SEED=(0, range(2**31)),
)

# %% [markdown]
# ## Data and machine
#
# Are the data real or a phantom, and which devices train? A phantom is a synthetic competition in the official
# layout. Its scores show that the kit works and predict nothing about the leaderboard.

# %%
kept, ends = session.run_folders(RUNS), session.ends_at(HOURS)
machine = devices.use(devices.detect(CARDS))
print(machine)
root = session.competition(DATA)
slices = scans.read(root)
print(f"{len(slices):,} slices, {slices['scan'].nunique()} scans, {slices['case'].nunique()} cases")

# %% [markdown]
# ## Recipe
#
# How is the network trained? The parameters above change a ready-made recipe. The run folder stores the complete
# recipe, and you can pass it to `training.fit_fold` in a script of your own.

# %%
preset = PRESET or ("paper" if machine.accelerators else "short")
recipe = recipes.PRESETS[preset]()
options = recipe.network_options | {"levels": LEVELS} | ({} if ATTENTION else unet.NO_ATTENTION)
kinds = {"": recipe.augment, "paper": augment.paper(), "full": augment.Augment(), "none": None}
changes = {"network_options": options, "augment": kinds[AUGMENT], "seed": SEED, "epochs": EPOCHS or recipe.epochs}
recipe = replace(recipe, **changes)
size = SIZE or (64 if preset == "short" else 128)
spec = inputs.InputSpec(size, size)
print(f"preset {preset}, {size} x {size} pixels, at most {recipe.epochs} epochs of batches of {recipe.batch_size}")

# %% [markdown]
# ## Folds
#
# Which cases are in the validation set? The days of a case look alike, so they are all in one fold. scikit-learn
# assigns the cases so that every fold has a similar share of slices with 0, 1, 2 and 3 organs.

# %%
count = min(FOLDS, slices["case"].nunique())
unseen = {
    "": lambda: np.zeros(len(slices), bool),
    "fold": lambda: folds.by_case(slices, count).to_numpy() == count - 1,
    "later-days": lambda: folds.later_days(slices).to_numpy(),
}[UNSEEN]()
known = slices[~unseen].reset_index(drop=True)
count = min(count, known["case"].nunique())
fold = folds.by_case(known, count)
pd.crosstab(fold, scans.organ_count(known), margins=True)

# %% [markdown]
# Which scans are scored, and when? The validation score chooses the epoch to keep, so it is a little too high. An
# unbiased score needs scans that had no part in any choice: set `UNSEEN`. "later-days" is a split like that of the
# hidden test set; it removes 44.5 % of the real slices from training.

# %%
held_out = fold == FOLD
assert held_out.any(), f"FOLD = {FOLD}: there are only {count} folds of these cases; choose 0 to {count - 1}"
shared = set(known.loc[held_out, "case"]) & set(known.loc[~held_out, "case"])
assert not shared, f"cases {sorted(shared)} are in the training and the validation set; split with folds.by_case"
print("validation: cases", ", ".join(map(str, known.loc[held_out, "case"].unique())))
print("unseen:", f"{unseen.sum():,} slices of {slices.loc[unseen, 'scan'].nunique()} scans" if unseen.any() else "none")

# %% [markdown]
# ## The network's input
#
# How is a slice prepared for the network? It is scaled by the percentiles of its scan, resized to the input size, and
# stacked with two neighbours on either side. The middle one of the five is outlined.

# %%
packed = pipeline.pack(slices, spec)
busiest = figures_model.busiest(slices)
figures_model.stack(packed, busiest)

# %% [markdown]
# ## Elastic distortion
#
# What does elastic distortion do to a slice? There are two ways to draw the displacement: the paper cites noise
# smoothed by a Gaussian, and elasticdeform interpolates a coarse grid of control points. Masks are displaced like
# their image, without interpolation: each pixel takes the nearest value.

# %% tags=["preview-distortion"]
image = packed.images[busiest].astype("float32")
masks = packed.truth(slices.iloc[[busiest]])[0]
alpha_px, sigma_px = augment.paper().smooth_px((size, size))
fields = {
    "smoothed noise": elastic.smooth_displacement(SEED, (1, size, size), alpha_px, sigma_px),
    "control grid": elastic.displacement(SEED, (1, size, size), points=4, sigma_px=0.03 * size),
}
layers.distortion(image, masks, {name: np.asarray(field)[0] for name, field in fields.items()})

# %% [markdown]
# Does the kit's distortion agree with elasticdeform? Both get the same control points, and the difference should be
# rounding only. elasticdeform processes one image at a time on a CPU; the kit's version runs on the network's device.
# Kaggle's image lacks elasticdeform, so the comparison is skipped there.

# %%
control = np.random.default_rng(SEED).normal(0, 0.04 * size, (2, 4, 4)).astype("float32")
dense = elastic.spline_field(control[None], (size, size))
ours = np.asarray(elastic.warp(image[None, ..., None], dense, order=1))[0, ..., 0]
if importlib.util.find_spec("elasticdeform"):
    import elasticdeform

    theirs = elasticdeform.deform_grid(image, control, order=1, mode="constant")
    display(layers.warp_difference(image, ours, theirs))
else:
    print("elasticdeform is not installed, so the comparison is skipped")

# %% [markdown]
# ## Augmentation
#
# How does augmentation change a slice? Each training step draws new random changes for every sample. All slices of a
# stack change together.

# %%
layer, stack = recipe.made("augment"), packed.stack(busiest)
if layer is not None:
    display(layers.samples(layer, stack, masks, np.arange(1, 6)))
else:
    print("This recipe has no augmentation: samples stay as they are.")

# %% [markdown]
# ## The network
#
# What does the network look like? Dots mark the attention layers. The paper reports 2.50 million parameters for 4
# levels and 5.72 for 5. It does not say where its attention layers are, so their position here is our interpretation.

# %% tags=["preview-network"]
network = recipe.builder()(spec.shape)
layers.network(network)

# %% [markdown]
# How large are the paper's two networks, and how large is the receptive field? The paper's Table 7 counts a pooling
# layer as a stride only. Its 2 x 2 window makes the receptive field slightly larger, as gradients confirm. "in all"
# includes the moving averages of batch normalisation.

# %%
for levels in (4, 5):
    model = unet.build_unet((128, 128, 5), levels=levels)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(f"{levels} levels with attention: {trainable:,} trainable parameters, {model.count_params():,} in all")
    display(pd.DataFrame(unet.receptive_field(levels)).rename_axis("stage").T)

# %% [markdown]
# What happens at the border? The kit's networks pad with zeros and keep the size. The original U-Net does not pad its
# convolutions; it mirrors the image beyond the border instead, as in the paper's Figure 2.

# %%
layers.mirrored_border(image)

# %% [markdown]
# ## Training
#
# Does the validation score still rise? It is the host score of whole scans, measured after every epoch; a star marks
# the best epoch so far, whose weights are kept. If training stops early, run the notebook again with the `RUN`
# printed here.

# %%
folder = kept / (RUN or datetime.now().strftime("%Y%m%d-%H%M%S"))
wanted = range(FOLD, min(FOLD + FOLDS_TO_TRAIN, count))
print(f"run folder: {folder.resolve()}; RUN = {folder.name!r} resumes it")
to_train = [number for number in wanted if not runs.finished(folder / f"fold{number}")]
stored = fold.isin(to_train).sum() + len(COMPARE) * held_out.sum()
if jobs.trainings_at_once(machine, max(len(to_train), len(COMPARE))) > 1:  # they share packed scans on the disk
    stored += len(known)
print(runs.check_disk(folder, int(stored), spec, session.disk_left(folder)))

# %%
same = {"packed": packed, "devices": machine}
attached = contest.attached("run.json")  # on Kaggle: runs of an earlier session, to resume
trained = training.cross_validate(
    known, folder, count=count, only=wanted, spec=spec, recipe=recipe, earlier=attached, deadline=ends, **same
)
run = runs.read(folder / f"fold{FOLD}")
runs.compare(folder)

# %% [markdown]
# How do loss, Dice and IoU change? The network overfits where the training and validation curves drift apart. Compare
# the shapes of the curves, not their heights. The training loss is a mean over augmented batches during an epoch; the
# validation loss is measured on whole scans after it, where the Dice term has other values.

# %%
figures_model.history(run.history())

# %% [markdown]
# ## Comparison
#
# How much do attention and augmentation help? Each alternative in `COMPARE` is trained with the same seed, slice
# order and number of steps. One training of each proves little: 05_experiments repeats them with several seeds.

# %%
others = {"plain": {"network_options": options | unet.NO_ATTENTION}, "unaugmented": {"augment": None}}
place = kept.with_name("comparisons")
listed = [
    training.Job(place / f"{folder.name}-{name}", held_out, spec, replace(recipe, **others[name]), name)
    for name in COMPARE
]
at_once = jobs.trainings_at_once(machine, len(listed))
outcomes = jobs.run(known, listed, at_once=at_once, like=[run.folder], earlier=attached, deadline=ends, **same)
compared = {"this run": run} | {outcome.job.name: outcome.run for outcome in outcomes if outcome.run}
figures_model.gaps({name: run.history() for name, run in compared.items()})

# %% [markdown]
# ## Score
#
# What is the host score of the validation scans? It is our estimate of the competition's score: 0.4 Dice + 0.6 (1 -
# Hausdorff). It is a little too high here, because the same scans chose the epoch. The Dice in the curves is higher
# because it pools all pixels at the network's input size.

# %%
print(f"{run.folder}: {run.state}, {run.record['best_weights']}; 03_inference reads it")
scores = {name: run.score() for name, run in compared.items()}
if unseen.any():
    scores["this run, unseen scans"] = evaluate.score_unseen(run, slices[unseen].reset_index(drop=True))
pd.DataFrame(scores).loc[["score", "dice", "hausdorff"]].astype(float).round(4)

# %% [markdown]
# ## Predictions
#
# Where is the network right, and where is it wrong? The picture shows image, truth and prediction of validation
# slices, as in the paper's Figure 11.

# %% tags=["preview-predictions"]
figures_model.predictions(run, known[held_out])

# %% [markdown]
# Which pictures are saved in the run folder? The command `python -m kitlib.figures` draws them again.

# %%
for path in figures_model.draw(run.folder, root):
    print(path)
