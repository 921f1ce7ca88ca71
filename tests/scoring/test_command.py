"""The command: a submission in every convention, and faults that name file, row and remedy."""

import pandas as pd
import pytest

from kitlib.scoring import __main__ as command
from kitlib.scoring import conventions, ledger, metric
from tests.scoring.volumes import random_scans, tables


@pytest.fixture
def files(tmp_path):
    """Truth, submission and sizes as files."""
    truth, prediction, slices = tables(*random_scans())
    paths = {name: tmp_path / f"{name}.csv" for name in ("truth", "submission", "sizes")}
    for name, table in (("truth", truth), ("submission", prediction), ("sizes", slices)):
        table.to_csv(paths[name], index=False)
    return paths


def run(files, *more):
    return command.main([str(files["truth"]), str(files["submission"]), "--sizes", str(files["sizes"]), *more])


def test_command_prints_the_panel_and_the_worst_scans(files, capsys):
    assert run(files, "--millimetres", "--convention", "ones") == 0
    printed, bar = capsys.readouterr()
    for name in conventions.CONVENTIONS:
        assert name in printed
    assert f"{metric.score(*tables(*random_scans())).value:.5f}" in printed
    assert "ones, worst scans" in printed
    assert "hausdorff_95_mm" in printed
    assert "3/3" in bar


def test_command_prints_the_ledger_whose_points_sum_to_the_loss(files, capsys):
    assert run(files, "--ledger", "--quiet") == 0
    printed = capsys.readouterr().out
    score = metric.score(*tables(*random_scans())).value
    assert f"host score {score:.4f}: {1 - score:.4f} points lost" in printed
    assert "far island, stomach (0.0" in printed
    assert run(files, "--ledger", "2", "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    largest = ledger.table(*tables(*random_scans()))["voxels"].head(2).astype(str).tolist()
    assert [line.split()[-1] for line in lines[: lines.index("")]] == ["voxels", *largest]


def as_gzip(path):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.to_csv(path, index=False, compression="gzip")


def as_excel_does(path):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.to_csv(path, sep=";", encoding="utf-16")


@pytest.mark.parametrize("change", [as_gzip, as_excel_does])
@pytest.mark.parametrize("which", ["truth", "submission", "sizes"])
def test_command_scores_csv_files_of_other_programs(files, capsys, which, change):
    change(files[which])
    assert run(files, "--quiet") == 0
    assert f"{metric.score(*tables(*random_scans())).value:.5f}" in capsys.readouterr().out


def test_command_names_a_malformed_mask_of_the_truth(files, capsys):
    text = files["truth"].read_text(encoding="utf-8")
    files["truth"].write_text(text.replace("slice_0001,stomach,", "slice_0001,stomach,7 1 3", 1), encoding="utf-8")
    assert run(files) == 1
    assert "truth, case1_day0_slice_0001 stomach: run-length text '7 1 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (
            lambda text: text.replace("case1_day0_slice_0001,small_bowel,", "case1_day0_slice_0001,big_bowel,", 1),
            "big_",
        ),
        (lambda text: "\n".join(text.splitlines()[:-1]), "missing: case3_day0_slice_0012 stomach"),
        (lambda text: text + "case1_day0_slice_0001,stomach,\n", "doubled: case1_day0_slice_0001 stomach"),
        (
            lambda text: text.replace("slice_0001,stomach,", "slice_0001,stomach,1 2 3", 1),
            "slice_0001 stomach: run-length",
        ),
        (lambda text: text.replace("predicted", "rle", 1), "column predicted is missing"),
        (lambda text: "", "is empty"),
        (lambda text: text.replace("stomach,", "stomach,1,2", 1), "line 4: has 4 fields"),
        (lambda text: text.replace("stomach", "m\udce4gen", 1), "line 4: class"),
    ],
)
def test_command_names_the_row_and_the_fault(files, capsys, fault, named):
    files["submission"].write_text(
        fault(files["submission"].read_text(encoding="utf-8")), errors="surrogateescape", encoding="utf-8"
    )
    assert run(files) == 1
    printed = capsys.readouterr().out
    assert named in printed
    assert all(line.count(str(files["submission"])) == 1 for line in printed.splitlines())


@pytest.mark.parametrize("size", ["tall", "0", "", "inf", "266.5"])
def test_command_names_a_size_that_is_none(files, capsys, size):
    pd.read_csv(files["sizes"]).assign(height=size).to_csv(files["sizes"], index=False)
    assert run(files) == 1
    assert f"case1_day0_slice_0001 has height '{size}'; expected a whole number above 0" in capsys.readouterr().out


def test_command_names_a_truth_row_with_too_many_fields(files, capsys):
    files["truth"].write_text("id,class,segmentation\ncase1_day0_slice_0001,stomach,1,2\n", encoding="utf-8")
    assert run(files) == 1
    assert (
        "line 2: has 4 fields, but the first line has 3: 'case1_day0_slice_0001,stomach,1,2'" in capsys.readouterr().out
    )


def test_command_says_what_millimetres_need(files, capsys):
    pd.read_csv(files["sizes"]).drop(columns="spacing_mm").to_csv(files["sizes"], index=False)
    assert run(files) == 0
    capsys.readouterr()
    assert run(files, "--millimetres") == 1
    assert "no column spacing_mm, which --millimetres needs: add it" in capsys.readouterr().out


def test_command_names_a_slice_without_a_size(files, capsys):
    files["sizes"].write_text("\n".join(files["sizes"].read_text(encoding="utf-8").splitlines()[:-1]), encoding="utf-8")
    assert run(files) == 1
    assert "no size for 1 of 24 slices of the truth, first case3_day0_slice_0012" in capsys.readouterr().out


def test_command_refuses_a_truth_that_leaves_slices_out(files, capsys):
    """Else a truth without its empty slices would make each scan less deep, and every distance along z longer."""
    for name in ("truth", "submission"):
        lines = files[name].read_text(encoding="utf-8").splitlines(keepends=True)
        files[name].write_text("".join(line for line in lines if "case2_day0_slice_0005" not in line), encoding="utf-8")
    assert run(files) == 1
    assert "the truth lacks 1 slices of its scans, first case2_day0_slice_0005" in capsys.readouterr().out


def test_command_names_a_truth_without_masks(files, capsys):
    files["truth"].write_text("id,class\n", encoding="utf-8")
    assert run(files) == 1
    assert "column segmentation is missing" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["--worst -3", "--ledger -1"])
def test_command_refuses_negative_numbers_of_rows(files, capsys, arguments):
    assert run(files, *arguments.split()) == 1
    assert f"{arguments}: expected a whole number of 0 or more" in capsys.readouterr().out


def test_command_notices_that_truth_and_submission_have_changed_places(files, capsys):
    swapped = files | {"truth": files["submission"], "submission": files["truth"]}
    names = [pd.read_csv(files[name]).columns[-1] for name in ("truth", "submission")]
    assert names == ["segmentation", "predicted"]
    assert run(swapped) == 1
    assert "name the truth first, then the submission" in capsys.readouterr().out
    assert run(files | {"truth": files["submission"]}, "--quiet") == 0  # a prediction beside another


def test_command_names_a_folder_and_a_file_that_is_not_there(files, capsys):
    folder = files["truth"].parent
    for name, words in (
        (folder, f"{folder}: is a folder, with sizes.csv, submission.csv, truth.csv in it"),
        (folder / "truht.csv", "truht.csv does not exist; "),
    ):
        assert run(files | {"truth": name}) == 1
        assert words in capsys.readouterr().out
