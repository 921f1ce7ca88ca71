import keras
import pytest

from kitlib import runtime


def test_devices_say_what_was_chosen_and_why():
    found = runtime.devices()
    assert found.precision in {"float32", "mixed_float16", "mixed_bfloat16"}
    assert found.precision in str(found)
    if not found.accelerators:
        assert "no GPU" in str(found)


def test_chosen_precision_is_used():
    before = keras.config.dtype_policy()
    try:
        chosen = runtime.Devices(1, "mixed_bfloat16", "a test")
        assert runtime.use(chosen) is chosen
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def test_competition_is_named_for_what_it_is(competition, capsys):
    assert runtime.competition(str(competition)) == competition
    assert capsys.readouterr().out.startswith("PHANTOM")


def test_named_folder_without_data_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        runtime.competition(str(tmp_path / "nothing_here"))


def test_kaggle_is_known_by_its_variable(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert runtime.on_kaggle()


def test_versions_name_kit_and_keras():
    text = runtime.versions()
    assert text.startswith("kitlib ")
    assert "keras " in text
