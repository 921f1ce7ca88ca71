from pathlib import Path

import pytest

from kitlib import session


def test_competition_is_named_for_what_it_is(competition, capsys):
    assert session.competition(str(competition)) == competition
    assert capsys.readouterr().out.startswith("PHANTOM")


def test_named_folder_without_data_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        session.competition(str(tmp_path / "nothing_here"))


def test_kaggle_is_known_by_its_variable(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert session.on_kaggle()


def test_versions_name_kit_and_keras():
    text = session.versions()
    assert text.startswith("kitlib ")
    assert "keras " in text


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A notebook that is being saved on Kaggle: an empty test folder, a sample without rows."""
    for name in ("KAGGLE_IS_COMPETITION_RERUN", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(session.contest, "KAGGLE_INPUT", tmp_path)
    monkeypatch.setenv("KAGGLE_URL_BASE", "https://www.kaggle.com")
    (tmp_path / "test").mkdir()
    (tmp_path / "sample_submission.csv").write_text("id,class,predicted\n", encoding="utf-8")
    return tmp_path


def test_public_version_is_a_batch_and_a_filled_test_set_a_rerun(kaggle, monkeypatch):
    assert session.mode(kaggle) == "batch"
    for name in (".ipynb_checkpoints", "@eaDir"):
        (kaggle / "test" / name).mkdir()
    assert session.mode(kaggle) == "batch"
    (kaggle / "test/case1").mkdir()
    assert session.mode(kaggle) == "rerun"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert session.mode(kaggle) == "rerun"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert session.mode(kaggle) == "interactive"


def test_a_filled_sample_alone_is_a_rerun_too(kaggle):
    (kaggle / "test").rmdir()
    assert session.mode(kaggle) == "batch"
    (kaggle / "sample_submission.csv").write_text(
        "id,class,predicted\ncase1_day0_slice_0001,stomach,\n", encoding="utf-8"
    )
    assert session.mode(kaggle) == "rerun"
    (kaggle / "sample_submission.csv").unlink()
    assert session.mode(kaggle) == "batch"
    assert session.mode() == "batch"


def test_kaggles_own_variable_decides_where_it_is_set(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert session.mode(kaggle) == "rerun"
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "False")
    assert session.mode(kaggle) == "batch"


def test_a_laptop_and_colab_are_interactive_whatever_is_mounted_as_kaggle_input(kaggle, monkeypatch):
    (kaggle / "test/case1").mkdir()
    monkeypatch.delenv("KAGGLE_URL_BASE")
    assert session.mode(kaggle) == "interactive"


@pytest.mark.parametrize("place", ["kit-bundle", "datasets/somebody/kit-bundle"])
def test_bundle_is_found_at_both_mount_points(tmp_path, monkeypatch, place):
    monkeypatch.setattr(session.contest, "KAGGLE_INPUT", tmp_path)
    assert session.bundle() is None
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "kitlib-0.1.0-py3-none-any.whl").touch()
    assert session.bundle() == tmp_path / place


def test_run_folders_lie_where_kaggle_keeps_them_and_trainings_end_before_its_session(monkeypatch, tmp_path):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(session.time, "time", lambda: 1000.0)
    checkout = Path(__file__).parents[1]
    assert session.run_folders("", "experiments") == checkout / "runs/experiments"
    assert session.submission_path() == checkout / "submissions/submission.csv"
    assert session.ends_at() is None
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert session.run_folders("", "experiments").as_posix() == "runs/experiments"
    assert session.run_folders("elsewhere", "experiments").as_posix() == "elsewhere"
    assert session.run_folders("~/elsewhere") == Path.home() / "elsewhere"
    assert session.submission_path().as_posix() == "submission.csv"
    assert session.submission_path("other.csv").as_posix() == "other.csv"
    assert session.submission_path(str(tmp_path)) == tmp_path / "submission.csv"
    assert session.ends_at() == 1000 + 11 * 3600
    assert session.ends_at(0.5) == 1000 + 1800


@pytest.mark.parametrize("place", [".", "notebooks", "elsewhere"])
def test_run_folders_do_not_depend_on_the_working_folder(tmp_path, monkeypatch, place):
    (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    assert session.run_folders() == Path(__file__).parents[1] / "runs"
    monkeypatch.setattr(session, "__file__", str(tmp_path / "site-packages/kitlib/session.py"))
    assert session.run_folders().resolve() == (tmp_path / place / "runs").resolve()


def test_disk_is_what_is_free_and_on_kaggle_what_a_session_may_keep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_bytes(bytes(1000))
    assert session.disk_left("runs/not/there") > 0
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(session, "KAGGLE_DISK", 1500)
    assert session.disk_left("runs") == 500


RULES = {"DATA": "", "FLIP": (True, False), "BATCH": 16, "HOURS": 9.0, "EPOCHS": 0, "FALLBACK": ("", "atlas")}
GOOD = {"DATA": "", "FLIP": False, "BATCH": 4, "HOURS": 1, "EPOCHS": 0, "FALLBACK": "atlas"}


def test_right_parameters_pass():
    assert session.parameters(dict(GOOD), **RULES) == []
    assert session.parameters({"COMPARE": ("a",), "SIZE": 64}, COMPARE=["a", "b"], SIZE=(0, range(32, 99, 32))) == []
    for size in ((32, 96), [96, 64]):
        assert session.parameters({"SIZE": size}, SIZE=(0, (range(32, 99, 32), range(32, 99, 32)))) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FLIP", "false", "True or False, without quotes"),
        ("FLIP", 1, "True or False"),
        ("BATCH", "16", "a whole number above 0, without quotes"),
        ("BATCH", 16.0, "a whole number above 0"),
        ("BATCH", True, "a whole number above 0"),
        ("HOURS", 0, "a number above 0"),
        ("HOURS", float("inf"), "a number above 0"),
        ("EPOCHS", -1, "a whole number of 0 or more"),
        ("DATA", 7, "text in quotes"),
        ("DATA", None, "text in quotes"),
        ("FALLBACK", "Atlas", "'' or 'atlas'"),
    ],
)
def test_wrong_parameters_are_named_with_their_value(name, value, words):
    with pytest.raises(ValueError, match=f"parameter {name} = ") as error:
        session.parameters(GOOD | {name: value}, **RULES)
    assert str(error.value).endswith(words)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [(32,), (32, 50), (32.0, 64), 32, "32x64", (32, 64, 96)])
def test_a_pair_that_does_not_fit_is_named(value):
    with pytest.raises(ValueError, match=r"parameter SIZE = .*expected 0 or a pair such as \(64, 96\)"):
        session.parameters({"SIZE": value}, SIZE=(0, (range(32, 65, 32), range(32, 97, 32))))


@pytest.mark.parametrize("value", ["a", ["a", "c"], [1], None, ["a", "a"]])
def test_a_list_of_choices_is_a_list(value):
    text = r"parameter COMPARE = .*expected a list of any of 'a', 'b', each once, such as \['a'\]"
    with pytest.raises(ValueError, match=text):
        session.parameters({"COMPARE": value}, COMPARE=["a", "b"])


def test_a_rule_may_depend_on_another_parameter():
    rules = {"FOLD": lambda: (0, range(given["FOLDS"])), "FOLDS": (5, range(2, 9))}
    given = {"FOLD": 3, "FOLDS": 4}
    assert session.parameters(given, **rules) == []
    given["FOLDS"] = 3
    with pytest.raises(ValueError, match="parameter FOLD = 3: expected 0 to 2"):
        session.parameters(given, **rules)
    given["FOLDS"] = "4"
    with pytest.raises(ValueError, match=r"^parameter FOLDS = '4': expected 2 to 8, without quotes$"):
        session.parameters(given, **rules)


@pytest.mark.parametrize(("typed", "meant"), [("FLIPS", "FLIP"), ("EPOCH", "EPOCHS"), ("BATCHES", "BATCH")])
def test_mistyped_names_are_refused_and_the_right_one_is_named(typed, meant):
    with pytest.raises(ValueError, match=f"parameter {typed} is unknown; did you mean {meant}"):
        session.parameters(GOOD | {typed: 1}, **RULES)
    missing = {name: value for name, value in GOOD.items() if name != meant}
    with pytest.raises(ValueError, match=f"parameter {meant} is missing"):
        session.parameters(missing, **RULES)


@pytest.mark.parametrize("data", ["", 7])
def test_in_the_rerun_wrong_parameters_get_their_defaults_and_are_listed(kaggle, monkeypatch, capsys, data):
    monkeypatch.setattr(session.scans, "find_root", lambda path=None: kaggle)
    given = GOOD | {"FLIP": "false", "BATCH": "16", "FLIPS": 2, "DATA": data}
    with pytest.raises(ValueError, match="parameter FLIP"):
        session.parameters(given, **RULES)
    (kaggle / "test/case1").mkdir()
    wrong = session.parameters(given, **RULES)
    said = capsys.readouterr().out
    assert "parameter FLIP = 'false': expected True or False, without quotes; its default is used" in said
    assert "parameter BATCH = '16'" in said
    lost = GOOD | {"DATA": "/kaggle/input/as-it-was-mounted-before"}
    assert session.parameters(lost, **RULES)[0][0] == "parameter DATA"
    assert lost["DATA"] == ""
    assert (given["FLIP"], given["BATCH"], given["DATA"]) == (True, 16, "")
    assert {name for name, _ in wrong} >= {"parameter FLIP", "parameter BATCH", "parameter FLIPS"}
    monkeypatch.delenv("KAGGLE_URL_BASE")
    with pytest.raises(ValueError, match="parameter FLIP"):
        session.parameters(GOOD | {"FLIP": "false"}, **RULES)
