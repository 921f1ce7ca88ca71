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
# elastic augmentation, at most 40 epochs. Without one it takes a short course of some minutes, on the same code. It may
# be interrupted at any moment: run again with the same `RUN`, it goes on after the last finished epoch.

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
RUN = ""  # name of the run, to go on with it when it was interrupted; empty: the time of day
PRESET = ""  # "paper", "paper_first", "strong" or "short" (kitlib.training.recipes); empty: paper on a GPU, else short
HOURS = 0.0  # end all trainings, with their models, before so many have passed; 0: 11 on Kaggle, else no limit
EPOCHS = 0  # at most; 0: what the preset says
SIZE = 0  # pixels of the grid, each way; 0: 128 as in the paper, 64 in the short course
FOLDS = 5  # parts that the cases are split into
FOLD = 0  # the part that validates
LEVELS = 4  # poolings: 4 or 5 in the paper
ATTENTION = True  # window and external attention, as in the paper
AUGMENT = ""  # "paper", "full" or "none"; empty: what the preset says
COMPARE = ()  # trained as well, same seed and steps: any of "plain" (no attention), "unaugmented"
SEED = 0

# %%
from datetime import datetime

import numpy as np
import pandas as pd
from IPython.display import display

from kitlib.layers import augment, elastic
from kitlib.paper import experiments
from kitlib.figures import training as figures_model, layers, __main__ as figures_run
from kitlib.data import folds, inputs, pipeline, scans
from kitlib.training import devices, recipes
from kitlib import training
from kitlib.models import unet

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
    LEVELS=(4, range(1, 8)),
    ATTENTION=(True, False),
    AUGMENT=("", "paper", "full", "none"),
    COMPARE=["plain", "unaugmented"],
    SEED=0,
)
kept, ends = session.run_folders(RUNS), session.ends_at(HOURS)

# %% [markdown]
# ## Data and machine
#
# Which competition is attached, and what will do the arithmetic? A phantom is a synthetic competition in the official
# layout; its scores say how the kit works, not what the leaderboard would say.

# %%
root = session.competition(DATA)
slices = scans.read(root)
machine = devices.use(devices.detect())
preset = PRESET or ("paper" if machine.accelerators else "short")
course = recipes.named(preset)
print(f"{len(slices):,} slices, {slices['scan'].nunique()} scans, {slices['case'].nunique()} cases")
print(f"{machine}; preset {preset}")

# %% [markdown]
# ## Folds
#
# Who is held out? Days of one case look alike, so a case lies in one fold whole; scikit-learn deals the cases so that
# each fold has its share of slices with 0, 1, 2 and 3 organs.

# %%
fold = folds.by_case(slices, min(FOLDS, slices["case"].nunique()))
held_out = fold == FOLD
pd.crosstab(fold, scans.organ_count(slices), margins=True)

# %%
assert not set(slices.loc[held_out, "case"]) & set(slices.loc[~held_out, "case"]), "a case lies on both sides"
print("held out: cases", ", ".join(map(str, slices.loc[held_out, "case"].unique())))

# %% [markdown]
# ## What the network sees
#
# How does a slice reach the network? Scaled by the percentiles of its scan, stretched to the grid, with two neighbours
# on either side. The middle of the five is the one to outline.

# %%
size = SIZE or (64 if preset == "short" else 128)
spec = inputs.InputSpec(size, size)
packed = pipeline.pack(slices, spec)
busiest = figures_model.busiest(slices)
figures_model.stack(packed, busiest)

# %% [markdown]
# ## Elastic distortion
#
# What may happen to a slice without making it another organ? Two fields: noise smoothed by a Gaussian, which the paper
# cites, and elasticdeform's coarse grid of control points. Masks follow by the nearest pixel.

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
# Is ours what elasticdeform would have done? The same control points through both; elasticdeform runs one image at a
# time on a CPU, ours where the network runs. What is between them should be rounding. Kaggle's image lacks it.

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
# What does the network get instead of the same slice twice? Drawn anew for every sample inside the training step; the
# whole stack of a sample moves together.

# %%
kinds = {"": lambda: course["augment"], "paper": augment.paper, "full": augment.Augment, "none": lambda: None}
layer = course["augment"] = kinds[AUGMENT]()
stack = packed.stack(busiest)
if layer is not None:
    display(layers.samples(layer, stack, masks, np.arange(1, 6)))
else:
    print("no augmentation: every sample as it is")

# %% [markdown]
# ## The network
#
# How does the U carry a slice down and up again? Dots mark the attentions. The paper counts 2.50 million parameters
# for 4 levels and 5.72 for 5, and does not say where its attentions sit: this placement is our reading.

# %% tags=["preview-network"]
course["network_options"] |= {"levels": LEVELS} | ({} if ATTENTION else unet.NO_ATTENTION)
network = unet.build_unet(spec.shape, **course["network_options"])
layers.network(network)

# %% [markdown]
# How large are the paper's two networks, and how far does one value see? In all counts the averages that batch norms
# keep as well. The paper's Table 7 counts the pool as a stride only; with the pool's own 2 x 2 pixels, which is what a
# gradient finds, it sees a little further. Compare the last numbers with the size of the grid.

# %%
for levels in (4, 5):
    model = unet.build_unet((128, 128, 5), levels=levels)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(f"{levels} levels with attention: {trainable:,} trainable parameters, {model.count_params():,} in all")
    display(pd.DataFrame(unet.receptive_field(levels)).rename_axis("stage").T)

# %% [markdown]
# And at the border? Ours pads with zeros and keeps the size. The original U-Net takes only pixels whose context is
# whole, and mirrors the image outwards where it has none: the paper's Figure 2.

# %%
layers.mirrored_border(image)

# %% [markdown]
# ## Training
#
# Does the host score of whole held-out scans rise? It is taken after every epoch; a star marks the best so far, whose
# weights are kept. Each line is in history.csv before the next epoch begins. Its Dice pools the pixels of an organ on
# the network's grid; the score below takes the mean over slices at their own size, which is lower.

# %%
course |= {"epochs": EPOCHS or course["epochs"], "spec": spec, "seed": SEED, "held_out": held_out}
course["devices"] = machine
folder = kept / (RUN or datetime.now().strftime("%Y%m%d-%H%M%S"))
print(f"run folder: {folder.resolve()}")
run = training.fit_fold(slices, folder, packed=packed, deadline=ends, **course)

# %% [markdown]
# How do loss, Dice and IoU move on what is learned from and on what is held out? Where the two part, the network learns
# its cases by heart.

# %%
figures_model.history(run.history())

# %% [markdown]
# ## Comparison
#
# What do the attentions bring, and what the augmentation? Each alternative named in `COMPARE` is trained with the same
# seed, order and number of steps, as far as the hours last. One run each is an anecdote: the experiments take several
# seeds.

# %%
without = course["network_options"] | unet.NO_ATTENTION
others = {"plain": {"network_options": without}, "unaugmented": {"augment": None}}
place = kept.with_name("comparisons")
jobs = [course | others[name] | {"trial": name, "folder": place / f"{folder.name}-{name}"} for name in COMPARE]
found = experiments.run(slices, jobs, packed, deadline=ends, after=run)
compared = {"this run": run} | {name: one for name, (one,) in found.items()}
figures_model.gaps({name: one.history() for name, one in compared.items()})

# %% [markdown]
# ## Score
#
# What would the leaderboard say of the held-out scans? 0.4 Dice + 0.6 (1 - Hausdorff), rows without truth and
# prediction left out; see the score notebook for what else goes by that name.

# %%
print(f"{run.folder}: {run.state}, {run.record['best_weights']}; 03_inference reads it")
scores = pd.DataFrame({name: one.score() for name, one in compared.items()})
scores.loc[["score", "dice", "hausdorff"]].astype(float).round(4)

# %% [markdown]
# ## Predictions
#
# Where is it right and where not? Image, truth and prediction of held-out slices, as in the paper's Figure 11.

# %% tags=["preview-predictions"]
figures_model.predictions(run, slices[held_out])

# %% [markdown]
# What stays of this page? Curves and predictions are drawn into the run folder as well, beside the network.

# %%
for path in figures_run.draw(run.folder, root):
    print(path)
