"""Whole notebooks: the pairs agree, their form holds, and they run on a small synthetic competition."""

import ast
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import bs4
import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
TRAINS = ("training.fit_fold", "training.cross_validate", "experiments.run", "jobs.run")


def load(name):
    """Import a script of the notebooks folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "notebooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def code_of(script):
    """The syntax tree of a notebook's code, without lines for the shell."""
    lines = [line for kind, source in cells(script) if kind == "code" for line in source.splitlines()]
    return ast.parse("\n".join(line for line in lines if not line.startswith("!")))


def parameters(script):
    """The tagged cell of a notebook, which has to hold literals and nothing else."""
    tagged = [cell for cell in jupytext.read(script).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{script.name} needs one cell with the tag parameters"
    found = {}
    for statement in ast.parse(tagged[0].source).body:
        (name,) = statement.targets
        assert isinstance(name, ast.Name), f"{script.name}: {ast.unparse(statement)} needs a line for each name"
        found[name.id] = ast.literal_eval(statement.value)
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_has_the_cells_of_its_script(script):
    notebook = script.with_suffix(".ipynb")
    assert cells(notebook) == cells(script)
    assert not [cell for cell in nbformat.read(notebook, 4).cells if cell.get("outputs")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_cells_are_short_and_say_why(script):
    found = jupytext.read(script).cells
    assert found[0].cell_type == "markdown"
    assert found[0].source.startswith("# ")
    parameters(script)
    for before, cell in itertools.pairwise(found):
        if cell.cell_type == "code":
            parameters_of_all = "parameters" in cell.metadata.get("tags", []) or "session.parameters(" in cell.source
            assert len(cell.source.splitlines()) <= (30 if parameters_of_all else 20), cell.source
        elif before.cell_type == "markdown":
            pytest.fail(f"two texts in a row: {cell.source[:60]}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_logic_lives_in_the_package(script):
    for node in ast.walk(code_of(script)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 8, f"{script.name}: {node.name} belongs in kitlib"


@pytest.mark.parametrize("name", ["02_train", "05_experiments"])
def test_all_trainings_of_a_notebook_end_by_one_deadline_and_lie_where_kaggle_keeps_them(name):
    script = ROOT / "notebooks" / f"{name}.py"
    code = code_of(script)
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    trains = [node for node in calls if ast.unparse(node.func) in TRAINS]
    assert len(trains) == 2
    for call in trains:
        assert {word.arg: ast.unparse(word.value) for word in call.keywords}["deadline"] == "ends"
    assert "ends_at(HOURS)" in ast.unparse(code)
    assert "run_folders(RUNS" in ast.unparse(code)
    assert ast.unparse(code).count("RUNS") == 3
    assert parameters(script)["RUNS"] == ""
    assert parameters(script)["HOURS"] == 0


@pytest.fixture(scope="module")
def pages(competition, tmp_path_factory):
    """Run training and inference, as `make demo` does, on the small competition; give the folder of pages."""
    folder = tmp_path_factory.mktemp("pages")
    execute = load("execute")
    given = {"DATA": str(competition), "RUNS": str(folder / "runs"), "OUTPUT": str(folder / "submission.csv")}
    given |= {"PRESET": "short", "EPOCHS": 1, "SIZE": 32, "COMPARE": ("unaugmented",)}
    for name in ("02_train", "03_inference"):
        known = parameters(ROOT / "notebooks" / f"{name}.py")
        assert given.keys() & known.keys(), name
        execute.execute(name, given, folder)
    return folder


@pytest.mark.slow
def test_training_and_inference_leave_a_valid_submission(pages, competition):
    from kitlib import runs, submission
    from kitlib.data import scans

    run = runs.find(pages / "runs")[0]
    assert 0 <= run.score()["score"] <= 1
    assert submission.check(pages / "submission.csv", scans.read(competition, "test")) == []


@pytest.mark.slow
def test_an_encoder_is_trained_on_the_box_of_the_masks_from_packed_scans(competition, tmp_path):
    from kitlib import runs
    from kitlib.data import boxes, scans

    given = {"DATA": str(competition), "RUNS": str(tmp_path / "runs"), "PRESET": "encoder", "EPOCHS": 1}
    given |= {"SIZE": (32, 64), "PACKED": str(tmp_path / "packed")}
    load("execute").execute("02_train", given, tmp_path)
    (run,) = runs.find(tmp_path / "runs")
    assert (run.spec.height, run.spec.width) == (32, 64)
    assert run.spec.box_mm == boxes.box_for(scans.read(competition))
    assert run.record["pretrained"]["file"] == run.parameters["encoder"] == "efficientnet-lite0"
    assert len(list((tmp_path / "packed").glob("*.npy"))) == 2
    said = printed(tmp_path / "02_train.ipynb")
    assert "preset encoder (chosen above): a U-Net with efficientnet-lite0, pretrained" in said


@pytest.mark.slow
def test_pages_show_their_pictures_and_no_error(pages):
    for name in ("02_train", "03_inference"):
        outputs = [out for cell in nbformat.read(pages / f"{name}.ipynb", 4).cells for out in cell.get("outputs", [])]
        assert any("image/png" in out.get("data", {}) for out in outputs)
        assert not [out for out in outputs if out.output_type == "error"]
        assert "Warning" not in "".join(out.get("text", "") for out in outputs if out.output_type == "stream")
        assert (pages / f"{name}.html").stat().st_size > 50_000


@pytest.mark.slow
def test_the_clocks_minutes_have_two_decimals_at_most(pages):
    clock = printed(pages / "03_inference.ipynb").split("elapsed_min")[1].split(" min of ")[0]
    assert {len(part) for part in re.findall(r"\d+\.(\d+)", clock.rsplit("\n", 1)[0])} <= {1, 2}


@pytest.mark.slow
def test_the_comparison_trains_what_it_names(pages):
    from kitlib import runs

    (run,) = runs.find(pages / "runs")
    (other,) = runs.find(pages / "comparisons")
    assert other.folder.name == f"{run.folder.parent.name}-unaugmented"
    recipes = [each.record["recipe"] for each in (run, other)]
    assert {name for name, value in recipes[1].items() if value != recipes[0].get(name)} == {"augment"}
    assert recipes[1]["augment"] is None
    assert other.record["folds"] == run.record["folds"]
    assert other.record["pretrained"]["sha256"] == run.record["pretrained"]["sha256"]
    assert re.search(r"this run +unaugmented\nscore", printed(pages / "02_train.ipynb"))


@pytest.mark.slow
def test_a_network_for_volumes_is_trained_on_the_box(competition, tmp_path):
    from kitlib import runs

    given = {"DATA": str(competition), "RUNS": str(tmp_path / "runs"), "PRESET": "volume_short", "EPOCHS": 1}
    load("execute").execute("02_train", given | {"SIZE": (16, 24)}, tmp_path)
    (run,) = runs.find(tmp_path / "runs")
    assert run.spec.shape == (16, 24, 32)
    assert run.spec.volume
    assert run.spec.box_mm is not None
    assert "a 3D SegResNet, from random weights" in printed(tmp_path / "02_train.ipynb")


@pytest.mark.slow
def test_a_gate_and_a_coronal_segmenter_are_trained_under_one_name_and_predict_together(competition, tmp_path):
    from kitlib import runs, submission
    from kitlib.data import scans
    from kitlib.postprocess import Settings

    execute = load("execute")
    given = {"DATA": str(competition), "RUNS": str(tmp_path / "runs"), "OUTPUT": str(tmp_path / "submission.csv")}
    given |= {"PRESET": "paper", "EPOCHS": 1, "SIZE": 32, "ATTENTION": False, "RUN": "pair"}
    for role, axis in (("segmenter", "y"), ("gate", "z")):
        execute.execute("02_train", given | {"ROLE": role, "AXIS": axis}, tmp_path)
    gate, segmenter = (tmp_path / "runs/pair" / role for role in ("gate", "segmenter"))
    assert (gate / "folds.csv").read_bytes() == (segmenter / "folds.csv").read_bytes()
    assert sorted(path.name for path in (gate / "fold0/presence").iterdir()) == [
        f"{scan}.npy" for scan in runs.read(gate / "fold0").scans
    ]
    assert runs.read(segmenter / "fold0").score()["evaluated_with"] == "presence of the truth"
    assert runs.read(segmenter / "fold0").spec.axis == "y"
    settings = Settings(ends="interval", offset=(-1.0,) * 3, line_weight=1.0)
    (segmenter / "settings.json").write_text(settings.to_json(), encoding="utf-8")
    execute.execute("03_inference", given, tmp_path)
    text = printed(tmp_path / "03_inference.ipynb")
    assert re.search("gate, .*segmenter, |segmenter, .*gate, ", text, re.DOTALL)
    assert re.search(r"[1-9] of \d+ test scans have an earlier day", text)
    assert submission.check(tmp_path / "submission.csv", scans.read(competition, "test")) == []


@pytest.mark.slow
def test_the_atlas_answers_without_a_network_for_scans_that_mix_sizes(tmp_path):
    import cv2

    import phantom
    from kitlib import submission
    from kitlib.data import inputs, scans

    root = phantom.write(tmp_path / "phantom", cases=4, slices=6, sizes=[(47, 61)])
    path = sorted((root / "test").rglob("*.png"))[3]
    cv2.imwrite(str(path.with_name("slice_0004_50_40_1.50_1.50.png")), cv2.resize(inputs.read_picture(path), (50, 40)))
    path.unlink()
    (tmp_path / "none").mkdir()
    given = {"DATA": str(root), "RUNS": str(tmp_path / "none"), "OUTPUT": str(tmp_path / "s.csv"), "FALLBACK": "atlas"}
    load("execute").execute("03_inference", given, tmp_path)
    text = printed(tmp_path / "03_inference.ipynb")
    assert "no network: the fallback is 'atlas'" in text
    assert "no faults" in text
    slices = scans.read(root, "test")
    assert submission.check(tmp_path / "s.csv", slices) == []
    odd = slices.loc[slices["width"] == 50, "id"].item()
    rows = submission.read(tmp_path / "s.csv")
    assert (rows.loc[rows["id"] == odd, "predicted"] != "").any()


@pytest.mark.slow
def test_experiments_run_on_the_small_competition(competition, tmp_path):
    given = {"DATA": str(competition), "RUNS": str(tmp_path / "runs"), "QUICK": True, "COMPARE": ("augmentation",)}
    given |= {"SEEDS": 1, "EPOCHS": 1, "SIZE": 32, "FAULTS": 1}
    assert given.keys() <= parameters(ROOT / "notebooks" / "05_experiments.py").keys()
    load("execute").execute("05_experiments", given, tmp_path)
    outputs = [
        out for cell in nbformat.read(tmp_path / "05_experiments.ipynb", 4).cells for out in cell.get("outputs", [])
    ]
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 5
    assert len(list((tmp_path / "runs").rglob("score.json"))) == 5


@pytest.mark.slow
def test_eda_runs_on_the_small_competition(competition, tmp_path):
    load("execute").execute("01_eda", {"DATA": str(competition)}, tmp_path)
    assert (tmp_path / "01_eda.html").is_file()


def cross_validation(competition, folder, probabilities):
    """A cross-validation of two folds with given probabilities; the folder of runs that contains it as cv."""
    from kitlib import runs
    from kitlib.data import scans

    slices = scans.read(competition)
    for fold in range(2):
        run = folder / "cv" / f"fold{fold}"
        for name in slices["scan"].unique()[fold::2]:
            grid = probabilities(slices[slices["scan"] == name])
            runs.write_probabilities(run, name, grid)
        spec = {"height": grid.shape[1], "width": grid.shape[2]}
        runs.write_record(run, {"ended": f"2026-01-0{fold + 1}", "input_spec": spec})
        (run / "model.keras").touch()
    (folder / "cv" / "folds.csv").write_text("case,fold\n", encoding="utf-8")
    return folder


def printed(page):
    """What the cells of an executed notebook have printed and shown as text; errors and warnings are none."""
    outputs = [out for cell in nbformat.read(page, 4).cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.output_type == "error"]
    text = "".join(out.get("text", "") + out.get("data", {}).get("text/plain", "") for out in outputs)
    assert "Warning" not in text
    return text


@pytest.mark.slow
def test_score_and_tuning_read_all_folds_of_a_cross_validation(competition, tmp_path, monkeypatch):
    """A network that is never sure needs a lower threshold, found on all folds of an attached cross-validation."""
    from kitlib.postprocess import DEFAULT, Settings
    from phantom.standin import StandIn

    def made(rows):
        return 0.55 * StandIn(rows)(rows["scan"].iloc[0])

    folder = cross_validation(competition, tmp_path / "input/x", made)
    monkeypatch.setenv("KITLIB_KAGGLE_INPUT", str(tmp_path / "input"))
    given = {"DATA": str(competition), "RUN": str(folder / "cv"), "SCANS": 0, "GRID": "short", "FOLDS": 3}
    assert given.keys() <= parameters(ROOT / "notebooks" / "04_score.py").keys()
    load("execute").execute("04_score", given, tmp_path)
    text = printed(tmp_path / "04_score.ipynb")
    shown = ("cv, 2 folds", "slicewise", "hausdorff_95_mm", "tuning: 63 values", "about", "start, runs of slices")
    for each in (*shown, "tuned, held out", "the tuned settings gain"):
        assert each in text
    assert re.search(r"[1-9] of \d+ scans have an earlier day", text)
    assert re.search(r"with an earlier day +0\.\d+.*\nwithout +0\.\d+", text)
    for fold in range(2):
        written = (folder / "cv" / f"fold{fold}" / "settings.json").read_text(encoding="utf-8")
        assert min(Settings.from_json(written).threshold) < min(DEFAULT.threshold)


@pytest.mark.slow
def test_score_and_tuning_keep_the_stored_settings_where_no_gain_is_certain(competition, tmp_path):
    from phantom.standin import StandIn

    folder = cross_validation(competition, tmp_path / "runs", lambda rows: StandIn(rows)(rows["scan"].iloc[0]))
    (folder / "cv/settings.json").write_text("{}", encoding="utf-8")
    given = {"DATA": str(competition), "RUNS": str(folder), "SCANS": 1, "GRID": "short", "FOLDS": 2}
    load("execute").execute("04_score", given, tmp_path)
    text = printed(tmp_path / "04_score.ipynb")
    assert "2 scans of 2 cases" in text
    assert "inference keeps the settings stored with the runs, Settings(threshold=(0.5, 0.5, 0.5), seed=(0.0" in text
    assert "cv/settings.json is left as it was; remove it" in text
    assert not list(folder.glob("cv/fold*/settings.json"))
    assert (folder / "cv/settings.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.slow
def test_score_and_tuning_run_on_networks_that_find_nothing(competition, tmp_path):
    import numpy as np

    folder = cross_validation(competition, tmp_path / "runs", lambda rows: np.full((len(rows), 8, 9, 3), 0.3))
    given = {"DATA": str(competition), "RUNS": str(folder), "RUN": "cv", "SCANS": 2, "GRID": "short"}
    load("execute").execute("04_score", given, tmp_path)
    assert "2 scans of 2 cases" in printed(tmp_path / "04_score.ipynb")


@pytest.mark.slow
def test_score_without_a_run_names_the_notebook_that_trains_one(competition, tmp_path):
    with pytest.raises(Exception, match="run 02_train first"):
        load("execute").execute("04_score", {"DATA": str(competition), "RUNS": str(tmp_path / "none")}, tmp_path)


def test_a_page_is_named_by_its_heading_and_its_pictures_by_the_text_above(tmp_path):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    picture = nbformat.v4.new_output("display_data", {"image/png": pixel, "text/plain": "<Figure>"})
    texts = ("# 9 · Trial\n\nA start.", '## Sizes & shapes\n\nFirst. How\nlarge "is" it, and why? So.', "Another line.")
    notebook = nbformat.v4.new_notebook()
    for text in texts:
        notebook.cells += [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1", outputs=[picture])]
    nbformat.write(notebook, tmp_path / "trial.ipynb")
    load("execute")._render(tmp_path / "trial.ipynb")
    page = bs4.BeautifulSoup((tmp_path / "trial.html").read_text(encoding="utf-8"), "html.parser")
    assert page.title.text == "9 · Trial"
    assert [image["alt"] for image in page.select("img")] == [
        "9 · Trial",
        'Sizes & shapes: How large "is" it, and why?',
        "Sizes & shapes",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NO_SUCH_THING=1", "no such parameter"),
        ("EPOCH=1", "did you mean EPOCHS?"),
        ("epochs=1", "did you mean EPOCHS?"),
        ("EPOCHS", "expected PARAMETER=VALUE"),
        ("=3", "expected PARAMETER=VALUE"),
        ("OUTPUT=a.csv", "02_train has no such parameter"),
    ],
)
def test_settings_that_no_notebook_has_are_refused(monkeypatch, capsys, text, words):
    monkeypatch.setattr(sys, "argv", ["execute.py", "02_train", "--set", text])
    with pytest.raises(SystemExit):
        load("execute").main()
    last = capsys.readouterr().err.splitlines()[-1]
    assert words in last
    assert text.split("=")[0] in last


def test_every_name_in_the_parameters_cell_can_be_set(tmp_path):
    execute = load("execute")
    for script in SCRIPTS:
        assert execute.parameters_of(script) == parameters(script)
    script = tmp_path / "x.py"
    script.write_text('# %% tags=["parameters"]\nA, B = 1, 2\n(C) = 3\nD: int = 4\n# %%\nE = 5\n', encoding="utf-8")
    assert execute.parameters_of(script) == {"A": None, "B": None, "C": 3, "D": 4}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("EPOCHS=3", {"EPOCHS": 3}),
        (" EPOCHS = 3 ", {"EPOCHS": 3}),
        ("ATTENTION=false", {"ATTENTION": "false"}),
        ("RUN=20261128", {"RUN": "20261128"}),
        ("RUN='a b'", {"RUN": "a b"}),
        ("RUN=", {"RUN": ""}),
        ("COMPARE=('plain',)", {"COMPARE": ("plain",)}),
        ("COMPARE=plain", {"COMPARE": "plain"}),
        ("RUNS=my runs/demo", {"RUNS": str(ROOT / "my runs/demo")}),
        ("DATA=~/phantom", {"DATA": str(Path.home() / "phantom")}),
    ],
)
def test_values_are_literals_texts_and_paths_from_here(monkeypatch, text, values):
    execute, given = load("execute"), []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(execute, "execute", lambda name, parameters: given.append(parameters))
    monkeypatch.setattr(sys, "argv", ["execute.py", "02_train", "--set", text])
    execute.main()
    assert given == [values]


@pytest.mark.parametrize("encoding", ["ascii", "cp866"])
def test_what_a_terminal_cannot_show_stops_no_notebook(encoding):
    """05_experiments prints a sign of plus and minus, after hours."""
    code = (
        "import sys; sys.path.insert(0, 'notebooks'); import execute\n"
        "execute.execute = lambda *_: print('0.5 \\u00b1 0.1')\n"
        "sys.argv[1:] = ['01_eda']; execute.main()"
    )
    surroundings = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=surroundings, capture_output=True, check=False)
    assert done.stdout.strip() == b"0.5 \\xb1 0.1", done.stderr[-500:]


NAMES = {  # the notebooks' interface: a name that changes here breaks what people have written down
    "01_eda": "DATA INDEX CASE SAMPLES",
    "02_train": "DATA RUNS RUN PRESET HOURS EPOCHS SIZE FOLDS FOLD LEVELS ATTENTION AUGMENT COMPARE SEED ROLE",
    "03_inference": "DATA RUNS RUN ANY_DATA OUTPUT FLIP BATCH HOURS FAULTS FALLBACK",
    "04_score": "DATA RUNS RUN SCANS GRID FOLDS",
    "05_experiments": "DATA RUNS QUICK COMPARE SEEDS EPOCHS SIZE FOLDS FOLD FAULTS HOURS",
}


def test_names_of_parameters_stay():
    for name, names in NAMES.items():
        assert set(names.split()) <= parameters(ROOT / "notebooks" / f"{name}.py").keys()


def test_a_notebook_that_is_unknown_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["execute.py", "2_train"])
    with pytest.raises(SystemExit):
        load("execute").main()
    assert "no notebook '2_train'; choose one of 01_eda, 02_train" in capsys.readouterr().err


def test_the_script_is_run_where_the_notebook_differs(monkeypatch, capsys, tmp_path):
    execute = load("execute")
    run = []
    monkeypatch.setattr(execute.papermill, "execute_notebook", lambda notebook, *_, **__: run.append(notebook))
    monkeypatch.setattr(execute, "_render", lambda path: None)
    monkeypatch.setattr(execute.generate, "read", lambda path: "an older notebook")
    execute.execute("01_eda", {}, tmp_path)
    assert [cell.source for cell in run[0].cells] == [source for _, source in cells(SCRIPTS[0])]
    assert "01_eda.ipynb differs from 01_eda.py; the script is run" in capsys.readouterr().out


CHECKS = {
    "01_eda": [("CASE", "7"), ("SAMPLES", None), ("INDEX", 3)],
    "02_train": [
        *[("ATTENTION", "false"), ("ATTENTION", 1), ("COMPARE", "plain"), ("COMPARE", ["none"]), ("FOLD", 5)],
        *[("ENCODER", "resnet"), ("BOX", "no"), ("SIZE", (128, 100)), ("SIZE", (128,)), ("LEVELS", 8)],
        *[("PRESET", "Paper"), ("SIZE", 100), ("HOURS", "2"), ("EPOCHS", 2.5), ("FOLDS", 1), ("SEED", True)],
        *[("ROLE", "both"), ("PRIOR", 1), ("AXIS", "Z")],
    ],
    "03_inference": [("FLIP", "False"), ("BATCH", 0), ("HOURS", 0), ("FALLBACK", "Atlas"), ("FAULTS", True)],
    "04_score": [("GRID", "Full"), ("SCANS", "all"), ("FOLDS", 0)],
    "05_experiments": [("QUICK", "True"), ("COMPARE", ["loss"]), ("SEEDS", -1), ("HOURS", float("nan"))],
}


def names_of_rules():
    """What the rules of the parameters call by name."""
    from kitlib import session
    from kitlib.data import inputs
    from kitlib.models import encoders
    from kitlib.training import presets, recipes

    return {"session": session, "inputs": inputs, "encoders": encoders, "presets": presets, "recipes": recipes}


def check_of(script):
    """Return the call of `session.parameters` in a notebook as code that evaluates."""
    code = code_of(script)
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "session.parameters"]
    return call


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_parameters_are_all_checked_before_any_data_is_read(script, monkeypatch):
    from kitlib import session

    monkeypatch.setattr(session, "mode", lambda root: "interactive")
    call, defaults = check_of(script), parameters(script)
    assert {word.arg for word in call.keywords} == set(defaults)
    check = compile(ast.Expression(call), script.name, "eval")
    assert eval(check, names_of_rules() | defaults) == []
    for name, value in CHECKS[script.stem]:
        with pytest.raises(ValueError, match=f"^parameter {name} = ") as error:
            eval(check, names_of_rules() | defaults | {name: value})
        assert repr(value) in str(error.value)
    code = [source for kind, source in cells(script) if kind == "code"]
    first = next(number for number, source in enumerate(code) if "session.parameters(" in source)
    for word in ("scans.read", "published.attached", "rescue.read", "fit_fold", "session.competition"):
        assert not any(word in source for source in code[:first])


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"PRESET": "encoder"}, ""),
        ({"PRESET": "encoder", "ENCODER": "convnext-tiny", "SIZE": (256, 384), "BOX": False, "LEVELS": 5}, ""),
        ({"PRESET": "paper", "SIZE": (48, 80), "COMPARE": ("plain",)}, ""),
        ({"PRESET": "volume", "SIZE": (40, 72)}, ""),
        ({"PRESET": "encoder", "AXIS": "y"}, ""),
        ({"PRESET": "volume", "AXIS": "y"}, "AXIS"),
        ({"PRESET": "volume_short", "PRIOR": True}, "PRIOR"),
        ({"PRIOR": True, "AXIS": "x"}, "PRIOR"),
        ({"PRESET": "volume", "ATTENTION": False}, "ATTENTION"),
        ({"PRESET": "volume", "LEVELS": 4}, "LEVELS"),
        ({"PRESET": "volume", "SIZE": 100}, "SIZE"),
        ({"PRESET": "volume", "COMPARE": ("plain",)}, "COMPARE"),
        ({"ENCODER": "efficientnetv2-s", "PRESET": "strong"}, "PRESET"),
        ({"PRESET": "encoder", "SIZE": (48, 80)}, "SIZE"),
        ({"ENCODER": "efficientnetv2-s", "SIZE": 144}, "SIZE"),
        ({"ENCODER": "efficientnetv2-s", "LEVELS": 4}, "LEVELS"),
        ({"PRESET": "encoder", "COMPARE": ("plain",)}, "COMPARE"),
        ({"PRESET": "paper", "LEVELS": 6, "SIZE": (32, 64)}, "SIZE"),
    ],
)
def test_the_training_refuses_parameters_that_do_not_go_together(monkeypatch, given, wrong):
    from kitlib import session

    monkeypatch.setattr(session, "mode", lambda root: "interactive")
    script = ROOT / "notebooks/02_train.py"
    check = compile(ast.Expression(check_of(script)), script.name, "eval")
    names = names_of_rules() | parameters(script) | given
    if wrong:
        with pytest.raises(ValueError, match=f"^parameter {wrong} = "):
            eval(check, names)
    else:
        assert eval(check, names) == []


@pytest.mark.parametrize(
    ("attached", "own", "looks"),
    [((), False, True), (("run.json",), False, True), (("run.json", "oof"), False, False), ((), True, False)],
    ids=["nothing", "a bundle", "an earlier output", "its own record"],
)
def test_weights_to_start_from_are_looked_for_before_scans_are_packed(tmp_path, monkeypatch, attached, own, looks):
    from kitlib import contest
    from kitlib.training import initial, jobs, recipes

    code = [source for kind, source in cells(ROOT / "notebooks/02_train.py") if kind == "code"]
    (number,) = [number for number, source in enumerate(code) if "initial.find(" in source]
    assert not any("pipeline.pack(" in source for source in code[: number + 1])
    monkeypatch.setattr(contest, "attached", lambda marker: [tmp_path / "input"] * bool(attached))
    for part in attached:
        (tmp_path / "input" / part).mkdir(parents=True)
    if own:
        (tmp_path / "runs/mine/fold0").mkdir(parents=True)
        (tmp_path / "runs/mine/fold0/run.json").touch()
    names = {"kept": tmp_path / "runs", "RUN": "mine", "ROLE": "", "FOLD": 0, "pretrained": str(tmp_path / "gone.h5")}
    names |= {"contest": contest, "initial": initial, "jobs": jobs, "recipe": recipes.short()}
    if looks:
        with pytest.raises(FileNotFoundError, match=r"gone\.h5': no such weight file"):
            exec(code[number], names)
    else:
        exec(code[number], names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_value_that_a_comment_explains_is_taken(script, monkeypatch):
    """Such as `SCANS = 12  # most scans, at least 2; 0: all`."""
    from kitlib import session

    monkeypatch.setattr(session, "mode", lambda root: "interactive")
    check = compile(ast.Expression(check_of(script)), script.name, "eval")
    defaults, text = parameters(script), script.read_text(encoding="utf-8")
    comments = dict(re.findall(r"^([A-Z_]+) = [^#\n]*# (.*)$", text, re.MULTILINE))
    explained = {"0": 0, "None": None, "True": True, "False": False, "empty": ""}
    for name, comment in comments.items():
        values = [explained[word] for word in re.findall(r"\b(0|None|True|False|empty): ", comment)]
        values += [int(word) for word in re.findall(r"at least (\d+)", comment)]
        if not isinstance(defaults[name], tuple):
            values += re.findall(r'"([^"]+)"', comment)
        for value in values:
            assert eval(check, names_of_rules() | defaults | {name: value}) == []


def test_the_rules_of_inference_have_the_defaults_of_its_cell(monkeypatch):
    from kitlib import session

    script = ROOT / "notebooks/03_inference.py"
    defaults = parameters(script)
    monkeypatch.setattr(session, "mode", lambda root: "rerun")
    given = names_of_rules() | {name: [object()] for name in defaults}
    wrong = eval(compile(ast.Expression(check_of(script)), "check", "eval"), given)
    assert {name for name, _ in wrong} == {f"parameter {name}" for name in defaults}
    assert {name: given[name] for name in defaults} == defaults


def test_first_cell_is_the_same_everywhere():
    first = {next(source for kind, source in cells(script) if kind == "code") for script in SCRIPTS}
    assert len(first) == 1
    assert "session.versions()" in first.pop()


def wheel(folder, version):
    """Write a wheel that holds nothing but its name and version."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"kitlib-{version}.dist-info"
    with zipfile.ZipFile(folder / f"kitlib-{version}-py3-none-any.whl", "w") as content:
        content.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: kitlib\nVersion: {version}\n")
        content.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr(f"{about}/RECORD", "")


def test_first_cell_installs_the_newest_of_several_bundles_and_runs_come_from_the_same(tmp_path, monkeypatch):
    from kitlib import session

    for place, version in (
        ("a", "0.9.0"),
        ("datasets/x/b", "0.10.0"),
        ("datasets/x/c", "0.10.0rc1"),
        ("datasets/x/e/dataset", "0.3.0"),
        ("d", "0.2.0"),
    ):
        wheel(tmp_path / place, version)
    cell = next(source for kind, source in cells(SCRIPTS[0]) if kind == "code")
    commands, report = [], tmp_path / "report.json"
    monkeypatch.setenv("KITLIB_KAGGLE_INPUT", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", lambda command, check: commands.append(command))
        exec(cell, {})
    subprocess.run([*commands[0], "--dry-run", "--report", report], check=True)
    (chosen,) = json.loads(report.read_text(encoding="utf-8"))["install"]
    assert chosen["download_info"]["url"] == (tmp_path / "datasets/x/b/kitlib-0.10.0-py3-none-any.whl").as_uri()
    monkeypatch.setattr(session.contest, "KAGGLE_INPUT", tmp_path)
    assert session.bundle() == tmp_path / "datasets/x/b"


@pytest.mark.parametrize("attached", [(), ("some-data",), ("datasets/jane/uwm-kit-bundle",)])
def test_first_cell_without_a_bundle_says_what_is_there_and_how_to_attach_one(tmp_path, monkeypatch, attached):
    for name in attached:
        (tmp_path / "input" / name).mkdir(parents=True)
    monkeypatch.setenv("KITLIB_KAGGLE_INPUT", str(tmp_path / "input"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    cell = next(source for kind, source in cells(SCRIPTS[0]) if kind == "code")
    with pytest.raises(ModuleNotFoundError, match="No data set with a kitlib wheel is attached") as error:
        exec(cell, {})
    assert f"holds {attached[0].split('/')[0] if attached else 'nothing'}" in str(error.value)
    assert attached == () or Path(attached[0]).name in str(error.value)
    assert "Add Input" in str(error.value)
