# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 5 · Experiments
#
# This notebook repeats the paper's comparisons on the attached data: five losses (Table 8), 4 and 5 levels (Figure
# 10) and augmentation (Figures 7 and 9). It adds two comparisons that the paper leaves out, attention and
# neighbouring slices, and then turns to the paper's open questions. The long form, for a GPU, trains as the paper
# does, with three seeds. On Kaggle it may take several sessions, each with the output of the previous one attached.
# The short form, for a CPU, trains small networks for a few epochs. It shows how to read each table, and its numbers
# say little about the paper.

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
RUNS = ""  # folder for the run folders; empty: runs/experiments here on Kaggle, ../runs/experiments elsewhere
QUICK = None  # True: the short form; False: the long form; None: the long form on a GPU, else the short form
COMPARE = ("losses", "levels", "augmentation", "attention", "neighbours")
SEEDS = 0  # trainings per row of a table, each with its own seed; 0: 3, or 2 in the short form
EPOCHS = 0  # maximum number of epochs; 0: 40 as in the paper, or 3 in the short form
SIZE = 0  # height and width of the network's input in pixels; 0: 128 as in the paper, or 64 in the short form
FOLDS = 5  # number of folds, the groups that the cases are split into
FOLD = 0  # fold to validate on, in all comparisons
FAULTS = 0  # scans whose annotations are spoiled, to see whether they can be found; 0: one scan in five
HOURS = 0.0  # time limit for all trainings together; run the notebook again to continue; 0: 11 on Kaggle, else no limit

# %%
from IPython.display import display

from kitlib import contest, runs, training
from kitlib.data import folds, inputs, pipeline, scans
from kitlib.eda import planted
from kitlib.figures import paper
from kitlib.paper import evidence, experiments, published
from kitlib.training import devices

# %%
_ = session.parameters(
    globals(),
    DATA="",
    RUNS="",
    QUICK=(None, True, False),
    COMPARE=["losses", "levels", "augmentation", "attention", "neighbours"],
    SEEDS=0,
    EPOCHS=0,
    SIZE=(0, range(32, 2049, 32)),
    FOLDS=(5, range(2, 101)),
    FOLD=lambda: (0, range(FOLDS)),
    FAULTS=0,
    HOURS=0.0,
)
kept, ends = session.run_folders(RUNS, "experiments"), session.ends_at(HOURS)

# %% [markdown]
# ## Data, machine and form
#
# Which machine and which data are these, and is this the long or the short form? With a GPU it is the long form,
# without one the short form, unless `QUICK` says otherwise.

# %%
machine = devices.use(devices.detect())
quick = machine.accelerators == 0 if QUICK is None else QUICK
form = experiments.SHORT if quick else experiments.LONG
print(f"{machine} - {form.name}")
root = session.competition(DATA)
slices = scans.read(root)
spoiled, known = planted.read_or_plant(root, slices, FAULTS)  # to find them again below
print(f"{len(slices):,} slices, {slices['scan'].nunique()} scans, {slices['case'].nunique()} cases")

# %% [markdown]
# What do all trainings have in common? They share the packed scans, the validation fold and the recipe: the paper's,
# or in the short form a small network whose learning rate falls over a few hundred steps.

# %%
size = SIZE or form.size
spec = inputs.InputSpec(size, size)
count = min(FOLDS, slices["case"].nunique())
held_out = folds.by_case(slices, count) == FOLD
assert held_out.any(), f"FOLD = {FOLD}: there are only {count} folds of these cases; choose 0 to {count - 1}"
recipe = form.recipe(EPOCHS)
packed = pipeline.pack(slices, spec)

# %% [markdown]
# ## All trainings
#
# How many trainings are there, and do their run folders fit on the disk? A training that several tables need runs
# only once. After an interruption, run the second cell again to continue. Until all trainings are finished, the
# tables show those that are.

# %%
seeds = range(SEEDS or form.seeds)
jobs = experiments.tasks(kept, experiments.trials(COMPARE), seeds, held_out, spec, recipe)
print(f"{len(jobs)} trainings: {len(experiments.trials(COMPARE))} kinds x {len(seeds)} seeds")
unfinished = sum(not runs.finished(job.folder) for job in jobs)
stored = unfinished * held_out.sum() + len(slices)
if training.jobs.trainings_at_once(machine, len(jobs)) > 1:  # they share packed scans on the disk
    stored += len(slices)
print(runs.check_disk(kept, int(stored), spec, session.disk_left(kept)))

# %%
attached = contest.attached("run.json")  # on Kaggle: the runs of earlier sessions
trained = experiments.run(slices, jobs, packed, machine, deadline=ends, earlier=attached)
assert experiments.BASE in trained, f"{experiments.BASE} has no finished epoch yet: raise HOURS and run this cell again"

# %% [markdown]
# ## Table 8: five losses
#
# Which loss is best, and is the order the same as in the paper? Each cell shows our mean over seeds with its
# interval, then the paper's value. "?" marks a published value that cannot be right; "at" is the value at the epoch
# with the lowest loss.


# %%
def show(comparison):
    """Show one comparison as a table and a picture, both beside the paper's results."""
    table = experiments.table(trained, experiments.SETS[comparison])
    display(published.beside(table, comparison))
    display(paper.beside_paper(table, published.cells(comparison)))
    return table


# %% tags=["preview-table8"]
table = show("losses")

# %% [markdown]
# Is BCE + 0.5 Dice ahead, as in the paper? A difference smaller than its interval may be due to the seeds. Values of
# different losses cannot be compared, so each row shows the best epoch by its own loss.

# %%
for other in table.index.drop(experiments.BASE):
    print(experiments.ahead(table, experiments.BASE, other))

# %% [markdown]
# What is wrong with the values marked "?"? Some contradict each other, some the definition that the paper gives, and
# two are copies of other cells.

# %%
for cell in published.cells("losses").query("doubt != ''").itertuples():
    print(f"{cell.row}, {cell.column} {cell.value}: {cell.doubt}")

# %% [markdown]
# How does the training go with each loss? The paper's Dice loss has the sign of a score, so minimising it drives the
# overlap to zero. That is why the paper finds that it "cannot be optimised". Soft Dice has no term on background
# pixels.

# %% tags=["preview-losses"]
curves = experiments.histories(trained, experiments.SETS["losses"])
panels = {"val_dice": "Dice, validation", "val_paper_accuracy": "the paper's accuracy", "val_binary_accuracy": "binary"}
paper.together(curves, panels)

# %% [markdown]
# ## Figure 10: 4 and 5 levels
#
# Does a fifth level help? The paper finds no difference and chooses the smaller network.

# %%
if "levels" in COMPARE:
    table = show("levels")
    print(experiments.ahead(table, "5 levels", "4 levels"))
    display(paper.curves(experiments.histories(trained, experiments.SETS["levels"])))

# %% [markdown]
# ## Figures 7 and 9: augmentation
#
# How much does augmentation reduce overfitting? Overfitting is the gap between the grey line of the training set and
# the black line of the validation set. The paper's Figure 7 shows its first training, with BCE, patience 5 and no
# augmentation; the Dice is 0.5 there and 0.7 in Figure 9. The row "without" changes only the augmentation and is not
# in the paper.

# %% tags=["preview-augmentation"]
if "augmentation" in COMPARE:
    table = show("augmentation")
    print(experiments.ahead(table, "with", "without"))
    print(experiments.ahead(table, "with", experiments.FIRST))
    curves = experiments.histories(trained, experiments.SETS["augmentation"])
    print(experiments.gap(curves))
    display(paper.curves(curves))

# %% [markdown]
# ## Attention and neighbouring slices
#
# Does attention help? The paper proposes it and does not measure its effect, so there are no published values here.

# %%
if "attention" in COMPARE:
    table = show("attention")
    print(experiments.ahead(table, "with", "without"))
    display(paper.curves(experiments.histories(trained, experiments.SETS["attention"])))

# %% [markdown]
# Do neighbouring slices help? The paper does not measure this either. A network with three copies of a slice as input
# cannot express more than one with the slice alone, so any difference between those two rows is noise.

# %%
if "neighbours" in COMPARE:
    table = show("neighbours")
    print(experiments.ahead(table, "5 slices", "1 slice"))
    print(experiments.ahead(table, "one slice, 3 copies", "1 slice"))
    display(paper.curves(experiments.histories(trained, experiments.SETS["neighbours"])))

# %% [markdown]
# ## Why is the accuracy unstable?
#
# Which accuracy does Keras give to perfect masks? It compares which of the three channels is largest. On background
# all three are near zero, so adding 0.001 to one channel decides most pixels, although no mask changes.

# %%
val = slices[held_out]
display(evidence.perfect_masks(packed.truth(val)).round(3))

# %% [markdown]
# How does the accuracy change during training? "step" is its mean change between epochs. Soft Dice leaves background
# probabilities far from zero and in a fixed order. If the first organ is the largest there, the accuracy looks very
# good and means nothing.

# %%
by_loss = {name: trained[name] for name in experiments.SETS["losses"] if name in trained}
display(evidence.accuracy_by_loss(by_loss, packed).round(3))

# %% [markdown]
# ## Do predictions shrink at the border?
#
# Is the predicted border inside the true one? If so, the distances are below zero. The median ignores false islands,
# which are far from any border. If a line crosses zero at some threshold, the threshold causes the shrinking.

# %% tags=["preview-borders"]
drawn = {name: trained[name] for name in ("BCE", "Dice", "BCE + Dice", experiments.BASE) if name in trained}
bias = evidence.border_bias(drawn, slices)
paper.border_by_loss(bias)

# %% [markdown]
# What are these medians in pixels, for each loss and organ?

# %%
bias.pivot_table("median_px", ["trained with", "organ"], "threshold", sort=False).astype(float).round(2)

# %% [markdown]
# ## What does Table 8 measure?
#
# Which definition gives both Dice 0.7006 and IoU 0.7699, the published pair? One prediction is measured by every
# definition in use. "off" is the IoU that follows from the published Dice, minus the published IoU. "possible" says
# whether a perfect prediction would reach that Dice.

# %%
counts = evidence.pixel_counts(trained[experiments.BASE], packed)
reading = evidence.near(evidence.readings(counts))
display(reading.round(3))

# %% [markdown]
# Which possible definition comes nearest to the published pair?

# %%
best = reading.query("possible")["off"].abs().idxmin()
print(f"nearest to the published pair: {best}, IoU off by {reading.at[best, 'off']:+.3f}")

# %% [markdown]
# ## Can wrong annotations be found?
#
# Can a network find wrong annotations, so that nobody has to check every scan? These annotations are wrong on
# purpose: they were spoiled in this notebook, or when the phantom was written. Below, the annotation of each scan is
# compared with the prediction of a network that was not trained on its case.

# %%
display(known)

# %% [markdown]
# Which networks make these predictions? Each one is trained on all folds but its own, including the spoiled
# annotations, because in practice nobody knows which scans to leave out. The short form has two folds.

# %%
outlined = packed.remasked(spoiled)
count = min(form.folds or FOLDS, slices["case"].nunique())
same = {"spec": spec, "recipe": recipe, "packed": outlined, "devices": machine, "count": count, "earlier": attached}
base = trained[experiments.BASE][-1].folder  # its epochs show whether a fold fits into the time limit
members = training.cross_validate(spoiled, kept / "faults", deadline=ends, like=[base], **same)
print(f"{len(members)} of {count} folds are trained")

# %% [markdown]
# Are the spoiled scans at the top of the list? Scans whose fold is not trained yet are missing.

# %% tags=["preview-faults"]
if members:
    ranked = evidence.disagreement(evidence.pixel_counts(members, outlined), known)
    print(evidence.recovered(ranked))
    display(ranked.head(2 * len(known)).round(3))
    display(paper.ranking(ranked))

# %% [markdown]
# ## Conclusions
#
# Does the paper's ranking hold here: augmentation ahead of none, and BCE + 0.5 Dice ahead of the other losses? If
# not, the sentence names a measurement that may explain the difference.

# %%
for other in ("no augmentation", "BCE", "BCE + Dice"):
    if other in trained:
        print(experiments.why(trained, experiments.BASE, other))

# %% [markdown]
# How do all comparisons look at a glance? The tables show the mean over seeds; the columns "+-" show half the width
# of its interval.

# %%
print(form.name, "on a phantom" * scans.is_phantom(root))
for comparison in COMPARE:
    table = experiments.table(trained, experiments.SETS[comparison])
    display(table[["Dice", "Dice +-", "host score", "host score +-"]].round(3))
