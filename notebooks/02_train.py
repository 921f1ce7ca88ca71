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
# You get a trained 2.5D U-Net for large bowel, small bowel and stomach, in a run folder that 03_inference reads. On a
# GPU it follows the paper: 128 x 128 pixels, BCE + 0.5 Dice, elastic augmentation, at most 40 epochs. Without one it
# takes a short form of some minutes. If training is interrupted, run the notebook again with the same `RUN`: it
# continues after the last finished epoch.

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
DATA = ""  # folder of the competition; empty: found, see kitlib.data.scans.find_root
RUNS = ""  # where run folders go; empty: runs/ here on Kaggle, which keeps it, ../runs elsewhere
RUN = ""  # name of the run, also to resume it; empty: the time of day
PRESET = ""  # "paper", "paper_first", "strong" or "short" (kitlib.training.recipes); empty: paper on a GPU, else short
HOURS = 0.0  # time limit of all trainings; run again to continue; 0: 11 on Kaggle, else no limit
EPOCHS = 0  # at most; 0: what the preset says
SIZE = 0  # height and width of the grid in pixels; 0: 128 as in the paper, 64 in the short form
FOLDS = 5  # parts that the cases are split into
FOLD = 0  # the part that validates; the others are trained on
FOLDS_TO_TRAIN = 1  # folds to train, one network each, from FOLD on; as many as FOLDS is a cross-validation
UNSEEN = ""  # scans to keep out and score once, at the end: "fold" (one case in FOLDS) or "later-days"; empty: none
CARDS = 0  # GPUs to use; 0: all, with one fold per card
LEVELS = 4  # poolings: 4 or 5 in the paper
ATTENTION = True  # window and external attention, as in the paper
AUGMENT = ""  # "paper", "full" or "none"; empty: what the preset says
COMPARE = ()  # trained as well, with the same seed and steps: any of "plain" (no attention), "unaugmented"
SEED = 0

# %%
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
from IPython.display import display

from kitlib import contest, runs, training
from kitlib.data import folds, inputs, pipeline, scans
from kitlib.figures import training as figures_model, layers, __main__ as figures_run
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
    SEED=0,
)

# %% [markdown]
# ## Data and machine
#
# Which competition is attached, and which devices train? A phantom is a synthetic competition in the official layout:
# its scores show that the kit works and predict nothing about the leaderboard.

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
# How is the network trained? The parameters above change a ready-made recipe. The run folder keeps all of it, and
# `training.fit_fold` takes it in a script of your own.

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
# Which cases validate? Days of one case look alike, so all days of a case are in one fold. scikit-learn draws the folds
# so that each has its share of slices with 0, 1, 2 and 3 organs.

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
# Which scans are scored, and when? The validation score chooses the epoch that is kept, so it is a little too high. An
# honest one needs scans that nothing was chosen on: `UNSEEN`. "later-days" is a split like that of the hidden test set;
# it takes 44.5 % of the real slices away from training.

# %%
held_out = fold == FOLD
assert held_out.any(), f"FOLD = {FOLD}: these cases make {count} folds, so choose 0 to {count - 1}"
assert not set(known.loc[held_out, "case"]) & set(known.loc[~held_out, "case"]), "a case is in both sets"
print("validation: cases", ", ".join(map(str, known.loc[held_out, "case"].unique())))
print("unseen:", f"{unseen.sum():,} slices of {slices.loc[unseen, 'scan'].nunique()} scans" if unseen.any() else "none")

# %% [markdown]
# ## What the network sees
#
# How does a slice reach the network? It is scaled by the percentiles of its scan, stretched to the grid, and stacked
# with two neighbours on either side. The middle one of the five is outlined.

# %%
packed = pipeline.pack(slices, spec)
busiest = figures_model.busiest(slices)
figures_model.stack(packed, busiest)

# %% [markdown]
# ## Elastic distortion
#
# What does elastic distortion do to a slice? The paper cites noise that is smoothed by a Gaussian; elasticdeform
# interpolates a coarse grid of control points. Masks follow by the nearest pixel.

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
# Does ours agree with elasticdeform? The same control points go through both; elasticdeform runs one image at a time on
# a CPU, ours where the network runs. The difference should be rounding. Kaggle's image lacks elasticdeform.

# %%
control = np.random.default_rng(SEED).normal(0, 0.04 * size, (2, 4, 4)).astype("float32")
dense = elastic.spline_field(control[None], (size, size))
ours = np.asarray(elastic.warp(image[None, ..., None], dense, order=1))[0, ..., 0]
if importlib.util.find_spec("elasticdeform"):
    import elasticdeform

    theirs = elasticdeform.deform_grid(image, control, order=1, mode="constant")
    display(layers.beside(image, ours, theirs))
else:
    print("elasticdeform is not installed: nothing to compare with")

# %% [markdown]
# ## Augmentation
#
# How does augmentation change a slice? The changes are drawn anew for every sample inside the training step, and all
# slices of a stack change together.

# %%
layer, stack = recipe.made("augment"), packed.stack(busiest)
if layer is not None:
    display(layers.samples(layer, stack, masks, np.arange(1, 6)))
else:
    print("no augmentation: samples are not changed")

# %% [markdown]
# ## The network
#
# What does the network look like? Dots mark the attentions. The paper counts 2.50 million parameters for 4 levels and
# 5.72 for 5, and does not say where its attentions are: this placement is our reading.

# %% tags=["preview-network"]
network = recipe.builder()(spec.shape)
layers.network(network)

# %% [markdown]
# How large are the paper's two networks, and how much of the image does one value depend on? The paper's Table 7 counts
# a pool as a stride only; its own 2 x 2 pixels, which a gradient finds, add a little. "in all" counts the averages that
# batch norms keep too.

# %%
for levels in (4, 5):
    model = unet.build_unet((128, 128, 5), levels=levels)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(f"{levels} levels with attention: {trainable:,} trainable parameters, {model.count_params():,} in all")
    display(pd.DataFrame(unet.receptive_field(levels)).rename_axis("stage").T)

# %% [markdown]
# What happens at the border? Our networks pad with zeros and keep the size. The original U-Net uses only pixels whose
# neighbourhood is complete, and mirrors the image outwards where it is not: the paper's Figure 2.

# %%
layers.mirrored_border(image)

# %% [markdown]
# ## Training
#
# Does the validation score still rise? It is the host score of whole scans, measured after every epoch; a star marks
# the best epoch so far, whose weights are kept. If the time is up, run the notebook again with the name printed here.

# %%
folder = kept / (RUN or datetime.now().strftime("%Y%m%d-%H%M%S"))
wanted = range(FOLD, min(FOLD + FOLDS_TO_TRAIN, count))
print(f"run folder: {folder.resolve()}; RUN = {folder.name!r} resumes it")
print(runs.check_disk(folder, int(fold.isin(wanted).sum()), spec, session.disk_left(folder)))

# %%
same = {"packed": packed, "devices": machine}
attached = contest.attached("run.json")  # on Kaggle: a run that an earlier notebook began
trained = training.cross_validate(
    known, folder, count=count, only=wanted, spec=spec, recipe=recipe, earlier=attached, deadline=ends, **same
)
run = runs.read(folder / f"fold{FOLD}")
runs.compare(folder)

# %% [markdown]
# How do loss, Dice and IoU change? Where training and validation drift apart, the network overfits. Compare the shapes,
# not the heights: the training loss is the mean over augmented batches of an epoch, the validation loss that over whole
# scans after it, and a Dice term differs between the two.

# %%
figures_model.history(run.history())

# %% [markdown]
# ## Comparison
#
# What do the attentions and the augmentation bring? Each alternative in `COMPARE` is trained with the same seed, order
# and number of steps. One run each proves little: 05_experiments takes several seeds.

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
# What is the host score of the validation scans? 0.4 Dice + 0.6 (1 - Hausdorff) is our estimate of the competition's.
# It is a little too high here: the same scans chose the epoch. The Dice of the curves is higher because it pools all
# pixels on the network's grid.

# %%
print(f"{run.folder}: {run.state}, {run.record['best_weights']}; 03_inference reads it")
scores = {name: run.score() for name, run in compared.items()}
if unseen.any():
    scores["this run, unseen scans"] = evaluate.score_unseen(run, slices[unseen].reset_index(drop=True))
pd.DataFrame(scores).loc[["score", "dice", "hausdorff"]].astype(float).round(4)

# %% [markdown]
# ## Predictions
#
# Where is the network right and where wrong? Image, truth and prediction of validation slices, as in the paper's Figure
# 11.

# %% tags=["preview-predictions"]
figures_model.predictions(run, known[held_out])

# %% [markdown]
# Which pictures does the run folder keep? `python -m kitlib.figures` draws them again.

# %%
for path in figures_run.draw(run.folder, root):
    print(path)
