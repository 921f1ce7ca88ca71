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
# Where do the points go, and what do better post-processing settings bring? This notebook scores the out-of-fold
# probabilities of a run, or of all folds of a cross-validation, by the kit's estimate of the leaderboard's score. It
# shows the worst volumes, tunes the settings on held-out cases and measures the border. It needs a run of 02_train that
# held out at least two cases. No network runs here: minutes on two cores, most of them in the full search.

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
RUNS = ""  # run folders to choose from; empty: runs/ of the checkout, on Kaggle runs/ here
RUN = ""  # a run, or a cross-validation with all its folds; empty: the newest that held out two cases
SCANS = 12  # most scans to score and tune on, at least 2; 0: all
GRID = "full"  # values tried per setting: "full", or "short" for a quick look
FOLDS = 4  # groups of cases; tuning holds out one at a time

# %%
import tempfile

import pandas as pd
from IPython.display import FileLink, display

from kitlib import files, postprocess, runs
from kitlib.data import scans
from kitlib.figures import scoring, viewer
from kitlib.postprocess import rescoring, tuning
from kitlib.runs import selection
from kitlib.scoring import __main__ as command
from kitlib.scoring import borders, ledger, metric

# %% [markdown]
# ## What is scored
#
# Which run held out at least two cases of this data? Each scan is read from the fold that did not train on it.

# %%
session.parameters(globals(), DATA="", RUNS="", RUN="", SCANS=12, GRID=("full", "short"), FOLDS=(4, range(2, 101)))
root = session.competition(DATA)
slices = scans.read(root)
folder = session.run_folders(RUNS)
kind = "phantom" if scans.is_phantom(root) else "competition"
held_out, problems = runs.choose_held_out(folder, RUN, set(slices["scan"]), kind)
print("".join(f"left out: {path} {problem}\n" for path, problem in problems), end="")
if held_out is None:
    raise FileNotFoundError(f"no run below {folder} held out two cases of {root}: run 02_train first, or set RUNS")
print(held_out)

# %% [markdown]
# Which scans take part? If there are more than SCANS, one of each case comes first. Scans are never cut, because the
# distance is measured in whole volumes.

# %%
names = selection.thin(held_out.scans, SCANS)
slices = slices[slices["scan"].isin(names)].reset_index(drop=True)
truth = scans.rows(slices)
print(f"{len(names)} scans of {slices['case'].nunique()} cases, {len(slices):,} slices: {', '.join(names)}")

# %% [markdown]
# ## The score
#
# How good is a plain threshold of 0.5? The competition's scorer is private, and its rules can be read in several ways:
# the panel has a row for each reading, with a 95 % interval over cases. `host` is our estimate of the leaderboard.

# %%
plain = rescoring.rows(held_out, slices, postprocess.PLAIN)
scores = metric.scores(truth, plain, slices, progress=True)
panel = metric.panel_of(scores)
display(panel.round(4))

# %% [markdown]
# One warning: training kept the epoch with the best host score on these same scans. The number is therefore optimistic,
# by more where few cases are held out. Compare runs with it; only scans that no choice has used show the true level.

# %%
print(f"epochs chosen on these scans: {[run.record.get('best_epoch') for run in held_out.runs]}")

# %% [markdown]
# How far apart are the readings? Where the grey bar ends before 1, even a perfect file loses points. Where intervals
# overlap, the difference may come from the cases alone.

# %%
scoring.conventions(panel)

# %% [markdown]
# ## Where the points are lost
#
# Which organ costs most, and in which term? Dice is averaged over slices. The distance is that of the single worst
# voxel of each volume, and has a weight of 60 %.

# %%
host = scores["host"]
display(host.organs.round(4))

# %% [markdown]
# Which errors cost the points? The ledger gives every wrong voxel one class of error. A row says about what the score
# gains when that error is mended; the points of all rows sum to exactly 1 - score.

# %%
found = ledger.measure(truth, plain, slices, progress=True)
display(found.table.head(10).round(4))
print(f"{found.table['points'].sum():.4f} points lost by a score of {found.score:.4f}")

# %% [markdown]
# The waterfall leads from this score to 1, the most expensive class of error first. What would it take to gain the
# first step?

# %%
scoring.waterfall(found.table, found.score)

# %% [markdown]
# What usually mends the large rows? The settings named here are tried under Tuning below; the rest is training.

# %%
print("\n".join(ledger.advice(found.table)))

# %% [markdown]
# Are the slices or the contours the larger problem? The first number has our contours on exactly the right slices, the
# second has the true contours on our slices.

# %%
whatif = {"now": found.score, "right slices": found.right_presence, "right contours": found.right_contours}
display(pd.Series(whatif, name="host score").round(4).to_frame())

# %% [markdown]
# Which volumes are worst? A distance of 1 means that an organ was missed altogether, or found where there is none.

# %%
worst = host.scans.sort_values("hausdorff", ascending=False).dropna(subset="hausdorff")
display(worst.head(8).round(4))

# %% [markdown]
# Which voxels decide? Each row is one volume. The dot is the voxel farthest from the other mask, the ring the nearest
# voxel there. A far island and an organ that ends too late are easy to see.

# %%
scoring.worst(truth, plain, slices, worst[worst["hausdorff"] < 1].head(3))

# %% [markdown]
# What do the worst scans look like, slice by slice? Open the page in a browser: it needs no server and no network. Its
# pictures stay on this machine, because the rules of the competition forbid to share them.

# %%
page = viewer.write(
    held_out.folder / "figures/viewer.html",
    truth,
    plain,
    slices,
    points=found,
    presence=lambda scan: viewer.presence_of(held_out(scan)),
    name=str(held_out),
    progress=True,
)
display(FileLink(os.path.relpath(page)))

# %% [markdown]
# How large are the errors in millimetres, as clinicians report them? The table has the worst voxel, its 95 % form that
# ignores small islands, and the mean distance of the surfaces.

# %%
clinical = borders.clinical(truth, plain, slices)
display(borders.clinical_means(clinical).round(3))

# %% [markdown]
# ## Any submission
#
# The command `python -m kitlib.scoring` prints the same tables for any submission, and with `--ledger` the
# ledger. As an example, it scores this plain threshold from two csv files.

# %%
paths = [f"{tempfile.mkdtemp()}/{name}.csv" for name in ("truth", "submission")]
for path, table in zip(paths, (truth, plain), strict=True):
    table.to_csv(path, index=False)
command.main([*paths, "--data", str(root), "--worst", "3"])

# %% [markdown]
# ## Tuning
#
# What do better settings bring? One setting after the other is tried on all scans. Each group of cases is scored with
# the value chosen on the others, and a step is kept only if its whole interval lies above zero.

# %%
tuned = tuning.tune(
    held_out,
    truth,
    slices,
    values=tuning.FULL if GRID == "full" else tuning.SHORT,
    folds=FOLDS,
    cache=held_out.folder / "tuning.jsonl",
)
display(tuned.steps[tuned.steps["kept"]].round(4))

# %% [markdown]
# Which steps were refused? A gain whose interval contains zero may be luck, so these settings stay unchanged.

# %%
scoring.tuning_steps(tuned.steps)

# %% [markdown]
# What is the total gain? Each case is scored with settings chosen without it, but which steps are kept was decided by
# these same gains, so the gain is slightly optimistic. The row `default` has the settings used before any tuning.

# %%
default = metric.score(truth, rescoring.rows(held_out, slices, postprocess.DEFAULT), slices).interval()
table = {"threshold 0.5": tuned.before, "default": default, "tuned, held out": tuned.after, "gain over 0.5": tuned.gain}
display(pd.DataFrame(table, index=["value", "low", "high"]).T.round(4))
print(f"{tuned.evaluated} settings tried; chosen on all cases: {tuned.settings}")

# %% [markdown]
# Does every reading of the rules agree? The settings were chosen for `host`, on these scans; a loss in another reading
# would be a warning.

# %%
after = metric.panel(truth, rescoring.rows(held_out, slices, tuned.settings), slices, progress=True)["value"]
display(pd.DataFrame({"before": panel["value"], "after": after, "gain": after - panel["value"]}).round(4))

# %% [markdown]
# Inference reads the settings from the folder of each run.

# %%
for path in [run.folder / "settings.json" for run in held_out.runs]:
    with files.replacing(path) as file:
        file.write(tuned.settings.to_json())
    print(path)

# %% [markdown]
# ## The border
#
# The paper's predictions shrink at the border, and it asks why. How far is our border from the true one? Negative
# numbers mean inside; `tight` is the share of the border that lies inside.

# %%
display(borders.bias(truth, plain, slices).round(3))

# %% [markdown]
# Is the threshold the reason? Where the median crosses zero, half of the predicted border lies outside the true one. A
# mean far above the median comes from false pieces far away, which no threshold removes.

# %%
bias = rescoring.bias_by_threshold(held_out, truth, slices)
display(bias[["median_px", "mean_px"]].unstack("organ").round(2))

# %%
scoring.border_bias(bias)
