import numpy as np
import pandas as pd
import pytest

from kitlib import contest, rle, submission
from kitlib.data import scans
from kitlib.postprocess import __main__ as command
from kitlib.postprocess import baselines


@pytest.fixture(scope="module")
def hidden(competition):
    return scans.read(competition, "test")


def fake(case, day, masks):
    """A table of one scan with the given masks (D, H, W, organs)."""
    name = f"case{case}_day{day}"
    table = pd.DataFrame({"case": case, "day": day, "scan": name, "slice": range(1, len(masks) + 1)})
    table["id"] = [f"{name}_slice_{number:04d}" for number in table["slice"]]
    table["height"], table["width"] = masks.shape[1:3]
    for channel, organ in enumerate(contest.ORGANS):
        table[organ] = rle.encode_stack(masks[..., channel])
    return table


def box(depth, shape, first, last):
    masks = np.zeros((depth, *shape, 3), bool)
    masks[first:last, shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2, 1] = True
    return masks


def test_atlas_of_alike_cases_predicts_their_mask_at_any_size():
    train = pd.concat([fake(case, 0, box(16, (128, 128), 4, 12)) for case in (1, 2, 3)], ignore_index=True)
    test = fake(9, 0, box(8, (64, 256), 2, 6))
    rows = baselines.atlas(train, test)
    truth = scans.rows(test)["segmentation"]
    assert (rows["predicted"] == "").tolist() == (truth == "").tolist()
    for text, expected in zip(rows["predicted"], truth, strict=True):
        if expected:
            found, wanted = (rle.decode(one, tuple(test[["height", "width"]].iloc[0])) for one in (text, expected))
            assert (found & wanted).sum() / (found | wanted).sum() > 0.85


def test_slices_of_another_size_get_masks_of_their_own_size():
    train = pd.concat([fake(case, 0, box(16, (128, 128), 4, 12)) for case in (1, 2, 3)], ignore_index=True)
    test = fake(3, 5, box(8, (64, 256), 2, 6))
    test.loc[3, ["height", "width"]] = 40, 50
    for rows in (baselines.atlas(train, test), baselines.earlier_day(train, test)):
        masks = rows[rows["class"] == contest.ORGANS[1]].set_index(test["id"])["predicted"]
        own, usual = rle.decode(masks.iloc[3], (40, 50)), rle.decode(masks.iloc[4], (64, 256))
        assert own.mean() == pytest.approx(usual.mean(), abs=0.01)
        assert (masks == "").tolist() == (test[contest.ORGANS[1]] == "").tolist()


def test_best_threshold_is_found_on_cases_the_atlas_has_not_seen():
    agree = [fake(case, 0, box(16, (128, 128), 4, 12)) for case in range(4)]
    stray = fake(9, 0, box(16, (128, 128), 13, 15))
    threshold, score = baselines.best_threshold(pd.concat([*agree, stray], ignore_index=True))
    assert threshold > 0.25
    assert 0 < score < 1


def test_masks_of_the_earlier_day_are_copied_for_the_same_case_alone():
    masks = box(6, (20, 30), 1, 4)
    train = pd.concat([fake(1, 0, masks), fake(1, 5, masks[::-1]), fake(2, 0, masks)], ignore_index=True)
    test = pd.concat([fake(1, 3, masks), fake(3, 9, masks)], ignore_index=True)
    rows = baselines.earlier_day(train, test)
    assert rows["id"].unique().tolist() == test["id"][:6].tolist()
    assert rows["predicted"].tolist() == scans.rows(fake(1, 3, masks))["segmentation"].tolist()


def test_no_earlier_day_gives_no_rows():
    masks = box(6, (20, 30), 1, 4)
    assert baselines.earlier_day(fake(1, 5, masks), fake(1, 2, masks)).empty


def test_table_scores_the_truth_as_perfect_and_nothing_as_zero(competition, hidden, tmp_path):
    truth = pd.read_csv(competition / "truth.csv", dtype=str, keep_default_na=False)
    path = tmp_path / "submission.csv"
    submission.write(path, truth.rename(columns={"segmentation": "predicted"}), submission.expected_rows(hidden))
    table = baselines.table(competition, path)
    assert table.loc["this submission", "host score"] == 1
    assert table.loc["empty file", "host score"] == 0
    assert 0 < table.loc["atlas of the training masks", "host score"] < 1


def test_bad_submission_and_missing_truth_are_explained(competition, hidden, tmp_path):
    path = tmp_path / "submission.csv"
    submission.write(path, baselines.empty(hidden).iloc[1:])
    with pytest.raises(ValueError, match="1 row missing"):
        baselines.table(competition, path)
    with pytest.raises(FileNotFoundError, match=r"no truth\.csv"):
        baselines.table(tmp_path, path)


def test_command_prints_the_table(competition, hidden, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(baselines, "THRESHOLDS", (0.3,))
    path = tmp_path / "submission.csv"
    submission.write(path, baselines.empty(hidden))
    assert command.main([str(competition), str(path)]) == 0
    assert "atlas of the training masks" in capsys.readouterr().out


def test_command_explains_a_folder_without_truth(tmp_path, capsys):
    assert command.main([str(tmp_path), str(tmp_path / "submission.csv")]) == 1
    assert "has no truth.csv; give a synthetic competition" in capsys.readouterr().out
