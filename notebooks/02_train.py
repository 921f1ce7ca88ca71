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
# 40 epochs; for a higher score set `PRESET = "encoder"`, which starts from weights learned on photographs. Without a
# GPU it trains a small network of that kind in a few minutes. If training is interrupted, run the notebook again with
# the same `RUN`: it continues after the last finished epoch.

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
PRESET = ""  # "paper", "strong", "encoder", "volume" (3D), or another of presets; empty: paper on a GPU, else short
ENCODER = ""  # pretrained encoder (kitlib.models.encoders); empty: with the preset encoder, one for this machine
WEIGHTS = ""  # weight file of the encoder, or run folder, to start from; empty: the encoder's, searched for
ROLE = ""  # "gate" (on which slices is an organ) or "segmenter" (its contours), both with one RUN; empty: one network
HOURS = 0.0  # time limit for all trainings together; run the notebook again to continue; 0: 11 on Kaggle, else no limit
EPOCHS = 0  # maximum number of epochs; 0: the preset's
SIZE = 0  # the input's side in pixels, or (height, width); 0: the preset's (presets.grid)
BOX = None  # crop to the box in mm around all training masks; None: with an encoder
PRIOR = False  # also show the network the masks of the case's earlier day, where there is one
AXIS = "z"  # along which pictures follow each other: "z", the slices; "y" for coronal, "x" for sagittal pictures
PACKED = ""  # folder for the prepared scans, which the next call finds there; empty: in memory
FOLDS = 5  # number of folds, the groups that the cases are split into
FOLD = 0  # fold to validate on; the others are the training set
FOLDS_TO_TRAIN = 0  # folds to train, one network each, starting with FOLD; FOLDS for a cross-validation; 0: one per GPU
UNSEEN = ""  # scans held out of everything until a final score: "fold" (one case in FOLDS) or "later-days"; empty: none
CARDS = 0  # GPUs to use, each for a fold of its own; 0: all
LEVELS = 0  # number of poolings; the paper compares 4 and 5; 0: the preset's
ATTENTION = True  # window and external attention where the preset has them, as in the paper
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
from kitlib.data import axes, boxes, folds, inputs, pipeline, scans
from kitlib.figures import training as figures_model, layers
from kitlib.layers import augment, elastic
from kitlib.models import encoders, unet
from kitlib.training import devices, evaluate, initial, jobs, presets, recipes

# %%
_ = session.parameters(
    globals(),
    DATA="",
    RUNS="",
    RUN="",
    PRESET=lambda: ("", "encoder") if ENCODER else ("", *presets.PRESETS),
    ENCODER=("", *encoders.NAMES),
    WEIGHTS="",
    ROLE=("", "gate", "segmenter"),
    HOURS=0.0,
    EPOCHS=0,
    LEVELS=lambda: {"encoder": (0, 5), "volume": (0,), "paper": (0, range(1, 8))}[presets.kind(PRESET, ENCODER)],
    SIZE=lambda: (0, sides := presets.sides(PRESET, ENCODER, LEVELS), (sides, sides)),
    BOX=(None, True, False),
    PRIOR=lambda: (False, *[True] * (AXIS == "z" and PRESET not in presets.VOLUMES)),
    AXIS=lambda: ("z", *inputs.AXES[1:] * (PRESET not in presets.VOLUMES)),
    PACKED="",
    FOLDS=(5, range(2, 101)),
    FOLD=lambda: (0, range(FOLDS)),
    FOLDS_TO_TRAIN=lambda: (0, range(FOLDS + 1)),
    UNSEEN=("", "fold", "later-days"),
    CARDS=0,
    ATTENTION=lambda: (True, *[False] * (presets.kind(PRESET, ENCODER) != "volume")),
    AUGMENT=("", "paper", "full", "none"),
    COMPARE=lambda: ["unaugmented", *["plain"] * (presets.kind(PRESET, ENCODER) == "paper")],
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
# Which network is trained, why, and how? The parameters above change a ready-made recipe. The run folder stores the
# complete recipe, and you can pass it to `training.fit_fold` in a script of your own. `ROLE` trains one network of a
# pair that 03_inference combines: the gate learns from all slices, the segmenter from those with a mask.

# %%
preset = presets.preset_for(PRESET, ENCODER, machine.accelerators)
recipe = presets.choose(preset, ENCODER, machine.accelerators)
recipe = recipes.with_role(recipe, ROLE) if ROLE else recipe
encoder = recipe.network_options.get("encoder")
options = recipe.network_options | ({"levels": LEVELS} if LEVELS else {}) | ({} if ATTENTION else unet.NO_ATTENTION)
kinds = {"": recipe.augment, "paper": augment.paper(), "full": augment.Augment(), "none": None}
changes = {"network_options": options, "augment": kinds[AUGMENT], "seed": SEED, "epochs": EPOCHS or recipe.epochs}
recipe = recipes.along(replace(recipe, **changes), AXIS)
pretrained = WEIGHTS or encoder
why = (
    "chosen above"
    if PRESET or ENCODER
    else "the default on a GPU"
    if machine.accelerators
    else "best in minutes on a CPU"
)
texts = {"encoder": f"a U-Net with {encoder}, pretrained", "volume": "a 3D SegResNet, from random weights"}
network = texts.get(presets.kind(preset, ENCODER), "the paper's U-Net, from random weights")
print(f"preset {preset} ({why}): {f'{network}; starts from {WEIGHTS}' if WEIGHTS else network}")

# %% [markdown]
# Where does the run go, and where does it start? Weights that are missing stop the notebook here, before the scans are
# prepared. A run that is resumed needs them no more.

# %%
title = RUN or datetime.now().strftime("%Y%m%d-%H%M%S")
folder = kept / title / ROLE
attached = contest.attached("run.json")  # on Kaggle: runs of an earlier session, to resume
print(f"run folder: {folder.resolve()}; RUN = {title!r} resumes it")
initial.check(pretrained, recipe)
begun = (folder / f"fold{FOLD}/run.json").is_file()
begun = begun or any((path / part).is_dir() for path in attached for part in ("checkpoint", "oof"))  # not of a bundle
if pretrained and not begun:
    print("starts from", initial.find(jobs.start_of(pretrained, FOLD)))

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
# What does the network see? With an encoder it is a box in mm around the organs of all scans that are not kept
# unseen: outside are arms and air, and inside a pixel has the same size on every scanner. With `PRIOR` it also sees the
# masks of the case's earlier day; in training another day, and for half of the samples none.

# %%
size = SIZE or presets.grid(preset, machine.accelerators, ROLE or "both")
height, width = size if isinstance(size, list | tuple) else (size, size)
box = boxes.box_for(known) if BOX or (BOX is None and (encoder or preset in presets.VOLUMES)) else None
length = axes.length_for(slices, presets.sides(PRESET, ENCODER, LEVELS).step)
spec = replace(presets.spec(preset, (height, width), box, AXIS, length), prior=PRIOR)
print(f"{height} x {width} pixels for {f'the box {box} mm from the centre' if box else 'whole slices'}")
print(f"at most {recipe.epochs} epochs of batches of {recipe.batch_size}")

# %% [markdown]
# ## The network's input
#
# How is a slice prepared for the network? It is scaled by the percentiles of its scan, resized to the input size, and
# stacked with two neighbours on either side. The middle one of the five is outlined. Along another `AXIS` the pictures
# are cut through all slices of a scan; a 3D network gets 32 slices at once.

# %%
packed = pipeline.pack(known, spec, PACKED or None)
busiest = figures_model.busiest(known)
figures_model.stack(packed, busiest)

# %% [markdown]
# ## Elastic distortion
#
# What does elastic distortion do to a slice? There are two ways to draw the displacement: the paper cites noise
# smoothed by a Gaussian, and elasticdeform interpolates a coarse grid of control points. Masks are displaced like
# their image, without interpolation: each pixel takes the nearest value.

# %% tags=["preview-distortion"]
image = packed.images[busiest].astype("float32")
masks = packed.truth(known.iloc[[busiest]])[0]
alpha_px, sigma_px = augment.paper().smooth_px((height, width))
fields = {
    "smoothed noise": elastic.smooth_displacement(SEED, (1, height, width), alpha_px, sigma_px),
    "control grid": elastic.displacement(SEED, (1, height, width), points=4, sigma_px=0.03 * min(height, width)),
}
layers.distortion(image, masks, {name: np.asarray(field)[0] for name, field in fields.items()})

# %% [markdown]
# Does the kit's distortion agree with elasticdeform? Both get the same control points, and the difference should be
# rounding only. elasticdeform processes one image at a time on a CPU; the kit's version runs on the network's device.
# Kaggle's image lacks elasticdeform, so the comparison is skipped there.

# %%
control = np.random.default_rng(SEED).normal(0, 0.04 * min(height, width), (2, 4, 4)).astype("float32")
dense = elastic.spline_field(control[None], (height, width))
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
layer, (stack, shown, _) = recipe.made("augment"), packed.example(busiest)
if layer is not None:
    display(layers.samples(layer, stack, shown, np.arange(1, 6)))
else:
    print("This recipe has no augmentation: samples stay as they are.")

# %% [markdown]
# ## The network
#
# What does the network look like? Dots mark the attention layers. The paper reports 2.50 million parameters for 4
# levels and 5.72 for 5. It does not say where its attention layers are, so their position here is our interpretation.

# %% tags=["preview-network"]
network = recipe.builder(spec.prior)(spec.shape)
text = f"{network.name}: {network.count_params():,} weights in {len(network.layers)} layers; see models.segresnet"
text if spec.volume else layers.network(network)

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
# printed above.

# %%
wanted = range(FOLD, min(FOLD + (FOLDS_TO_TRAIN or jobs.trainings_at_once(machine, count)), count))
to_train = [number for number in wanted if not runs.finished(folder / f"fold{number}")]
stored = fold.isin(to_train).sum() + len(COMPARE) * held_out.sum()
if not PACKED and jobs.trainings_at_once(machine, max(len(to_train), len(COMPARE))) > 1:
    stored += len(known)  # they share packed scans on the disk
print(runs.check_disk(folder, int(stored), spec, session.disk_left(folder)))

# %%
same = {"packed": PACKED or packed, "devices": machine, "earlier": attached}
partner = folder.with_name("gate" if ROLE == "segmenter" else "segmenter")
trained = training.cross_validate(
    known,
    folder,
    count=count,
    only=wanted,
    spec=spec,
    recipe=recipe,
    pretrained=pretrained,
    folds_of=partner if ROLE and (partner / "folds.csv").is_file() else None,  # other folds are an error
    deadline=ends,
    **same,
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
place, start = kept.with_name("comparisons"), run.record.get("pretrained", {}).get("file")
label = f"{folder.parent.name}-{ROLE}" if ROLE else folder.name
listed = [
    training.Job(place / f"{label}-{name}", held_out, spec, replace(recipe, **others[name]), name, start)
    for name in COMPARE
]
at_once = jobs.trainings_at_once(machine, len(listed))
outcomes = jobs.run(known, listed, at_once=at_once, like=[run.folder], deadline=ends, **same)
compared = {"this run": run} | {outcome.job.name: outcome.run for outcome in outcomes if outcome.run}
figures_model.gaps({name: run.history() for name, run in compared.items()})

# %% [markdown]
# ## Score
#
# What is the host score of the validation scans? It is our estimate of the competition's score: 0.4 Dice + 0.6 (1 -
# Hausdorff). It is a little too high here, because the same scans chose the epoch. The Dice in the curves is higher
# because it pools all pixels at the network's input size. A segmenter is scored with the presence of the truth, as a
# perfect gate would give it.

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
