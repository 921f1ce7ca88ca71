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
# The paper's comparisons on whatever is attached: five losses (Table 8), 4 and 5 levels (Figure 10), with and without
# augmentation (Figures 7 and 9), attention, neighbours; then what it leaves open. With a GPU the paper's course at 128
# pixels with three seeds; on Kaggle that may take several sessions, each with the output of the last one attached.
# Without a GPU a short form of less than 20 minutes, a small network seeing little: a rehearsal.

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
RUNS = ""  # run folders, read where finished; empty: runs/experiments here on Kaggle, ../runs/experiments elsewhere
QUICK = None  # True: the short form; False: the long one; None: short exactly when there is no GPU
COMPARE = ("losses", "levels", "augmentation", "attention", "neighbours")
SEEDS = 0  # trainings per row; 0: 3, or 2 in the short form
EPOCHS = 0  # at most; 0: 40 as in the paper, or 3
SIZE = 0  # pixels of the grid, each way; 0: 128 as in the paper, or 64
FOLDS = 5  # parts that the cases are split into
FOLD = 0  # the part that validates, in all comparisons
FAULTS = 0  # annotations to spoil for the last section; 0: one scan in five
HOURS = 0.0  # end all trainings before so many have passed, to go on another time; 0: 11 on Kaggle, else no limit

# %%
from IPython.display import display

from kitlib.paper import evidence, experiments, published
from kitlib.figures import paper
from kitlib.data import inputs, pipeline, scans
from kitlib.eda import planted
from kitlib.training import devices

# %%
session.parameters(
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
# What is attached, and which form is this? The short form shows that every comparison runs and how its table is read;
# which row wins there says little about the paper.

# %%
root = session.competition(DATA)
slices = scans.read(root)
machine = devices.use(devices.detect())
quick = machine.accelerators == 0 if QUICK is None else QUICK
print(machine, "- SHORT FORM: small network, few epochs" if quick else "- long form")
print(f"{len(slices):,} slices, {slices['scan'].nunique()} scans, {slices['case'].nunique()} cases")

# %% [markdown]
# What do all trainings share? The fold held out, the scans, and the course: the paper's, or a small network with a
# falling rate that must make do with some hundred steps.

# %%
size = SIZE or (64 if quick else 128)
packed = pipeline.pack(slices, inputs.InputSpec(size, size))
held_out = scans.folds(slices, min(FOLDS, slices["case"].nunique())) == FOLD
short = {"epochs": EPOCHS or 3, "schedule": "cosine", "learning_rate": 5e-3, "empty_share": 0.1}
short |= {"network_options": {"base": 4, "cap": 32}}
course = (short if quick else {"epochs": EPOCHS or 30}) | {"devices": machine}

# %% [markdown]
# ## All trainings
#
# How many are there? Rows that two tables share are trained once. Each leaves a run folder; run again, this cell reads
# what is finished and goes on with the rest. Out of time, it says what is left, and tables show what there is.

# %%
seeds = range(SEEDS or (2 if quick else 3))
jobs = experiments.tasks(kept, experiments.trials(COMPARE), seeds, packed, **course)
print(f"{len(jobs)} trainings: {len(experiments.trials(COMPARE))} kinds x {len(seeds)} seeds")
found = experiments.run(slices, jobs, packed, held_out, deadline=ends)
assert experiments.BASE in found, "no training of the base has finished an epoch: run again, with more HOURS"

# %% [markdown]
# ## Table 8: five losses
#
# Which loss is best, and is the paper's order found here? Each cell is the mean over seeds with its interval, then the
# paper's; "?" marks a cell that cannot be right. "at" is the value at the epoch of the lowest loss.


# %%
def show(comparison):
    labels = {label: trial for label, trial in experiments.SETS[comparison].items() if trial in found}
    table = experiments.table(found, labels)
    display(published.beside(table, comparison))
    cells = published.cells(comparison)
    display(paper.beside_paper(table, cells))
    return table


# %% tags=["preview-table8"]
table = show("losses")

# %% [markdown]
# Does BCE + 0.5 Dice come out ahead, as in the paper? An interval that holds zero may be luck of the seed. Losses on
# different scales cannot be compared by their lowest value, so the best epoch is each row's own.

# %%
for other in table.index.drop(experiments.BASE):
    print(experiments.ahead(table, experiments.BASE, other))

# %%
for cell in published.cells("losses").query("doubt != ''").itertuples():
    print(f"{cell.row}, {cell.column} {cell.value}: {cell.doubt}")

# %% [markdown]
# How do they learn? The paper's Dice has the sign of a score: going down, it drives the overlap to nothing, which is
# why it "cannot be optimised". Soft Dice has no term on the background.

# %% tags=["preview-losses"]
curves = experiments.histories(found, experiments.SETS["losses"])
panels = {"val_dice": "Dice, held out", "val_paper_accuracy": "the paper's accuracy", "val_binary_accuracy": "binary"}
paper.together(curves, panels)

# %% [markdown]
# ## Figure 10: 4 and 5 levels
#
# Does a fifth level bring anything? The paper finds none, and takes the smaller network.

# %%
if "levels" in COMPARE:
    table = show("levels")
    print(experiments.ahead(table, "5 levels", "4 levels"))
    display(paper.curves(experiments.histories(found, experiments.SETS["levels"])))

# %% [markdown]
# ## Figures 7 and 9: augmentation
#
# Does the gap between learned and held out close? Figure 7 is the paper's first course: BCE, patience 5 and no
# augmentation. From there to Figure 9 its Dice rises from 0.5 to 0.7; "without" changes the augmentation alone, and
# has no published number. Compare the grey line, what was learned, with the black one.

# %% tags=["preview-augmentation"]
if "augmentation" in COMPARE:
    table = show("augmentation")
    print(experiments.ahead(table, "with", "without"))
    print(experiments.ahead(table, "with", experiments.FIRST))
    display(paper.curves(experiments.histories(found, experiments.SETS["augmentation"])))

# %%
if "augmentation" in COMPARE:
    print(experiments.gap(experiments.histories(found, experiments.SETS["augmentation"])))

# %% [markdown]
# ## Attention, and neighbours
#
# What do the attentions bring, and the four neighbours? The paper proposes both and measures neither. One slice copied
# to three channels can express no more than one channel: any difference between those rows is noise.

# %%
if "attention" in COMPARE:
    table = show("attention")
    print(experiments.ahead(table, "with", "without"))
    display(paper.curves(experiments.histories(found, experiments.SETS["attention"])))

# %%
if "neighbours" in COMPARE:
    table = show("neighbours")
    print(experiments.ahead(table, "5 slices", "1 slice"))
    print(experiments.ahead(table, "one slice, 3 copies", "1 slice"))
    display(paper.curves(experiments.histories(found, experiments.SETS["neighbours"])))

# %% [markdown]
# ## Why does the accuracy wander?
#
# What does Keras' accuracy say of perfect masks? It compares which of three channels is largest. On background all
# three are near zero, so a thousandth on one channel decides over most pixels, and no mask has changed.

# %%
check = slices[held_out]
display(evidence.perfect_masks(evidence.truth_of(packed, check)).round(3))

# %% [markdown]
# And in training? "step" is how far it moves from one epoch to the next. Soft Dice has no term on the background, so
# its probabilities there are far from zero and keep an order; where the first organ is largest, as the commonest one
# may be, the accuracy agrees with the empty truth and looks splendid.

# %%
losses_here = {name: found[name] for name in experiments.SETS["losses"] if name in found}
display(evidence.accuracy_by_loss(losses_here, packed).round(3))

# %% [markdown]
# ## Do predictions shrink at the border?
#
# Below zero the predicted border lies inside the true one; the median, because false islands are far from any border.
# Does the loss decide, or the threshold? Where one threshold brings the line to zero, shrinking is a matter of the
# threshold and no fault of the network.

# %% tags=["preview-borders"]
drawing = {name: found[name] for name in ("BCE", "Dice", "BCE + Dice", experiments.BASE) if name in found}
bias = evidence.border_bias(drawing, slices)
paper.border_by_loss(bias)

# %%
bias.pivot_table("median_px", ["trained with", "organ"], "threshold", sort=False).astype(float).round(2)

# %% [markdown]
# ## What can Table 8 mean?
#
# Dice 0.7006 and IoU 0.7699: on which pixels? One prediction, read in every way that is in use. "off" is how far the
# IoU that belongs to the published Dice lies from the published one; "possible" compares with a perfect file.

# %%
counts = evidence.areas(found[experiments.BASE], packed)
reading = evidence.near(evidence.readings(counts))
display(reading.round(3))

# %%
best = reading.query("possible")["off"].abs().idxmin()
print(f"nearest to the published pair: {best}, IoU off by {reading.at[best, 'off']:+.3f}")

# %% [markdown]
# ## Do experts draw too generously?
#
# Can annotations that are wrong be found without looking at them all? Some are spoiled on purpose, unless the phantom
# came with faults; networks that never saw a case then say how far they disagree with its outlines.

# %%
known = planted.read(root)
count = FAULTS or max(1, slices["scan"].nunique() // 5)
spoiled, known = (slices, known) if len(known) else planted.plant(slices, count)
display(known)

# %% [markdown]
# Who judges? Networks that learned from the other folds, with the spoiled outlines among them: nobody knows beforehand
# which scans to leave out. The short form has two folds, each network half of the cases.

# %%
outlined = packed.remasked(spoiled)
parts = 2 if quick else min(FOLDS, slices["case"].nunique())
last = found[experiments.BASE][-1]  # its epochs tell whether a judge still fits
judges = experiments.cross(spoiled, kept / "faults", outlined, parts, deadline=ends, after=last, **course)
print(f"{len(judges)} of {parts} judges")

# %% [markdown]
# Are the spoiled scans at the top? Only scans whose judge is trained are ranked.

# %% tags=["preview-faults"]
if judges:
    ranked = evidence.disagreement(evidence.areas(judges, outlined), known)
    print(evidence.found_of(ranked))
    display(ranked.head(2 * len(known)).round(3))
    display(paper.ranking(ranked))

# %% [markdown]
# ## What to take home
#
# Are the paper's two gains found here, from augmentation and from BCE + 0.5 Dice? Where one is not, the sentence says
# what was measured that may stand in its way.

# %%
for other in ("no augmentation", "BCE", "BCE + Dice"):
    if other in found:
        print(experiments.why(found, experiments.BASE, other))

# %%
print("SHORT FORM: a rehearsal, no result" if quick else "long form", "on a phantom" * scans.is_phantom(root))
for comparison in COMPARE:
    labels = experiments.SETS[comparison]
    values = experiments.table(found, labels)[["Dice", "Dice +-", "host score", "host score +-"]]
    display(values.round(3))
