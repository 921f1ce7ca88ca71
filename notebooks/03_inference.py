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
# the order of the sample. The file is valid from its first second on, nothing here needs internet, and a clock keeps to
# the deadline. In Kaggle's scoring rerun a broken file costs what it touches; before it, it stops the notebook.

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
RUNS = ""  # run folders to choose from; empty: those of the bundle on Kaggle, ../runs elsewhere
RUN = ""  # a run, or a cross-validation; empty: all of a bundle, elsewhere the newest with its other folds
OUTPUT = ""  # empty: submission.csv here on Kaggle, ../submissions/submission.csv elsewhere
FLIP = True  # also predict each slice mirrored
BATCH = 16  # slices at a time
HOURS = 9.0  # that the whole notebook may take
FAULTS = ""  # "stop" at the first, or "go on"; empty: go on in the scoring rerun alone
FALLBACK = ""  # without any network: "empty" or "atlas" (the training masks' average); empty: an error

# %%
import pandas as pd
from IPython.display import display

from kitlib.postprocess import baselines
from kitlib import contest, inference, submission
from kitlib.inference import clock as deadline, networks, rescue
from kitlib.figures import scans as figures_scans
from kitlib.data import scans
from kitlib.inference.faults import Faults

# %%
wrong = session.parameters(
    globals(),
    DATA="",
    RUNS="",
    RUN="",
    OUTPUT="",
    FLIP=(True, False),
    BATCH=16,
    HOURS=9.0,
    FAULTS=("", "stop", "go on"),
    FALLBACK=("", "empty", "atlas"),
)

# %% [markdown]
# ## What is there
#
# Who is watching, and which scans are asked for? A saved version on Kaggle sees an empty test folder and a sample
# without rows; the scoring rerun fills both. The first thing to write is the file itself, with every row empty.

# %%
root = session.competition(DATA)
mode = session.mode(root)
faults = Faults(strict={"stop": True, "go on": False}.get(FAULTS, mode != "rerun"))
for name, fault in wrong:
    faults.meet(name, fault, "its default is used")
slices, sample = rescue.read(root, faults)
target = session.submission_path(OUTPUT)
submission.write(target, {}, sample)
print(f"{mode}: {'the first fault stops' if faults.strict else 'faults are worked around and listed'}")
print(f"{len(slices):,} slices in {slices['scan'].nunique()} scans; {target.resolve()} has {len(sample):,} empty rows")

# %% [markdown]
# ## Networks
#
# Which networks answer, how are they run, and how do probabilities become masks? Settings that were tuned with the
# runs are used; where runs disagree, those of the run with the best held-out score.

# %%
place = session.run_folders(RUNS) if RUNS or not session.bundle() else session.bundle() / "runs"
chosen = networks.choose(place, RUN, faults, missing_ok=bool(FALLBACK))
settings = networks.choose_settings(chosen, faults)
members = networks.open_members(chosen, faults, BATCH, missing_ok=bool(FALLBACK))
listed = [f"{member.name}: {member.kind}, {member.spec}" for member in members]
print("\n".join(listed) or f"no network: the fallback is {FALLBACK!r}")
print(settings)

# %% [markdown]
# ## Rehearsal
#
# Would it work, and in what time? With nothing to predict, a training scan is predicted instead, so that a network that
# does not load is found now and not in the rerun. Fifty scans of 144 slices are what the hidden test set may hold.

# %%
rehearsal = pd.DataFrame(columns=["id", "class", "predicted"])
if mode != "rerun" and not len(slices) and members and (root / "train.csv").is_file():
    train = scans.read(root)
    some = train[train["scan"] == train["scan"].iloc[0]]
    clock = deadline.Deadline(None)
    rehearsal = inference.rows(members, some, settings=settings, clock=clock, flip=FLIP, batch_size=BATCH)
    hours = clock.forecast(50 * 144, deadline.passes(len(members), FLIP)) / 3600
    print(f"{len(some)} slices, {(rehearsal['predicted'] != '').sum()} masks; 50 such scans are forecast {hours:.1f} h")

# %% [markdown]
# ## Prediction
#
# How far is it, and will it end in time? Each finished scan is in the file at once. When the forecast passes the
# deadline, flipped passes are shed first and then networks, the first network never; a scan that was slow by accident
# costs the next ones nothing, as each is weighed anew.

# %%
clock = deadline.Deadline(HOURS, spent=0.0 if mode == "interactive" else None)  # a kernel may be days old
options = {"settings": settings, "clock": clock, "faults": faults, "flip": FLIP, "batch_size": BATCH}
predicted = baselines.empty(slices)
if members:
    predicted = inference.submit(members, slices, sample, target, **options)
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
# Would the competition take it? Every row of the sample is there, in its order, and every mask fits its slice. How many
# slices of each scan hold which organ?

# %%
for where, what in submission.check(target, slices, sample):
    faults.meet(where, what, "the file stands as it is")
print(f"{target.resolve()}: {len(sample):,} rows, {(predicted['predicted'] != '').sum():,} with a mask")
counts = predicted.assign(scan=predicted["id"].str.rsplit("_slice_", n=1).str[0], mask=predicted["predicted"] != "")
counts.pivot_table(index="scan", columns="class", values="mask", aggfunc="sum").reindex(columns=contest.ORGANS)

# %%
pd.crosstab(predicted["class"], (predicted["predicted"] != "").map({True: "with a mask", False: "without"}))

# %% [markdown]
# ## A look
#
# Does it look like anatomy? Slices along the first scan, with what was predicted; in a rehearsal, the training scan.

# %% tags=["preview-submission"]
shown = predicted if len(predicted) else rehearsal
with faults.survive("contact sheet", "left out"):
    if len(shown):
        known = scans.with_masks(slices if len(predicted) else some, shown)
        first = known[(known["scan"] == known["scan"].iloc[0]) & (known["path"] != "")]
        alike = (first[["height", "width"]] == list(scans.common_size(first))).all(axis=1)
        display(figures_scans.contact_sheet(first[alike]))

# %% [markdown]
# ## Faults
#
# What was met on the way, and what was done about it? An empty list is the rule. In the rerun nobody reads it; on the
# same files elsewhere the same notebook shows it, and keeps it as `faults.csv` beside the submission.

# %%
if len(faults):
    faults.table().to_csv(target.with_name("faults.csv"), index=False)
print(faults)

# %% [markdown]
# ## Score
#
# Is it better than habit? The atlas puts every organ where the training cases had it; the earlier day copies the masks
# of the same case. Only a phantom can answer here: the competition keeps its truth to itself.

# %%
if (root / "truth.csv").is_file():
    display(baselines.table(root, target).round(3))
