import pytest

from kitlib.runs import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/run.json").write_text('{"epochs": 1}', encoding="utf-8")
    (tmp_path / "a/model.keras").write_bytes(bytes(range(256)))
    manifest.write(tmp_path)
    return tmp_path


def test_untouched_files_have_no_problems(folder):
    assert manifest.check(folder) == {}


def test_any_changed_byte_is_named(folder):
    path = folder / "a/model.keras"
    for place in (0, 100, 255):
        data = bytearray(range(256))
        data[place] ^= 1
        path.write_bytes(bytes(data))
        assert list(manifest.check(folder)) == [path]


def test_missing_files_are_named(folder):
    (folder / "a/run.json").unlink()
    problems = manifest.check(folder)
    assert list(problems) == [folder / "a/run.json"]
    assert "missing" in problems[folder / "a/run.json"]


@pytest.mark.parametrize("text", ["", "[1", "[1, 2]", "7"])
def test_a_manifest_that_is_none_is_a_problem(folder, text):
    (folder / manifest.NAME).write_text(text, encoding="utf-8")
    assert list(manifest.check(folder)) == [folder / manifest.NAME]


def test_without_a_manifest_there_is_nothing_to_compare(tmp_path):
    assert manifest.check(tmp_path) == {}
