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
# Where are the points lost, and how much do better post-processing settings gain? This notebook scores the
# out-of-fold probabilities of a run, or of all folds of a cross-validation, with the kit's estimate of the
# leaderboard's score. It shows the worst scans, tunes the settings on held-out cases, saves them for 03_inference if
# they gain, and measures the border. It needs a run of 02_train that held out at least two cases, and three to tune.
# The probabilities are read from disk, so the notebook takes minutes on two cores, mostly for the full search.

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
RUNS = ""  # folder of the run folders; empty: runs/ of the checkout, or runs/ here and attached runs on Kaggle
RUN = ""  # a run, all folds of a cross-validation, or a folder of gate and segmenter; empty: newest with two cases
SCANS = 12  # maximum number of scans to score and tune on, at least 2; 0: all
GRID = "full"  # values tried per setting: "full", or "short" for a quick look
FOLDS = 4  # groups of cases; tuning holds out one group at a time

# %%
import tempfile

import pandas as pd
from IPython.display import FileLink, display

from kitlib import contest, files, postprocess, runs
from kitlib.data import earlier, scans
from kitlib.figures import scoring, viewer
from kitlib.postprocess import cleaning, rescoring, tuning
from kitlib.runs import selection
from kitlib.scoring import __main__ as command
from kitlib.scoring import borders, ledger, metric

# %% [markdown]
# ## The run to score
#
# Which run is scored? The newest one that held out at least two cases of this data, unless `RUN` names another. The
# probabilities of each scan come from the fold that did not train on it, and so does the presence of each organ on each
# slice: from a gate, where the run is a segmenter.

# %%
_ = session.parameters(
    globals(), DATA="", RUNS="", RUN="", SCANS=(12, range(10_000)), GRID=("full", "short"), FOLDS=(4, range(2, 101))
)
root = session.competition(DATA)
slices = scans.read(root)
folder, attached = session.run_folders(RUNS), () if RUNS else contest.attached("run.json")
kind = "phantom" if scans.is_phantom(root) else "competition"
held_out, problems = runs.choose_held_out(folder, RUN, set(slices["scan"]), kind, attached)
print("".join(f"left out: {path} {problem}\n" for path, problem in problems), end="")
if held_out is None:
    text = f"no run below {folder}, and none of {len(attached)} attached runs, held out two cases of {root}"
    raise FileNotFoundError(f"{text}: run 02_train first, attach its output, or set RUNS")
place = held_out.folder if os.access(held_out.folder, os.W_OK) else session.run_folders() / held_out.folder.name
print(f"{held_out}, in {held_out.folder}; results are written to {place}")

# %% [markdown]
# Which scans are scored? If there are more than `SCANS`, one scan of each case is taken before a second one of any.
# Scans are never cut, because the Hausdorff distance is measured in whole volumes.

# %%
names = selection.thin(held_out.scans, SCANS)
known = earlier.trusted(slices)
slices = slices[slices["scan"].isin(names)].reset_index(drop=True)
truth = scans.rows(slices)
print(f"{len(names)} scans of {slices['case'].nunique()} cases, {len(slices):,} slices: {', '.join(names)}")

# %% [markdown]
# Which scans have an earlier day? In the hidden test set, some scans are later days of training cases. The masks of
# that day say on which slice both bowels ended, and tuning tries to draw their end to it (`line_weight`). A scan only
# gets the masks of an earlier day, never of a later one.

# %%
days = earlier.days(slices, known)
lines = earlier.stop_lines(slices, known) if days else None
print(f"{len(days)} of {len(names)} scans have an earlier day: {', '.join(days) or 'none'}")

# %% [markdown]
# ## The score
#
# How good is a plain threshold of 0.5? The competition's scorer is private, and its description leaves several
# conventions open. The table has a row for each, with a 95 % interval over cases. `host` is our estimate of the
# leaderboard's.

# %%
plain = rescoring.rows(held_out, slices, postprocess.PLAIN)
scores = metric.scores(truth, plain, slices, progress=True)
panel = metric.panel_of(scores)
display(panel.round(4))

# %% [markdown]
# Is this score unbiased? No: training kept the epoch with the best host score on these same scans, so it is too high,
# and more so with few held-out cases. Use it to compare runs. For an unbiased score, hold scans out with `UNSEEN` in
# 02_train.

# %%
print(f"epochs chosen on these scans: {[run.record.get('best_epoch') for run in held_out.runs]}")

# %% [markdown]
# How far apart are the conventions? Where the grey bar ends before 1, even a perfect file loses points. If intervals
# overlap, the difference may come from the choice of cases.

# %%
scoring.conventions(panel)

# %% [markdown]
# ## Where the points are lost
#
# Which organ loses the most points, and in which term? Dice is averaged over slices. The Hausdorff distance has a
# weight of 60 % and depends on one voxel of each volume (one organ of one scan): the voxel farthest from the other
# mask.

# %%
host = scores["host"]
display(host.organs.round(4))

# %% [markdown]
# Which errors lose the points? The ledger assigns every wrong voxel to one class of error. `points` is roughly how
# much the score would rise if all errors of that row were corrected. The points of all rows sum to exactly 1 - score.

# %%
found = ledger.measure(truth, plain, slices, progress=True)
display(found.table.head(10).round(4))
print(f"{found.table['points'].sum():.4f} points lost by a score of {found.score:.4f}")

# %% [markdown]
# How do these losses add up? The bars lead from this score to 1, with the most expensive class of error first.

# %%
scoring.waterfall(found.table, found.score)

# %% [markdown]
# What usually corrects the largest errors? Tuning, below, tries the settings named here; other remedies need a new
# training.

# %%
print("\n".join(ledger.advice(found.table)))

# %% [markdown]
# Do cases with an earlier day lose points elsewhere than new ones? Each column is the points that would be lost if all
# scans were like those of its kind.

# %%
kinds = {f"known ({len(days)} scans)": set(days), f"new ({len(names) - len(days)} scans)": set(names) - set(days)}
display(found.split(kinds).head(10).round(4))

# %% [markdown]
# Is it harder to find the right slices or to draw the right contours? `now` is this score. `right slices` would be
# the score with the predicted contours on exactly the right slices, and `right contours` with the true contours on
# the predicted slices.

# %%
whatif = {"now": found.score, "right slices": found.right_presence, "right contours": found.right_contours}
display(pd.Series(whatif, name="host score").round(4).to_frame())

# %% [markdown]
# Which volumes are worst? A distance of 1 means that an organ was missed altogether, or predicted where there is
# none.

# %%
worst = host.scans.sort_values("hausdorff", ascending=False).dropna(subset="hausdorff")
display(worst.head(8).round(4))

# %% [markdown]
# Which voxel determines the distance? Each row is one volume. The dot is the voxel farthest from the other mask, and
# the ring is the nearest voxel of that other mask. A far island and an organ that ends too late are easy to see.

# %%
scoring.worst(truth, plain, slices, worst[worst["hausdorff"] < 1].head(3))

# %% [markdown]
# What do the worst scans look like, slice by slice? Open this page in a browser: it works offline and without a
# server. Keep a page with the competition's images to yourself, because the rules forbid sharing them.


# %%
def presence(scan):
    """Read the presence of a scan, or measure it as tuning does, for the curve beside the slices."""
    given = held_out.presence(scan)
    return rescoring.measure_presence(held_out, scan, slices[slices["scan"] == scan]) if given is None else given


page = viewer.write(
    place / "figures/viewer.html",
    truth,
    plain,
    slices,
    points=found,
    presence=presence,
    name=str(held_out),
    progress=True,
)
display(FileLink(os.path.relpath(page)))

# %% [markdown]
# How large are the errors in millimetres, as clinicians report them? The table has the Hausdorff distance, its 95 %
# form, which ignores small islands, and the mean distance between the surfaces.

# %%
clinical = borders.clinical(truth, plain, slices)
display(borders.clinical_means(clinical).round(3))

# %% [markdown]
# ## Any submission
#
# How do you score any other submission? The command `python -m kitlib.scoring` prints these tables for any
# submission, or the ledger with `--ledger`. As an example, it scores the plain threshold from two csv files.

# %%
paths = [f"{tempfile.mkdtemp()}/{name}.csv" for name in ("truth", "submission")]
for path, table in zip(paths, (truth, plain), strict=True):
    table.to_csv(path, index=False)
command.main([*paths, "--data", str(root), "--worst", "3"])

# %% [markdown]
# ## Tuning
#
# How much do better settings gain? The search starts from the default settings, with which a gate decides on the slices
# of each organ, and changes one setting at a time. Each group of cases is scored with the value chosen on the others.
# A change is kept only if the whole interval of its gain is above zero. The probabilities include the mirrored slices
# where inference adds them. They are those of one fold's network, while inference averages all folds. The first line
# is a forecast of the time.

# %%
start = cleaning.default(gate=len(held_out.folders) > len(held_out.runs))
tuned = tuning.tune(
    held_out,
    truth,
    slices,
    start=start,
    values=tuning.FULL if GRID == "full" else tuning.SHORT,
    folds=FOLDS,
    cache=place / "tuning.jsonl",
    presence=held_out.presence,
    lines=lines,
)
display(tuned.steps[tuned.steps["kept"]].round(4))

# %% [markdown]
# Which changes were rejected? They have open circles. A gain whose interval contains zero may be luck, so these
# settings stay as they were.

# %%
scoring.tuning_steps(tuned.steps)

# %% [markdown]
# What is the total gain? All rows are scores on the same cases. For the row `tuned, held out`, each group of cases is
# scored with the settings of a search that never saw it. `start` has the default settings, and `gain` is the gain over
# them. `runs of slices` gives each organ one run of slices by its presence.

# %%
display(tuned.scores.round(4))
stored, problems = runs.choose_settings(held_out.folders)
print("".join(f"left out: {path} {problem}\n" for path, problem in problems), end="")
settings = tuned.settings if tuned.helps else stored
print(f"{tuned.evaluated} settings tried; chosen on all cases: {tuned.settings}")
keeps = "the default settings" if stored == start else f"the settings stored with the runs, {stored}"
print("the tuned settings gain" if tuned.helps else f"no gain is certain: inference keeps {keeps}")

# %% [markdown]
# Does the score rise in every convention? `now` has the settings of 03_inference. They were chosen for `host` on these
# scans; a loss in another convention would be a warning.

# %%
masks = rescoring.rows(held_out, slices, settings, held_out.presence, lines)
now = metric.scores(truth, masks, slices, progress=True)
after = metric.panel_of(now)["value"]
display(pd.DataFrame({"threshold 0.5": panel["value"], "now": after, "gain": after - panel["value"]}).round(4))

# %% [markdown]
# Are scans with an earlier day scored better than new ones? The hidden test set has both kinds. The rows are host
# scores of different scans, so overlapping intervals say nothing about the settings.

# %%
groups = {"with an earlier day": set(days), "without": set(names) - set(days)}
display(metric.apart(now["host"], groups).round(4))

# %% [markdown]
# Which settings will 03_inference use? If the tuned settings gain on held-out cases, they are written into the folder
# of each run, where 03_inference reads them. If not, nothing is written. Attached runs cannot be changed: copy the
# file into their folder before you bundle them.

# %%
kept = [run.folder for run in held_out.runs] if place == held_out.folder else [place]
if (place / "settings.json").is_file() and place not in kept:
    kept.append(place)  # 03_inference reads the file of a cross-validation before those of its folds
for path in [folder / "settings.json" for folder in kept]:
    if tuned.helps:
        with files.replacing(path) as file:
            file.write(settings.to_json())
        print(path)
    elif path.is_file():
        print(f"{path} is left as it was; remove it to return to the default settings")

# %% [markdown]
# ## The border
#
# How far is the predicted border from the true one? The paper's predictions shrink at the border, and it asks why.
# Negative distances are inside the true mask; `tight` is the share of the predicted border that is inside.

# %%
display(borders.bias(truth, plain, slices).round(3))

# %% [markdown]
# Is the threshold the reason? At the threshold where the median crosses zero, half of the predicted border is outside
# the true one. A mean far above the median comes from false pieces far away, which no threshold removes.

# %%
bias = rescoring.bias_by_threshold(held_out, truth, slices)
display(bias[["median_px", "mean_px"]].unstack("organ").round(2))

# %%
scoring.border_bias(bias)
