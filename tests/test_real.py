"""The kit on real scans and annotations, where KITLIB_REAL_DATA names a folder with them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kitlib import contest, inference, postprocess, rle, submission
from kitlib.data import inputs, scans
from kitlib.inference import networks, rescue
from kitlib.inference.faults import Faults
from kitlib.postprocess import intervals
from kitlib.scoring import metric

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def index(real):
    """The table of all training slices, from the list of their files."""
    return scans.read(real, "test", index=real / "slices.csv.gz")


@pytest.fixture(scope="module")
def annotations(real):
    return pd.read_csv(real / "masks.csv", dtype=str, keep_default_na=False)


def test_index_gives_every_published_count_that_needs_no_mask(index, real):
    assert len(index) == 38_496
    assert index["case"].nunique() == 85
    assert index["scan"].nunique() == 274
    assert index.groupby("scan").size().value_counts().to_dict() == {144: 259, 80: 15}
    per_case = index.groupby("case")["scan"].nunique().value_counts().sort_index()
    assert per_case.tolist() == [9, 8, 45, 2, 20, 1]
    sizes = index.groupby(["height", "width"]).size().to_dict()
    assert sizes == {(266, 266): 25_920, (310, 360): 11_232, (276, 276): 1_200, (234, 234): 144}
    masked = pd.read_csv(real / "slices.csv.gz")["has_mask"]
    assert masked.value_counts().to_dict() == {False: 21_906, True: 16_590}


def test_sizes_read_from_names_are_those_listed(index, real):
    listed = pd.read_csv(real / "slices.csv.gz").set_index("id").loc[index["id"]]
    assert (listed["height"].to_numpy() == index["height"]).all()
    assert (listed["width"].to_numpy() == index["width"]).all()


def test_every_real_mask_goes_both_ways_byte_for_byte(index, annotations):
    assert len(annotations) == 5_616
    sizes = index.set_index("id")[["height", "width"]]
    scan = annotations["id"].str.rsplit("_slice_", n=1).str[0]
    for _, rows in annotations.groupby(scan):
        shape = tuple(int(side) for side in sizes.loc[rows["id"].iloc[0]])
        texts = rows["segmentation"].tolist()
        masks = rle.decode_stack(texts, shape)
        assert rle.encode_stack(masks) == texts
        assert [rle.area(text) for text in texts] == masks.sum(axis=(1, 2)).tolist()


def test_every_real_organ_is_one_run_of_slices_that_decoding_finds_again(annotations):
    """Also where the presence is weak, and wrong on single slices."""
    filled = (annotations["segmentation"] != "").groupby([annotations["id"], annotations["class"]]).first()
    filled = filled.unstack("class")[list(contest.ORGANS)]
    for _, part in filled.groupby(filled.index.map(contest.scan_of)):
        truth = part.to_numpy()
        ends = np.array([np.flatnonzero(line)[[0, -1]] for line in truth.T])
        assert (truth.sum(axis=0) == ends[:, 1] - ends[:, 0] + 1).all()
        assert ends[0, 1] == ends[1, 1]
        presence = np.where(truth, 0.6, 0.4)
        middle = ends.sum(axis=1) // 2
        presence[middle, range(3)] = 0.2
        presence[2, :] = 0.7
        assert np.array_equal(intervals.runs(presence, np.zeros(3)), ends)


def test_scans_are_read_from_the_official_layout(real):
    slices = scans.read(real)
    assert slices.groupby("scan").size().to_dict() == {"case16_day0": 144, "case6_day20": 144}
    assert set(zip(slices["height"], slices["width"], strict=True)) == {(310, 360)}
    assert (scans.organ_count(slices) > 0).any()
    assert list(contest.ORGANS) == list(slices.columns[-3:])


@pytest.mark.slow
def test_documented_command_trains_on_one_scan_and_scores_the_other(real, tmp_path):
    command = [sys.executable, "-m", "kitlib.training", str(real), "--held-out", "case16_day0", "--runs", str(tmp_path)]
    options = ["--preset", "short", "--epochs", "1", "--size", "64", "--submission", str(tmp_path / "submission.csv")]
    printed = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "host score" in printed
    assert "no problems" in printed
    assert (tmp_path / "submission.csv").is_file()
    assert len(list(tmp_path.glob("*/figures/*.png"))) == 2


@pytest.fixture
def hidden(real, tmp_path):
    """The real scans as the scoring rerun shows them: test/, a filled sample, nothing else."""
    known = scans.read(real)
    for name, rows in known.groupby("scan"):
        place = tmp_path / "hidden/test" / name.split("_")[0] / name
        place.mkdir(parents=True)
        (place / "scans").symlink_to(Path(rows["path"].iloc[0]).parent)
    sample = submission.expected_rows(known).assign(predicted="")
    submission.write(tmp_path / "hidden/sample_submission.csv", sample)
    return tmp_path / "hidden"


def test_a_network_that_knows_the_masks_scores_full_marks_through_the_whole_way(real, hidden, tmp_path):
    known, spec = scans.read(real), inputs.InputSpec()
    slices, sample = rescue.read(hidden, Faults())
    assert slices["id"].tolist() == known["id"].tolist()
    truth = [
        [
            inputs.prepare_masks(rle.decode_stack(rows[organ].tolist(), (310, 360)), spec).astype(np.float32)
            for organ in contest.ORGANS
        ]
        for _, rows in known.groupby("scan", sort=False)
    ]
    answers = iter(np.stack([np.concatenate(organ) for organ in zip(*truth, strict=True)], axis=-1))
    member = networks.Member("oracle", spec, lambda images: np.stack([next(answers) for _ in images]))
    target = tmp_path / "submission.csv"
    inference.submit([member], slices, sample, target, Faults(), settings=postprocess.Settings(), progress=False)
    assert submission.check(target, slices, sample) == []
    assert metric.score(scans.rows(known), submission.read(target), known).value > 0.97


@pytest.mark.slow
def test_real_scans_as_a_hidden_test_set_go_through_the_notebook_and_are_scored(real, hidden, tmp_path):
    from kitlib import training

    known = scans.read(real)
    run = training.fit_fold(
        known,
        tmp_path / "runs/tiny",
        held_out=known["scan"] == "case16_day0",
        spec=inputs.InputSpec(32, 32, depth=3),
        recipe=training.Recipe(network_options={"levels": 2, "base": 4, "window_stages": (0,)}, epochs=1),
    )
    probabilities = run.probabilities("case16_day0").reshape(-1, 3)
    levels = tuple(float(level) for level in np.quantile(probabilities, 0.95, axis=0))  # one epoch reaches no half
    (run.folder / "settings.json").write_text(postprocess.Settings(threshold=levels).to_json(), encoding="utf-8")
    target = tmp_path / "submission.csv"
    command = [sys.executable, str(ROOT / "notebooks/execute.py"), "03_inference"]
    given = {"DATA": hidden, "RUNS": tmp_path / "runs", "OUTPUT": target, "HOURS": 1.0}
    options = [text for name, value in given.items() for text in ("--set", f"{name}={value}")]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    assert submission.check(target, known, submission.read(hidden / "sample_submission.csv")) == []
    score = metric.score(scans.rows(known), submission.read(target), known)
    assert 0 < score.value < 1
