# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 3 · Inference
#
# Trained networks predict the test scans, one at a time, and write `submission.csv`: one row per slice and organ, in
# the order of the sample. The file is valid from the first second, no internet is needed, and the notebook keeps to
# its time limit. A fault in the files stops the notebook, except in Kaggle's scoring rerun, where it is worked around
# and listed.

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
RUNS = ""  # folder of the run folders; empty: the attached bundle, or runs/ of the checkout without a bundle
RUN = ""  # a run, or a cross-validation; empty: all of a bundle, or the newest with its other folds without one
ANY_DATA = False  # True: also use networks that were trained on another kind of data, such as a phantom
OUTPUT = ""  # file to write; empty: submission.csv here on Kaggle, submissions/submission.csv of the checkout elsewhere
FLIP = None  # also predict each slice mirrored; None: only with networks that were trained on mirrored slices
BATCH = 16  # slices per batch
HOURS = 9.0  # time limit for the whole notebook
FAULTS = ""  # "stop" at the first fault, or "go on"; empty: go on in the scoring rerun only
FALLBACK = ""  # prediction if no network loads: "empty" or "atlas" (the mean of the training masks); empty: an error

# %%
import pandas as pd
from IPython.display import display

from kitlib.postprocess import baselines, cleaning, intervals
from kitlib import contest, inference, runs, submission
from kitlib.inference import Faults, clock as deadline, rescue
from kitlib.figures import scans as figures_scans, scoring as figures_scoring
from kitlib.data import earlier, scans
from kitlib.training import devices

# %%
wrong = session.parameters(
    globals(),
    DATA="",
    RUNS="",
    RUN="",
    ANY_DATA=(False, True),
    OUTPUT="",
    FLIP=(None, True, False),
    BATCH=16,
    HOURS=9.0,
    FAULTS=("", "stop", "go on"),
    FALLBACK=("", "empty", "atlas"),
)

# %% [markdown]
# ## Data and machine
#
# Which type of session is this, and which scans have to be predicted? A saved version on Kaggle sees an empty test
# folder and a sample without rows; the scoring rerun fills both. A submission with empty rows is written before
# anything else.

# %%
print(devices.detect())
root = session.competition(DATA)
mode = session.mode(root)
faults = Faults(strict={"stop": True, "go on": False}.get(FAULTS, mode != "rerun"))
for name, fault in wrong:
    faults.meet(name, fault, "its default is used")
slices, sample = rescue.read(root, faults)
target = session.submission_path(OUTPUT)
submission.write(target, {}, sample)
print(f"{mode}: {'the first fault stops the notebook' if faults.strict else 'faults are worked around and listed'}")
print(f"{len(slices):,} slices in {slices['scan'].nunique()} scans")
print(f"{target.resolve()} has {len(sample):,} rows, all empty so far")

# %% [markdown]
# ## Networks
#
# Which runs are used? All runs of an attached bundle; without a bundle, the newest run and the other folds of its
# cross-validation, and for a segmenter the gate that was trained on the same folds. Runs trained on another kind of
# data are refused.

# %%
if RUNS and not session.run_folders(RUNS).is_dir():
    faults.meet(f"parameter RUNS = {RUNS!r}", "there is no such folder", "its default is used")
    RUNS = ""
bundle = None if RUNS else session.bundle()
place = bundle or session.run_folders(RUNS)
kind = runs.UNKNOWN if ANY_DATA else "phantom" if scans.is_phantom(root) else "competition"
chosen = runs.choose(place, RUN, kind, bundle=bool(bundle))
for where, problem in chosen.problems:
    faults.meet(where, problem, "left out")
if RUN and not chosen.folders:
    faults.meet(f"parameter RUN = {RUN!r}", f"is not a run below {place}", "its default is used")
    chosen = runs.choose(place, "", kind, bundle=bool(bundle))
for folder in chosen.unfinished:
    print(folder, "stopped within its first epoch:", "used, the only one" if folder in chosen.folders else "left out")

# %% [markdown]
# How does each network predict, and how do probabilities become masks? Gates decide on which slices an organ is, and
# segmenters draw its contours; a network without a role does both. 04_score tunes the settings and saves them with the
# runs. If the runs have different settings, those of the run with the best score are used.

# %%
settings, problems = runs.choose_settings(chosen.folders)
for where, problem in problems:
    faults.meet(where, problem, "left out")
members = inference.open_members(chosen.folders, faults, BATCH)
inference.check_roles(members, faults)
if not members and not FALLBACK:
    text = f"no network below {place.resolve()}: train with 02_train, attach a bundle that holds runs"
    raise FileNotFoundError(f"{text} (kaggle/README.md), or set FALLBACK")
print("\n".join(map(str, members)) or f"no network: the fallback is {FALLBACK!r}")
print(settings)

# %% [markdown]
# Which test scans have an earlier day in the training set? Both bowels of a scan end on one slice. Where the settings
# have a `line_weight`, the end is drawn to where it was on the earlier day, moved with the patient. A network that was
# trained with a prior also sees the masks of that day.

# %%
back = inference.looks_back(members, settings)
known = rescue.read_known(root, slices, faults) if back else None
if known is None:
    print("networks and settings look at no earlier day")
else:
    print(f"{len(earlier.days(slices, known))} of {slices['scan'].nunique()} test scans have an earlier day")

# %% [markdown]
# ## Rehearsal
#
# Will prediction work, and how long will it take? If there are no test scans, a training scan is predicted, so that a
# network that does not load is found now and not in the rerun. The forecast is for 50 scans of 144 slices, a guess at
# the size of the hidden test set.

# %%
rehearsal = pd.DataFrame(columns=["id", "class", "predicted"])
if mode != "rerun" and not len(slices) and members and (root / "train.csv").is_file():
    train = scans.read(root)
    known = train if back else None
    later = list(earlier.days(train)) if back else []
    some = train[train["scan"] == [*later, train["scan"].iloc[0]][0]]
    clock = deadline.Deadline(None)
    options = {"settings": settings, "clock": clock, "known": known, "flip": FLIP, "batch_size": BATCH}
    rehearsal = inference.rows(members, some, faults, **options)
    flips = [member.flip if FLIP is None else FLIP for member in members]
    passes = deadline.passes(flips, [member.gate for member in members])
    hours = clock.forecast(50 * 144, passes) / 3600
    print(f"{len(some)} slices, {(rehearsal['predicted'] != '').sum()} masks; 50 such scans are forecast {hours:.1f} h")

# %% [markdown]
# ## Prediction
#
# Will prediction finish in time? Each scan is written to the file as soon as it is finished. If the forecast exceeds
# the time limit, mirrored predictions are dropped first, then segmenters, then gates; the first segmenter and the
# first gate always stay. `shed` lists the dropped ones.

# %%
clock = deadline.Deadline(HOURS, spent=0.0 if mode == "interactive" else None)  # an interactive kernel may be days old
options = {"settings": settings, "clock": clock, "known": known, "flip": FLIP, "batch_size": BATCH}
predicted = baselines.empty(slices)
if members:
    predicted = inference.submit(members, slices, sample, target, faults, **options)
elif FALLBACK == "atlas" and len(slices):
    with faults.survive("atlas", "left empty"):
        predicted = baselines.atlas(scans.read(root), slices)
        submission.write(target, predicted[predicted["id"].isin(sample["id"])], sample)

# %%
log = clock.log().round(2)
display(log if len(log) <= 12 else pd.concat([log.head(6), log.tail(6)]))
print(f"{clock.elapsed / 60:.1f} min of {HOURS} h; shed: {', '.join(map(str, clock.shed)) or 'nothing'}")

# %% [markdown]
# ## The file
#
# Is the file valid? It must have all rows of the sample in the same order, and every mask must fit its slice. The
# table counts the slices on which each organ was predicted, scan by scan.

# %%
for where, problem in submission.check(target, slices, sample):
    faults.meet(where, problem, "the file is kept as it is")
print(f"{target.resolve()}: {len(sample):,} rows, {(predicted['predicted'] != '').sum():,} with a mask")
counts = predicted.assign(scan=predicted["id"].map(contest.scan_of), mask=predicted["predicted"] != "")
counts.pivot_table(index="scan", columns="class", values="mask", aggfunc="sum").reindex(columns=contest.ORGANS)

# %%
pd.crosstab(predicted["class"], (predicted["predicted"] != "").map({True: "with a mask", False: "without"}))

# %% [markdown]
# ## A picture
#
# Does the prediction look like anatomy? The picture shows slices of the first test scan, or of the training scan that
# was rehearsed.

# %% tags=["preview-submission"]
shown = predicted if len(predicted) else rehearsal
with faults.survive("contact sheet", "left out"):
    if len(shown):
        pictured = scans.with_masks(slices if len(predicted) else some, shown)
        first = pictured[(pictured["scan"] == pictured["scan"].iloc[0]) & (pictured["path"] != "")]
        alike = (first[["height", "width"]] == list(scans.common_size(first))).all(axis=1)
        display(figures_scans.contact_sheet(first[alike]))

# %% [markdown]
# On which slices is each organ? The curves show its presence, the probability that 12 pixels of a slice reach; the
# settings allow the shaded slices. A dashed line shows where the bowels end by the earlier day. Shown with a gate, or
# with settings that use the presence; not in the rerun.

# %%
with faults.survive("presence curves", "left out"):
    wanted = cleaning.needs_presence(settings) or any(member.gate for member in members)
    if wanted and members and len(shown) and mode != "rerun":
        options = {"batch_size": BATCH, "flip": FLIP, "known": known, "progress": False}
        (found,) = inference.predict(members, first, faults, **options)
        presence = intervals.presence(found.probabilities) if found.presence is None else found.presence
        display(figures_scoring.presence_curves(found.scan, presence, settings, found.line))

# %% [markdown]
# ## Faults
#
# Which faults were found, and how were they worked around? The list is usually empty. If it is not, it is also
# written to `faults.csv` beside the submission.

# %%
if len(faults):
    faults.table().to_csv(target.with_name("faults.csv"), index=False)
print(faults)

# %% [markdown]
# ## Score
#
# Is the submission better than the baselines? The atlas predicts an organ where the training scans usually have it.
# The "earlier day" copies the masks of the last earlier scan of the same case. Only a phantom can be scored here: the
# true masks of the competition's test scans are hidden.

# %%
if (root / "truth.csv").is_file():
    display(baselines.table(root, target).round(3))
