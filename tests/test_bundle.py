"""What travels to Kaggle: built from a run, complete, and described as Kaggle wants it."""

import ast
import importlib.util
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from kitlib import runs
from kitlib.runs import manifest

ROOT = Path(__file__).parents[1]
# The names that Kaggle's image gives to what constraints-kaggle.txt pins, and what it has beside them.
IMAGE = {
    "tensorflow",
    "keras",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "cv2",
    "matplotlib",
    "tqdm",
    "IPython",
    "PIL",
    "packaging",
}


def load():
    spec = importlib.util.spec_from_file_location("bundle", ROOT / "kaggle/bundle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cross_validation(tmp_path):
    for name in ("cv/fold0", "cv/fold1"):
        runs.write_record(tmp_path / name, {"parameters": {}})
        (tmp_path / name / "model.keras").write_bytes(b"weights")
        (tmp_path / name / "oof").mkdir()
        (tmp_path / name / "oof/case1_day0.npy").write_bytes(b"large")
    (tmp_path / "cv/folds.csv").write_text("case,fold\n", encoding="utf-8")
    return tmp_path / "cv"


def test_everything_that_importing_the_kit_needs_is_in_kaggles_image():
    for path in [*(ROOT / "kitlib").glob("*.py"), *(ROOT / "notebooks").glob("0[1-4]_*.py")]:
        for node in ast.parse(
            path.read_text(encoding="utf-8")
        ).body:  # what a function imports when asked to is its user's affair
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names}:
                assert name in IMAGE | {"kitlib"} | sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.mark.slow
def test_bundle_holds_wheel_runs_and_descriptions(cross_validation, tmp_path):
    target = load().build([cross_validation], "somebody", tmp_path / "bundle")
    dataset = target / "dataset"
    (wheel,) = dataset.glob("kitlib-*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert "kitlib/inference.py" in content.namelist()
    found = sorted(path.relative_to(dataset / "runs").as_posix() for path in (dataset / "runs").rglob("*.*"))
    folds = [f"cv/fold{fold}/{name}" for fold in (0, 1) for name in ("model.keras", "run.json")]
    assert found == ["cv/fold0/model.keras", *folds[1:], "cv/folds.csv", "manifest.json"]
    assert manifest.check(dataset / "runs") == {}
    about = json.loads((dataset / "dataset-metadata.json").read_text(encoding="utf-8"))
    assert about["id"] == "somebody/uwm-kit-bundle"
    for notebook in (ROOT / "notebooks").glob("0*.ipynb"):
        folder = target / "kernels" / notebook.stem
        about = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
        assert (folder / about["code_file"]).read_text(encoding="utf-8") == notebook.read_text(encoding="utf-8")


def test_inference_has_no_internet_and_two_pinned_gpus():
    about = load().kernel("03_inference", "somebody")
    assert about["enable_internet"] is False
    assert about["enable_gpu"] is True
    assert about["machine_shape"] == "NvidiaTeslaT4"
    assert about["competition_sources"] == ["uw-madison-gi-tract-image-segmentation"]
    assert about["dataset_sources"] == ["somebody/uwm-kit-bundle"]
    assert about["id"].split("/")[1] == about["title"]
    assert re.fullmatch(r"[a-z0-9-]{5,50}", about["title"])


def test_notebooks_that_train_get_the_output_to_go_on_with():
    bundle, last = load(), "somebody/uwm-kit-02-train"
    assert bundle.kernel("02_train", "somebody")["kernel_sources"] == []
    for name in ("02_train", "05_experiments"):
        assert bundle.kernel(name, "somebody", outputs=[last])["kernel_sources"] == [last]
    assert bundle.kernel("03_inference", "somebody", outputs=[last])["kernel_sources"] == []
    assert bundle.kernel("02_train", "somebody")["id"] == last


def test_the_newest_cross_validation_keeps_the_settings_of_all_its_folds(cross_validation, tmp_path, monkeypatch):
    (cross_validation / "settings.json").write_text("{}", encoding="utf-8")
    bundle = load()
    monkeypatch.setattr(bundle, "_wheel", lambda target: None)
    assert bundle.newest(tmp_path) == [cross_validation]
    runs_there = bundle.build(bundle.newest(tmp_path), "somebody", tmp_path / "bundle") / "dataset/runs"
    assert (runs_there / "cv/settings.json").is_file()
    assert (runs_there / "cv/fold1/model.keras").is_file()
    assert not list(runs_there.rglob("*.npy"))
    runs.write_record(cross_validation / "fold0", {"parameters": {}, "best_weights": "unfinished epoch"})
    runs_there = bundle.build([cross_validation], "somebody", tmp_path / "bundle") / "dataset/runs"
    assert [path.parent.name for path in runs_there.rglob("run.json")] == ["fold1"]


def test_two_runs_of_one_name_are_refused_before_anything_is_deleted(cross_validation, tmp_path, monkeypatch):
    bundle = load()
    monkeypatch.setattr(bundle, "_wheel", lambda target: None)
    other = shutil.copytree(cross_validation, tmp_path / "older" / "cv")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/kept").touch()
    with pytest.raises(ValueError, match=r"cv and .*older.cv are both called cv; rename"):
        bundle.build([cross_validation, other], "somebody", tmp_path / "bundle")
    assert (tmp_path / "bundle/kept").is_file()
    with pytest.raises(ValueError, match="is named twice"):
        bundle.build([cross_validation, cross_validation], "somebody", tmp_path / "bundle")


def test_a_folder_without_a_finished_run_is_refused(tmp_path, monkeypatch):
    bundle = load()
    monkeypatch.setattr(bundle, "_wheel", lambda target: None)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        bundle.build([tmp_path], "somebody", tmp_path / "bundle")
