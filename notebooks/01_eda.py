# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 1 · The data
#
# What is on these slices, where, how often, and what does that decide? Every table comes from the run-length text
# alone, in a second for the whole training set; pictures open the few slices that they show. At the end, the published
# figures of the data set stand beside those of what is attached here.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from packaging.version import Version

attached = Path(os.environ.get("KITLIB_KAGGLE_INPUT", "/kaggle/input"))
wheels = [wheel for place in ("*", "datasets/*/*") for wheel in attached.glob(f"{place}/kitlib-*.whl")]
pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
if wheels:  # on Kaggle: the newest attached bundle, without internet; TensorFlow and NumPy stay what they are
    newest = max(wheels, key=lambda wheel: (Version(wheel.name.split("-")[1]), str(wheel)))
    subprocess.run([*pip, "--no-index", "--force-reinstall", newest], check=True)
elif (Path.cwd().parent / "kitlib").is_dir():  # in a checkout: the folder above
    sys.path.insert(0, str(Path.cwd().parent))
elif not importlib.util.find_spec("kitlib"):  # with internet: the repository
    subprocess.run([*pip, "git+" + os.environ["KITLIB_REPOSITORY"]], check=True)
from kitlib import session

print(session.versions())

# %% tags=["parameters"]
DATA = ""  # folder of the competition; empty: found, see kitlib.data.scans.find_root
INDEX = ""  # csv of slices (id, image_path, has_mask) that stands for the images when only tables are at hand
CASE = 0  # the case that is followed from day to day; 0: one with the most days
SAMPLES = 8  # slices per scan whose grey values are measured

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import display

from kitlib.eda import areas, annotators, intensities, published, statistics
from kitlib.figures import eda, scans as figures_scans
from kitlib.data import scans

pd.set_option("display.max_rows", 60, "display.max_columns", 30, "display.max_colwidth", 80)
pd.set_option("display.float_format", lambda value: f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}")

# %% [markdown]
# ## What is attached
#
# Real data or a phantom, a synthetic competition in the official layout? Are masks and images there? What is missing is
# skipped below, with a sentence in its place.

# %%
root = DATA or None if INDEX else session.competition(DATA)
slices, masked = statistics.read(root, INDEX or None)
pixels = intensities.has_images(slices)
print(f"{len(slices):,} slices, {len(masked):,} of them with known masks, images: {'yes' if pixels else 'no'}")


# %%
no_masks, no_pixels = "No masks are attached: skipped.", "No image files are attached: this picture is skipped."


def shown(make, *data):
    """Show what a function makes of the data, or say what they lack."""
    if not len(masked):
        return print(no_masks)
    if make.__module__ == figures_scans.__name__ and not pixels:
        return print(no_pixels)
    return make(*data)


print(published.missing(slices, bool(root) and scans.is_phantom(root)))

# %% [markdown]
# One pass over the run-length text gives the area, the centroid and all overlaps of every mask. How long does it take?

# %%
started = time.perf_counter()
measured = areas.measure(masked)
print(f"{len(measured):,} slices measured in {time.perf_counter() - started:.2f} s")
measured.iloc[len(measured) // 2, 8:].to_frame().T if len(masked) else print(no_masks)

# %% [markdown]
# ## Cases, scans, slices
#
# How much is there, and how much of it is annotated? A case is a patient; a scan is one case on one day. In the full
# training set 43 % of the slices hold an organ: a network must also learn to stay silent.

# %%
statistics.summary(slices)

# %% [markdown]
# How often was each case scanned, and how far apart? In the full set three or five times as a rule. Slices of one case
# resemble each other, so a case must never be on both sides of a split.

# %%
display(statistics.scans_per_case(slices).T)
annotators.days(slices).head(12)

# %% [markdown]
# Which image sizes occur? File names give width before height; this kit turns them once, at the door. Cases that mix
# sizes have more than one in the table above.

# %%
statistics.image_sizes(slices)

# %% [markdown]
# ## Organs
#
# Which organs are masked, and how often? The share of slices is what a network meets; the share of masks is what the
# score weighs.

# %%
shown(statistics.organ_counts, measured)

# %%
shown(statistics.organs_per_slice, measured)

# %%
shown(eda.organs_per_slice, measured)

# %% [markdown]
# Which organs come together? Read a row: of the slices that hold this organ, so many hold the other. The small bowel
# hardly ever appears without the large one; stomach and small bowel meet least often.

# %%
shown(eda.cooccurrence, measured)

# %% [markdown]
# ## What masks look like
#
# What did the experts draw? Above the slices as they are, below the contours, on one slice of several cases.

# %%
shown(figures_scans.typical_masks, masked)

# %% [markdown]
# How does one scan run from head to feet? The numbers are those of the slices; the sheet spans the annotated part and a
# little beyond. Where the contours stop is worth a look: the bowel does not.

# %%
richest = measured.groupby("scan")["large_bowel+small_bowel"].sum().idxmax() if len(masked) else ""
one = masked[masked["scan"] == richest]
shown(figures_scans.contact_sheet, one)

# %% [markdown]
# And in three planes? Slices are 3 mm apart and pixels 1.5 mm wide, so a scan is drawn in millimetres. Contours are
# smooth in the plane in which they were drawn, and ragged across it.

# %%
shown(figures_scans.planes, one)

# %% [markdown]
# How large are masks, and where do they lie? `down` and `across` are shares of the image, `along` of the scan from head
# to feet; the patient's right is on the left.

# %%
shown(statistics.organ_areas, measured)

# %%
shown(statistics.centroids, measured)

# %% [markdown]
# ## Overlaps
#
# May a pixel belong to two organs? It may, wherever this table counts above zero: then one label per pixel cannot
# describe the annotation, and the task needs three separate masks.

# %%
shown(statistics.overlaps, measured)

# %%
shown(eda.overlap_areas, measured)

# %% [markdown]
# What do the largest overlaps look like? White pixels belong to both organs. Does one organ's mask ever lie wholly
# inside another's?

# %%
shown(statistics.containment, measured)

# %%
shown(figures_scans.overlapping_masks, masked)

# %% [markdown]
# ## Along the body
#
# At which slice does each organ appear most? The bells follow the body: stomach first, then the bowels. Their place
# tells a network much, so neighbouring slices should be part of its input.

# %%
shown(eda.bells, measured)

# %%
shown(statistics.bells, measured)

# %% [markdown]
# Does every scan look like the average? Each row is a scan, and days of a case lie together: the shade is the area of
# the organ on that slice.

# %%
shown(eda.areas_along, measured)

# %% [markdown]
# ## Habits of the annotators
#
# Where does each organ begin and end, and how abruptly? An organ that tapers off ends near area 0; one that is cut off
# ends at its full size. Both bowels stop on one slice: that line is the annotator's, not the body's.

# %%
shown(annotators.stop_lines, measured)

# %%
shown(eda.stop_lines, measured)

# %% [markdown]
# Are there slices without a mask inside the annotated range? A hole is hardly anatomy; it points at a forgotten slice.

# %%
ranges = annotators.annotated_ranges(slices)
print(f"{(ranges['holes'] > 0).sum()} of {len(ranges)} annotated scans have holes")
ranges[ranges["holes"] > 0] if ranges["holes"].any() else ranges.head()

# %% [markdown]
# Which of the scans that the hosts leave out of their own training are attached? Their annotation is wrong; training on
# them teaches the fault.

# %%
annotators.suspects(slices)

# %% [markdown]
# ## From day to day
#
# How much do organs move and fill between two scans of a case? This is why every treatment needs a new outline, and how
# far a copy of yesterday's masks can carry.

# %%
changes = annotators.daily_changes(measured)
by_organ = changes.groupby("organ", sort=False)[["moved_mm", "grew"]]
by_organ.describe(percentiles=[0.1, 0.5, 0.9]).T if len(changes) else print("No case with masks on two days.")

# %%
days = masked.groupby("case")["scan"].nunique()
case = CASE or (int(days.idxmax()) if len(days) else 0)
shown(eda.case_over_days, measured, case)

# %%
shown(figures_scans.days, masked, case)

# %% [markdown]
# ## Grey values
#
# Do two scans have the same scale? `hot` says how many times brighter than its tissue a scan's brightest spot is; where
# it is large, dividing by the maximum would leave the organs in the dark.

# %%
samples = intensities.sample(slices, SAMPLES) if pixels else None
intensities.by_scan(samples).describe(percentiles=[0.5]) if pixels else print(no_pixels)

# %%
eda.intensities(samples) if pixels else print(no_pixels)

# %% [markdown]
# ## Folds
#
# Which slices validate which model? Cases are dealt whole, so that every fold has its share of slices with 0, 1, 2 and
# 3 organs. The last column must be zero: it counts cases that sit in several folds.

# %%
count = min(5, masked["case"].nunique())
shown(statistics.fold_counts, masked, scans.folds(masked, count) if count > 1 else np.zeros(len(masked), int))

# %% [markdown]
# The hidden test holds later days of known cases as well as new cases. What does a split like that hold out? Here cases
# are shared on purpose, in time order: it measures what the leaderboard does, and more kindly than the folds.

# %%
later = scans.later_days(masked).map({True: "held out", False: "training"})
shown(statistics.fold_counts, masked, later)

# %% [markdown]
# ## Published, here, same
#
# Do these tables reproduce the published figures? "same" and "different" appear only when the full training set is
# attached; the sentence says what is missing otherwise.

# %%
print(published.missing(slices, bool(root) and scans.is_phantom(root)))
published.compare(measured if len(measured) == len(slices) else slices)

# %% [markdown]
# And what the paper says in words: does it hold on what is attached?

# %%
shown(published.claims, measured)

# %% [markdown]
# ## What the statistics decide
#
# Each choice of the training notebook rests on one of the tables above. Here is the figure that decides it, from the
# data attached.

# %%
shown(published.decisions, measured, samples)
