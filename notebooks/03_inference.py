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
# The newest run predicts the test scans, one at a time, and writes `submission.csv`: one row per slice and organ, in
# the order of the sample. It needs no internet. On a phantom, whose hidden part is known, the file is scored at the
# end.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if not importlib.util.find_spec("kitlib"):  # on Kaggle: the attached wheel; in a checkout: the folder above
    wheels = [wheel for place in ("*", "datasets/*/*") for wheel in Path("/kaggle/input").glob(f"{place}/kitlib-*.whl")]
    sys.path.insert(0, str(Path.cwd().parent))
    for wheel in wheels[:1]:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel], check=True)

from kitlib import runtime

# %% tags=["parameters"]
DATA = ""  # folder of the competition; empty: found, see kitlib.scans.find_root
RUNS = "../runs"  # run folders to choose from
RUN = ""  # the run to use; empty: the newest
OUTPUT = ""  # empty: submission.csv here on Kaggle, ../submissions/submission.csv elsewhere

# %%
import pandas as pd
from IPython.display import display

from kitlib import baselines, contest, figures_scans, inference, postprocess, runs, scans, submission

# %% [markdown]
# ## What is there
#
# Which scans are asked for, and which network answers? The public test folder of the competition is empty: then the
# file holds a header and nothing else, and the scoring rerun fills both.

# %%
root = runtime.competition(DATA)
slices = scans.read(root, "test")
sample = submission.read(root / "sample_submission.csv")
print(runtime.versions())
print(f"{len(slices):,} slices in {slices['scan'].nunique()} scans; the sample asks for {len(sample):,} rows")

# %%
found = runs.find(RUNS)
assert found, f"no finished run below {Path(RUNS).resolve()}: run 02_train first, or attach a run"
run = next(run for run in reversed(found) if not RUN or run.folder.name == RUN)
print(f"run {run.folder.name}: held-out score {run.score()['score']:.3f}, {run.spec}")

# %% [markdown]
# ## Prediction
#
# How much does each scan hold? Probabilities come back at the size of the files, become masks by the run's settings
# (04_score tunes them; before that, a threshold of one half, no specks, one stomach), and masks become text.

# %%
lines = [submission.expected_rows(slices.iloc[:0]).assign(predicted="")]
for name, probabilities in inference.predict([run.folder], slices):
    rows = slices[slices["scan"] == name]
    lines.append(submission.encode(rows, postprocess.masks(probabilities, run.settings)))
predicted = pd.concat(lines, ignore_index=True)

# %%
filled = predicted.assign(scan=predicted["id"].str.rsplit("_slice_", n=1).str[0], mask=predicted["predicted"] != "")
filled.pivot_table(index="scan", columns="class", values="mask", aggfunc="sum").reindex(columns=contest.ORGANS)

# %% [markdown]
# ## The file
#
# Would the competition take it? Every row of the sample is there, in its order, and every mask fits its slice.

# %%
target = Path(OUTPUT or ("submission.csv" if runtime.on_kaggle() else "../submissions/submission.csv"))
submission.write(target, predicted, sample)
problems = submission.check(target, slices, sample)
assert not problems, problems
print(f"{target.resolve()}: {len(sample):,} rows, {(predicted['predicted'] != '').sum():,} with a mask, no problems")

# %% [markdown]
# ## A look
#
# Does it look like anatomy? Slices along the first scan, with what was predicted.

# %% tags=["preview-submission"]
if len(slices):
    annotated = scans.with_masks(slices, predicted)
    display(figures_scans.contact_sheet(annotated[annotated["scan"] == annotated["scan"].iloc[0]]))

# %% [markdown]
# ## Score
#
# Is it better than habit? The atlas puts every organ where the training cases had it; the earlier day copies the masks
# of the same case. Only a phantom can answer here: the competition keeps its truth to itself.

# %%
if (root / "truth.csv").is_file():
    display(baselines.table(root, target).round(3))
