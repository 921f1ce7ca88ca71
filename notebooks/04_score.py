# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 4 · Score and tuning
#
# Out-of-fold probabilities, of one run or of all folds of a cross-validation, are scored as the leaderboard does, in
# every reading of its rules; the voxels that decide are shown, post-processing is tuned on held-out cases, and the
# border is measured. No network runs here: some minutes on two cores.

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
    there = ", ".join(sorted(path.name for path in mount.glob("*"))) or "nothing"
    text = f"No data set with a kitlib wheel is attached: {mount} holds {there}, no kitlib-*.whl within 4 folders."
    raise ModuleNotFoundError(f"{text} Run `make bundle`, upload it (kaggle/README.md) and attach it with Add Input.")
from kitlib import session

print(session.versions())

# %% tags=["parameters"]
DATA = ""  # folder of the competition; empty: found, see kitlib.data.scans.find_root
RUNS = ""  # run folders to choose from; empty: runs/ of the checkout, on Kaggle runs/ here
RUN = ""  # folder of a run, or of a cross-validation with all its folds; empty: the newest that held out two cases
SCANS = 12  # most scans to score and tune on, two at least; 0: all
GRID = "full"  # values per setting: "full", or "short" for a quick look
FOLDS = 4  # groups of cases that are held out in turn

# %%
import pandas as pd
from IPython.display import display

from kitlib.scoring import borders, metric
from kitlib.figures import scoring
from kitlib.runs import selection
from kitlib import postprocess, runs
from kitlib.postprocess import rescoring, tuning
from kitlib.data import scans
from phantom import standin

# %% [markdown]
# ## What is scored
#
# Is there a run that held out two cases or more of this data? Each scan is read from the fold that has not learned
# from it. Without a run, probabilities are made from the truth: tight, wavering borders, false islands, wrong ends.
# They show how this notebook works, and no more.

# %%
session.parameters(globals(), DATA="", RUNS="", RUN="", SCANS=12, GRID=("full", "short"), FOLDS=(4, range(2, 101)))
root = session.competition(DATA)
slices = scans.read(root)
held_out = selection.choose(session.run_folders(RUNS), RUN, scans=set(slices["scan"]))
source = held_out or "NO RUN HELD OUT TWO CASES: STAND-IN PROBABILITIES MADE FROM THE TRUTH, no result"
print(source)

# %% [markdown]
# Which scans take part? Those that are held out, one of each case first if there are too many for a quick look; whole
# scans, because the distance is measured in volumes.

# %%
names = selection.thin(held_out.scans if held_out else slices["scan"].unique().tolist(), SCANS)
slices = slices[slices["scan"].isin(names)].reset_index(drop=True)
truth = scans.rows(slices)
probabilities = held_out or standin.StandIn(truth, slices)
print(f"{len(names)} scans of {slices['case'].nunique()} cases, {len(slices):,} slices: {', '.join(names)}")

# %% [markdown]
# ## The panel
#
# How good is the plain threshold of 0.5? The answer depends on the reading of the rules: each row is one that is in
# use, with its interval over cases and what a perfect file would get.

# %%
plain = rescoring.rows(probabilities, slices)
scores = metric.scores(truth, plain, slices, progress=True)
panel = metric.panel_of(scores)
display(panel.round(4))

# %% [markdown]
# How far do the readings lie apart? Where the grey bar ends before 1, even a perfect file would lose points; where two
# intervals overlap, the cases alone explain the difference.

# %%
scoring.conventions(panel)

# %% [markdown]
# ## Where it is lost
#
# Which organ costs most, and in which term? Dice counts slices, the distance counts the single worst voxel of each
# volume, and carries sixty percent.

# %%
host = scores["host"]
display(host.organs.round(4))

# %% [markdown]
# Which volumes are worst? A distance of 1 means that an organ was missed altogether, or found where there is none.

# %%
worst = host.scans.sort_values("hausdorff", ascending=False).dropna(subset="hausdorff")
display(worst.head(8).round(4))

# %% [markdown]
# Which voxels decide? Each row is one volume; the dot is the voxel that is farthest from the other mask, the ring its
# nearest there. A far island shows at once, and so does an organ that ends too late.

# %%
scoring.worst(truth, plain, slices, worst[worst["hausdorff"] < 1].head(3))

# %% [markdown]
# In millimetres, as clinicians report it: the same worst voxel, its 95 % form that forgives an island, and the mean
# distance of the surfaces. Which of them would have hidden the faults above?

# %%
clinical = borders.clinical(truth, plain, slices)
display(borders.clinical_means(clinical).round(3))

# %% [markdown]
# ## Tuning
#
# What do better settings bring? One setting after the other is tried on all scans; each fold of cases chooses on the
# others, and a step is kept only when its gain on held-out cases is certain.

# %%
grid = tuning.GRID if GRID == "full" else tuning.SHORT
tuned = tuning.tune(
    probabilities,
    truth,
    slices,
    grid=grid,
    folds=min(FOLDS, slices["case"].nunique()),
    ledger=held_out.folder / "tuning.jsonl" if held_out else None,
)
display(tuned.steps[tuned.steps["kept"]].round(4))

# %% [markdown]
# Which steps were refused? An interval that touches zero may be luck: those settings stay as they were, whatever they
# promised on the cases that they were chosen on.

# %%
scoring.tuning_steps(tuned.steps)

# %% [markdown]
# What is it worth in all? Every case is scored with settings chosen without it, so that this gain can be expected on
# cases never seen; the kept steps were picked with a look at it, so that it is a little on the bright side. Beside it
# what inference does before any tuning: the annotators' habits.

# %%
habits = metric.score(truth, rescoring.rows(probabilities, slices, postprocess.HABITS), slices).interval()
rows = {"threshold 0.5": tuned.before, "habits": habits, "tuned, held out": tuned.after, "gain over 0.5": tuned.gain}
display(pd.DataFrame(rows, index=["value", "low", "high"]).T.round(4))
print(f"{tuned.evaluated} settings tried; chosen on all cases: {tuned.settings}")

# %% [markdown]
# Does every reading of the rules agree that it helped? The settings were chosen for the host's; a gain there that
# another reading turns into a loss would be a warning.

# %%
after = metric.panel(truth, rescoring.rows(probabilities, slices, tuned.settings), slices, progress=True)
display(
    pd.DataFrame({"before": panel["value"], "after": after["value"], "gain": after["value"] - panel["value"]}).round(4)
)

# %% [markdown]
# The settings go into the folder of each run that was scored, where inference looks for them. Without a run there is
# nothing to keep.

# %%
kept = [run.folder / "settings.json" for run in held_out.runs] if held_out else []
for path in kept:
    runs.write_text(path, tuned.settings.to_json())
print("\n".join(map(str, kept)) or "not kept: these settings fit the stand-in")

# %% [markdown]
# ## The border
#
# The paper's predictions shrink at the border, and it asks why. By how much do ours, in pixels and millimetres?
# Negative means inside the true border; `tight` is the share of the border that lies inside.

# %%
display(borders.bias(truth, plain, slices).round(3))

# %% [markdown]
# Is the threshold to blame? Where the median crosses zero, as much of the predicted border lies outside the true one as
# inside. A mean far above the median tells of false pieces far away, which no threshold mends.

# %%
bias = borders.bias_by_threshold(probabilities, truth, slices)
display(bias[["median_px", "mean_px"]].unstack("organ").round(2))

# %%
scoring.border_bias(bias)
