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
# Which organs appear on these slices, where and how often, and what does that mean for a model? All mask statistics
# come from the run-length text, in about a second for the whole training set; images are opened only for pictures and
# grey values. Near the end, the paper's published numbers are compared with those of the attached data.

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
INDEX = ""  # csv of slices (id, image_path, has_mask) to use in place of images that are not attached
CASE = 0  # case to follow from day to day; 0: a case with the most days
SAMPLES = 8  # slices per scan to measure grey values on

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import display

from kitlib.data import boxes, folds, scans
from kitlib.eda import annotators, areas, intensities, published, statistics
from kitlib.figures import eda, scans as figures_scans

pd.set_option("display.max_rows", 60, "display.max_columns", 30, "display.max_colwidth", 80)
_ = session.parameters(globals(), DATA="", INDEX="", CASE=0, SAMPLES=8)
pd.set_option("display.float_format", lambda value: f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}")

# %% [markdown]
# ## The attached data
#
# Is this the real competition or a phantom, a synthetic competition in the same layout? Where masks or images are not
# attached, the cells below that need them print a message instead.

# %%
root = DATA or None if INDEX else session.competition(DATA)
slices, masked = statistics.read(root, INDEX or None)
has_images = intensities.has_images(slices)
print(f"{len(slices):,} slices, {len(masked):,} of them with known masks, images: {'yes' if has_images else 'no'}")
print(published.missing(slices, bool(root) and scans.is_phantom(root)))

# %%
no_masks, no_images = "Skipped: no masks are attached.", "Skipped: no images are attached."


def with_masks(make, *tables):
    """Make a table or picture of masks, if masks are attached."""
    return make(*tables) if len(masked) else print(no_masks)


def with_images(make, *tables):
    """Make a picture of slices and masks, if both are attached."""
    return with_masks(make, *tables) if has_images else print(no_images)


# %% [markdown]
# How long does it take to measure every mask? One pass over the run-length text gives the area and the centroid of each
# mask and all overlaps. The row below shows them for one slice.

# %%
started = time.perf_counter()
measured = areas.measure(masked)
print(f"{len(measured):,} slices measured in {time.perf_counter() - started:.2f} s")
measured.iloc[len(measured) // 2, 8:].to_frame().T if len(masked) else print(no_masks)

# %% [markdown]
# ## Cases, scans, slices
#
# How much data is there, and how much of it is annotated? A case is a patient; a scan is one case on one day. In the
# full training set 57 % of the slices are empty, so a network must also learn to predict nothing.

# %%
statistics.summary(slices)

# %% [markdown]
# How often was each case scanned, and at which intervals? In the full set most cases have three or five scans. Scans of
# one case resemble each other, so all of them belong on the same side of a split.

# %%
display(statistics.scans_per_case(slices).T)
annotators.days(slices).head(12)

# %% [markdown]
# Which image sizes occur? File names give the width first; this kit puts height first everywhere. In the table above,
# the column `sizes` counts the different image sizes of a case.

# %%
statistics.image_sizes(slices)

# %% [markdown]
# ## Organs
#
# How often is each organ annotated? `share` is the organ's share of all masks; `share_of_slices` is the share of the
# slices that contain it.

# %%
with_masks(statistics.organ_counts, measured)

# %% [markdown]
# In which combinations do the organs appear? The table and the picture count the slices with each exact combination
# of organs, as the paper's Figure 3 does. `share_within` is the share among combinations of the same number of
# organs.

# %%
with_masks(statistics.organs_per_slice, measured)

# %%
with_masks(eda.organs_per_slice, measured)

# %% [markdown]
# Which organs appear together? Each row takes the slices with one organ and shows the share of them that also contain
# each of the others. The small bowel almost never appears without the large bowel; stomach and small bowel appear
# together least often.

# %%
with_masks(eda.cooccurrence, measured)

# %% [markdown]
# ## The masks
#
# What did the experts draw? The picture shows one slice from each of several cases: the image above, and the same
# image with its contours below.

# %%
with_images(figures_scans.typical_masks, masked)

# %% [markdown]
# How does one scan change from head to feet? The sheet shows the annotated part of the scan with the most bowel, and a
# few slices beyond it. Look at the last contours: they stop although the bowel continues.

# %%
richest = measured.groupby("scan")["large_bowel+small_bowel"].sum().idxmax() if len(masked) else ""
scan = masked[masked["scan"] == richest]
with_images(figures_scans.contact_sheet, scan)

# %% [markdown]
# How does this scan look in three planes, drawn to scale in millimetres? Slices are 3 mm apart and pixels 1.5 mm
# wide. Contours are smooth in the plane in which they were drawn and ragged across it.

# %%
with_images(figures_scans.planes, scan)

# %% [markdown]
# How large are the masks? Areas are in pixels; the last column gives the median in square centimetres, which does not
# depend on the pixel spacing.

# %%
with_masks(statistics.organ_areas, measured)

# %% [markdown]
# Where are the organs? `down` and `across` are relative to the image's height and width, and `along` is the position
# in the scan from head to feet. The patient's right side is on the left of the image.

# %%
with_masks(statistics.centroids, measured)

# %% [markdown]
# How much of a slice does a network need to see? The box is measured in mm from the centre of the image, as top,
# bottom, left and right, so that it fits scanners of every image size. 02_train takes it as `BOX` and the grid as
# `SIZE`.

# %%
print(boxes.advice(masked) if len(masked) else no_masks)

# %% [markdown]
# ## Overlaps
#
# Can a pixel belong to two organs? Yes, wherever `overlapping` is above zero. One label per pixel cannot represent
# such an annotation, so the task needs three separate masks.

# %%
with_masks(statistics.overlaps, measured)

# %% [markdown]
# How large are the overlaps? The paper's Figure 12 counts them by their area in pixels, for two and for all three
# organs.

# %%
with_masks(eda.overlap_areas, measured)

# %% [markdown]
# Is the mask of one organ ever completely inside another's? The paper shows such a case, large bowel inside small
# bowel (Figure 5).

# %%
with_masks(statistics.containment, measured)

# %% [markdown]
# What do the largest overlaps look like? White pixels belong to both organs. They usually follow the border between
# two touching organs.

# %%
with_images(figures_scans.overlapping_masks, masked)

# %% [markdown]
# ## Along the body
#
# At which slice does each organ appear most often? From head to feet, the stomach comes first and then the bowels.
# The position of a slice and its neighbours therefore help a network to tell the organs apart.

# %%
with_masks(eda.bells, measured)

# %% [markdown]
# Where are the peaks of these curves, and how wide are they? The table gives the slice of the peak, mean and spread
# in slices, and the shares of the masks before and after the peak.

# %%
with_masks(statistics.bells, measured)

# %% [markdown]
# Does every scan look like the average? Each row is a scan, and the days of a case are next to each other. Darker
# shades mean a larger area of the organ on that slice.

# %%
with_masks(eda.areas_along, measured)

# %% [markdown]
# ## The annotators
#
# Where does each organ begin and end, and how abruptly? An organ that tapers off ends near area 0; one that is cut
# off ends near its largest area. Both bowels end on the same slice, where the annotators stopped.

# %%
with_masks(annotators.stop_lines, measured)

# %%
with_masks(eda.stop_lines, measured)

# %% [markdown]
# Are there slices without a mask between the first and the last annotated one? An organ does not disappear for one
# slice, so a hole probably means that the slice was forgotten.

# %%
ranges = annotators.annotated_ranges(slices)
print(f"{(ranges['holes'] > 0).sum()} of {len(ranges)} annotated scans have holes")
ranges[ranges["holes"] > 0] if ranges["holes"].any() else ranges.head()

# %% [markdown]
# Which of the scans that the hosts exclude from training are attached? Their annotations are wrong, and a network would
# learn the errors.

# %%
annotators.suspects(slices)

# %% [markdown]
# ## From day to day
#
# How far do organs move between two scans of a case, and how much do they grow? Because of these changes every
# treatment needs new outlines, and copying the masks of an earlier day gives limited results.

# %%
changes = annotators.daily_changes(measured)
by_organ = changes.groupby("organ", sort=False)[["moved_mm", "grew"]]
by_organ.describe(percentiles=[0.1, 0.5, 0.9]).T if len(changes) else print("No case has masks on two days.")

# %% [markdown]
# How does one case change over its days? The first picture shows the areas along the scan. The second shows the
# coronal plane with the most mask pixels, with all days at the same scale.

# %%
case = annotators.case_to_follow(masked, CASE)
with_masks(eda.case_over_days, measured, case)

# %%
with_images(figures_scans.days, masked, case)

# %% [markdown]
# ## Grey values
#
# Do all scans have the same range of grey values? `hot` is the brightest pixel divided by the 99th percentile. If it
# is large, dividing by the maximum would leave the organs dark, so `InputSpec` divides by a percentile.

# %%
samples = intensities.sample(slices, SAMPLES) if has_images else None
intensities.by_scan(samples).describe(percentiles=[0.5]) if has_images else print(no_images)

# %%
eda.intensities(samples) if has_images else print(no_images)

# %% [markdown]
# ## Folds
#
# Are the folds similar, and is any case in more than one? Whole cases are assigned so that every fold has a similar
# share of slices with 0, 1, 2 and 3 organs. `shared cases` counts cases that are in several folds and must be 0.

# %%
count = min(5, masked["case"].nunique())
fold = folds.by_case(masked, count) if count > 1 else np.zeros(len(masked), int)
with_masks(statistics.fold_counts, masked, fold)

# %% [markdown]
# Which scans does a split like the hidden test set hold out? It holds out the later days of some cases and all days
# of others. Some cases are on both sides on purpose, with the earlier days in the training set. This split is closer
# to the leaderboard's task than the folds are.

# %%
later = folds.later_days(masked).map({True: "validation", False: "training"})
with_masks(statistics.fold_counts, masked, later)

# %% [markdown]
# ## The paper's numbers
#
# Do the attached data reproduce the published numbers? The column `same` says "same" or "different" for the full
# training set only, because numbers of a part of the data cannot match.

# %%
print(published.missing(slices, bool(root) and scans.is_phantom(root)))
published.compare(measured if len(measured) == len(slices) else slices)

# %% [markdown]
# Do the paper's statements about overlaps and positions hold for the attached data? `here` gives the numbers that
# decide each statement.

# %%
with_masks(published.claims, measured)

# %% [markdown]
# ## Consequences for a model
#
# Why is the network trained as in 02_train? Each decision follows from one of the tables above; `because` gives the
# deciding number for the attached data.

# %%
with_masks(published.decisions, measured, samples)
