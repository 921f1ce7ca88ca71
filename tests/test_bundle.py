"""The bundle for Kaggle: complete, described by Kaggle's rules, and never in the place of other files."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kitlib import runs
from kitlib.runs import manifest

ROOT = Path(__file__).parents[1]
# Import names of the packages in constraints-kaggle.txt, and of others in Kaggle's image.
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
    "filelock",  # transformers, datasets and ray of Kaggle's image require it
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
    for path in [*(ROOT / "kitlib").rglob("*.py"), *(ROOT / "notebooks").glob("0[1-5]_*.py")]:
        # imports inside functions are not needed until the function is called
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names}:
                assert name in IMAGE | {"kitlib"} | sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The kit's wheel, as the bundle holds it."""
    folder = tmp_path_factory.mktemp("wheel")
    load()._wheel(folder)
    (path,) = folder.glob("kitlib-*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_every_file_of_kitlib_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as content:
        found = {name for name in content.namelist() if ".dist-info/" not in name}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "kitlib").rglob("*") if path.is_file()}
    assert found == {name for name in files if "__pycache__" not in name}
    rooms = {path.name for path in (ROOT / "kitlib").iterdir() if (path / "__init__.py").is_file()}
    assert {name.split("/")[1] for name in found if name.count("/") > 1} == rooms


IMPORT = """
import importlib, pkgutil, sys
import kitlib
for module in pkgutil.walk_packages(kitlib.__path__, "kitlib."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
print(kitlib.__file__)
print(importlib.util.find_spec("phantom"))
"""


@pytest.mark.slow
def test_every_room_is_imported_from_the_wheel_in_a_fresh_environment(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh"], check=True)
    (packages,) = (tmp_path / "fresh").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(packages)
    (packages / "image.pth").write_text(f"{Path(np.__file__).parents[1]}\n", encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [tmp_path / "fresh/bin/python", "-c", IMPORT],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *modules, place, phantom = done.stdout.split()
    assert len(modules) > 40
    assert Path(place).is_relative_to(packages)
    assert phantom == "None"


@pytest.mark.slow
def test_bundle_holds_wheel_runs_and_descriptions(cross_validation, wheel, tmp_path, monkeypatch):
    bundle = load()
    monkeypatch.setattr(bundle, "_wheel", lambda target: shutil.copy2(wheel, target))
    target = bundle.build([cross_validation], "somebody", tmp_path / "bundle")
    dataset = target / "dataset"
    assert (dataset / wheel.name).is_file()
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
    assert bundle.build([cross_validation], "somebody", target) == target, "an older bundle is replaced"


def test_inference_has_no_internet_and_two_pinned_gpus():
    about = load().kernel("03_inference", "somebody")
    assert about["enable_internet"] is False
    assert about["enable_gpu"] is True
    assert about["machine_shape"] == "NvidiaTeslaT4"
    assert about["competition_sources"] == ["uw-madison-gi-tract-image-segmentation"]
    assert about["dataset_sources"] == ["somebody/uwm-kit-bundle"]
    assert about["id"].split("/")[1] == about["title"]
    assert re.fullmatch(r"[a-z0-9-]{5,50}", about["title"])


def test_notebooks_that_train_get_the_output_to_resume():
    bundle, last = load(), "somebody/uwm-kit-02-train"
    assert bundle.kernel("02_train", "somebody")["kernel_sources"] == []
    for name in ("02_train", "05_experiments"):
        assert bundle.kernel(name, "somebody", outputs=[last])["kernel_sources"] == [last]
    assert bundle.kernel("03_inference", "somebody", outputs=[last])["kernel_sources"] == []
    assert bundle.kernel("02_train", "somebody")["id"] == last


@pytest.fixture
def bundle(monkeypatch):
    """The module, with an empty file for a wheel."""
    module = load()
    monkeypatch.setattr(module, "_wheel", lambda target: (target / "kitlib-0.2.0-py3-none-any.whl").touch())
    return module


def test_the_newest_cross_validation_keeps_the_settings_of_all_its_folds(cross_validation, tmp_path, bundle, capsys):
    (cross_validation / "settings.json").write_text("{}", encoding="utf-8")
    (cross_validation / "weight.json").write_text("0.5", encoding="utf-8")
    assert bundle.newest(tmp_path) == [cross_validation]
    runs_there = bundle.build(bundle.newest(tmp_path), "somebody", tmp_path / "bundle") / "dataset/runs"
    assert (runs_there / "cv/settings.json").is_file()
    assert runs.read(runs_there / "cv/fold1").weight == 0.5
    assert (runs_there / "cv/fold1/model.keras").is_file()
    assert not list(runs_there.rglob("*.npy"))
    runs.write_record(cross_validation / "fold0", {"parameters": {}, "trained_epochs": 0})
    runs_there = bundle.build([cross_validation], "somebody", tmp_path / "bundle") / "dataset/runs"
    assert [path.parent.name for path in runs_there.rglob("run.json")] == ["fold1"]
    assert f"left out: {cross_validation / 'fold0'} stopped within its first epoch" in capsys.readouterr().out


@pytest.mark.parametrize("named", [False, True])
def test_a_gate_and_its_segmenter_are_taken_together_without_presence_or_probabilities(tmp_path, bundle, named):
    pair = tmp_path / "runs/pair"  # as 02_train lays them out
    for ended, name in enumerate(("gate", "segmenter")):
        for fold in (0, 1):
            folder = pair / name / f"fold{fold}"
            runs.write_record(folder, {"recipe": {"role": name}, "ended": str(ended)})
            (folder / "model.keras").write_bytes(b"weights")
            runs.write_probabilities(folder, "case1_day0", np.zeros((2, 1, 1, 3)))
            runs.write_presence(folder, "case1_day0", np.zeros((2, 3)))
        (pair / name / "folds.csv").write_text("case,fold\n1,0\n2,1\n", encoding="utf-8")
    (pair / "segmenter/settings.json").write_text('{"ends": "interval"}', encoding="utf-8")
    assert bundle.newest(tmp_path / "runs") == [pair / "gate", pair / "segmenter"]
    chosen = [pair] if named else bundle.newest(tmp_path / "runs")
    there = bundle.build(chosen, "somebody", tmp_path / "bundle") / "dataset/runs"
    found = runs.choose(there.parent, bundle=True).folders
    place = there / "pair" if named else there
    names = [f"{name}/fold{fold}" for name in ("gate", "segmenter") for fold in (0, 1)]
    assert [path.relative_to(place).as_posix() for path in found] == names
    assert [runs.read(path).role for path in found] == ["gate", "gate", "segmenter", "segmenter"]
    assert runs.choose_settings(found)[0].ends == "interval"
    assert len(list(there.rglob("folds.csv"))) == 2
    assert not list(there.rglob("*.npy"))


def test_an_encoders_weights_are_taken_with_their_sum_and_found_where_they_are_attached(tmp_path, bundle, monkeypatch):
    from kitlib import contest
    from kitlib.models import encoders, weights

    name, layers = "efficientnetv2-b0", {"stem_conv": [np.ones((3, 3, 3, 2), np.float32)], "top_bn": [np.zeros(2)]}
    source = weights.write(tmp_path / "downloaded.npz", layers)
    found = encoders.find
    monkeypatch.setattr(encoders, "find", lambda name: source)
    target = bundle.build([], "somebody", tmp_path / "bundle", encoder=name)
    kept = target / f"dataset/runs/encoders/{name}.npz"
    assert list(manifest.files(kept.parents[1])) == [kept]
    assert manifest.check(kept.parents[1]) == {}
    monkeypatch.setattr(contest, "KAGGLE_INPUT", target)
    monkeypatch.delenv("KITLIB_ENCODERS", raising=False)
    assert found(name, download=False) == kept
    assert list(encoders.arrays(name, kept)) == ["stem_conv"]
    assert bundle.build([], "somebody", target, encoder=name) == target, "an older bundle is replaced"
    assert bundle.own_files(target) == []


def test_the_notebooks_are_those_of_the_scripts(cross_validation, tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(bundle.generate, "generate", lambda script: f"{script.stem} as edited")
    target = bundle.build([cross_validation], "somebody", tmp_path / "bundle")
    for script in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"):
        notebook = target / "kernels" / script.stem / f"{script.stem}.ipynb"
        assert notebook.read_text(encoding="utf-8") == f"{script.stem} as edited"


@pytest.mark.parametrize("text", ['{"threshold": ["0.5", 0.5, 0.5]}', '{"treshold": [0.5, 0.5, 0.5]}', ""])
def test_settings_that_were_damaged_by_hand_are_refused(cross_validation, tmp_path, bundle, text):
    (cross_validation / "fold1/settings.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"fold1.settings\.json"):
        bundle.build([cross_validation], "jane", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_name_are_refused(cross_validation, tmp_path, bundle):
    other = shutil.copytree(cross_validation, tmp_path / "older" / "cv")
    with pytest.raises(ValueError, match=r"cv and .*older.cv are both called cv; rename"):
        bundle.build([cross_validation, other], "somebody", tmp_path / "bundle")
    with pytest.raises(ValueError, match="is named twice"):
        bundle.build([cross_validation, cross_validation], "somebody", tmp_path / "bundle")


def test_a_folder_without_a_finished_run_is_refused(tmp_path, bundle):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        bundle.build([tmp_path], "somebody", tmp_path / "bundle")
    with pytest.raises(FileNotFoundError, match="run 02_train first"):
        bundle.newest(tmp_path)


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "own",
    [
        "thesis.txt",
        "dataset/notes.md",
        "dataset/runs/mine/run.json",
        "kernels/02_train/output.csv",
        "src/a/b.py",
        ".env",
        "~draft",
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_a_folder_with_other_files_is_refused_and_stays(cross_validation, tmp_path, bundle, own, older):
    target = tmp_path / "bundle"
    if older:
        bundle.build([cross_validation], "somebody", target)
    (target / own).parent.mkdir(parents=True, exist_ok=True)
    (target / own).write_text("years of work", encoding="utf-8")
    before = everything(target)
    with pytest.raises(ValueError, match=f"{Path(own).name} is not part of a bundle; move it, or choose another --out"):
        bundle.build([cross_validation], "somebody", target)
    assert everything(target) == before


@pytest.mark.parametrize("name", [".DS_Store", "dataset/._kitlib.whl", "kernels/Thumbs.db"])
def test_what_a_file_manager_has_left_keeps_no_bundle_from_being_replaced(cross_validation, tmp_path, bundle, name):
    target = bundle.build([cross_validation], "somebody", tmp_path / "bundle")
    (target / name).write_bytes(b"litter")
    assert not (bundle.build([cross_validation], "somebody", target) / name).exists()


@pytest.mark.parametrize("place", ["bundle", "bundle/dataset/runs/cv", "bundle/kept/run"])
def test_a_run_inside_the_target_is_refused_and_stays(cross_validation, tmp_path, bundle, place):
    target = tmp_path / "bundle"
    shutil.copytree(cross_validation, tmp_path / place, dirs_exist_ok=True)
    before = everything(target)
    with pytest.raises(ValueError, match="which would be replaced; move the run"):
        bundle.build([tmp_path / place], "somebody", target)
    assert everything(target) == before


def test_a_bundle_that_cannot_be_built_leaves_the_older_one(cross_validation, tmp_path, bundle, monkeypatch):
    target = bundle.build([cross_validation], "somebody", tmp_path / "bundle")
    before = everything(target)

    def fail(target):
        raise subprocess.CalledProcessError(1, "pip wheel")

    monkeypatch.setattr(bundle, "_wheel", fail)
    with pytest.raises(subprocess.CalledProcessError):
        bundle.build([cross_validation], "another", target)
    assert everything(target) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("place", ["cv/fold1", "cv"])
def test_runs_trained_on_a_phantom_are_refused_unless_told(cross_validation, tmp_path, bundle, place):
    runs.write_record(cross_validation / "fold1", {"ended": "9", "data": {"kind": "phantom"}})
    with pytest.raises(ValueError, match=r"fold1 was trained on phantom data; name another run, or add --any-data"):
        bundle.build([tmp_path / place], "somebody", tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"fold1 was trained on phantom data, not competition data.*--any-data"):
        bundle.newest(tmp_path)
    assert bundle.newest(tmp_path, any_data=True) == [cross_validation]
    assert bundle.build([tmp_path / place], "somebody", tmp_path / "bundle", any_data=True).is_dir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: --user"),
        (["--user", "USERNAME"], "argument --user: 'USERNAME' is the placeholder"),
        (["--user", "Jane Doe"], "argument --user: 'Jane Doe' must have letters, digits and hyphens only"),
        (["--user", "jane_doe"], "argument --user: 'jane_doe' must have letters"),
        (["--user", ""], "argument --user: '' must have letters"),
        (["--user", "jane", "--slug", "my_kit_bundle"], "argument --slug: 'my_kit_bundle' must have 6 to 50 letters"),
        (["--user", "jane", "--encoder", "vgg16"], "encoder is 'vgg16'; choose one of efficientnet-lite0,"),
        (["--user", "jane", "--slug", "kit"], "argument --slug: 'kit' must have 6 to 50 letters"),
        (["--user", "jane", "--slug", "k" * 51], "must have 6 to 50 letters"),
        (["--user", "jane", "--go-on-with", "https://www.kaggle.com/code/jane/uwm"], "must be NAME/SLUG"),
        (["--user", "jane", "--go-on-with", "uwm-kit-02-train"], "argument --go-on-with: 'uwm-kit-02-train' must be"),
    ],
)
def test_names_that_are_wrong_are_refused_before_runs_are_read(monkeypatch, capsys, bundle, arguments, words, tmp_path):
    monkeypatch.setattr(bundle, "newest", lambda *_: pytest.fail("looked for runs"))
    monkeypatch.setattr(sys, "argv", ["bundle.py", *arguments, "--out", str(tmp_path / "bundle")])
    with pytest.raises(SystemExit):
        bundle.main()
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("place", ["runs/my-run", "runs/kaggle"])
def test_a_run_that_is_named_after_go_on_with_is_no_notebook(monkeypatch, capsys, bundle, tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bundle.py", "--user", "jane", "--go-on-with", "jane/uwm-kit-02-train", place])
    with pytest.raises(SystemExit):
        bundle.main()
    assert f"'{place}' is a folder here, not a notebook" in capsys.readouterr().err.splitlines()[-1]


def test_names_that_kaggle_takes_are_taken(bundle):
    for user in ("jane", "Jane-Doe-7", "janedoe"):
        assert bundle.check_user(user) == user
    for slug in ("uwm-kit-bundle", "kitkit", "k" * 50):
        assert bundle.check_slug(slug) == slug
    assert bundle.check_notebook("jane/uwm-kit-02-train") == "jane/uwm-kit-02-train"


def test_the_command_says_in_its_last_line_what_is_missing(monkeypatch, capsys, bundle, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bundle.py", str(tmp_path), "--user", "jane", "--out", str(tmp_path / "bundle")])
    with pytest.raises(SystemExit):
        bundle.main()
    assert "has no finished run" in capsys.readouterr().err.splitlines()[-1]
