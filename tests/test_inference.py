import keras
import numpy as np
import pytest

from kitlib import inference, inputs, runs, scans, unet

SPEC = inputs.InputSpec(32, 32, depth=3)


def save_run(folder, seed, spec=SPEC):
    """Write a run with an untrained network."""
    import json

    keras.utils.set_random_seed(seed)
    folder.mkdir()
    unet.build_unet(spec.shape, levels=2, base=4, window_stages=(0,)).save(folder / "model.keras")
    runs.write_record(folder, {"parameters": {}, "input_spec": json.loads(spec.to_json()), "wall_seconds": 0})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [save_run(root / "a", 0), save_run(root / "b", 1, inputs.InputSpec(48, 32, depth=5))]


@pytest.fixture(scope="module")
def hidden(competition):
    return scans.read(competition, "test")


def test_each_scan_comes_once_at_the_size_of_its_files(folders, hidden):
    found = dict(inference.predict(folders[:1], hidden, batch_size=4, progress=False))
    assert list(found) == hidden["scan"].unique().tolist()
    for name, probabilities in found.items():
        rows = hidden[hidden["scan"] == name]
        assert probabilities.shape == (len(rows), rows["height"].iloc[0], rows["width"].iloc[0], 3)
        assert probabilities.dtype == np.float32
        assert 0 <= probabilities.min() <= probabilities.max() <= 1


def test_runs_are_averaged(folders, hidden):
    some = hidden[hidden["scan"] == hidden["scan"].iloc[0]]
    one, other, both = (
        next(inference.predict(chosen, some, 4, progress=False))[1] for chosen in (folders[:1], folders[1:], folders)
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-5)


def test_batch_size_does_not_matter(folders, hidden):
    some = hidden[hidden["scan"] == hidden["scan"].iloc[0]]
    one, other = (next(inference.predict(folders[:1], some, size, progress=False))[1] for size in (3, 16))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_prediction_of_a_slice_uses_its_own_stack(folders, hidden):
    some = hidden[hidden["scan"] == hidden["scan"].iloc[0]]
    prepared = inputs.prepare(inputs.load(some["path"].tolist()), SPEC)
    network = inference.load(folders[0])
    whole = inference.predict_scan(network, prepared, some, SPEC, 4)
    stack = prepared[scans.stacks(some, SPEC.depth)[2]].transpose(1, 2, 0)[None]
    np.testing.assert_allclose(whole[2], network.predict_on_batch(stack)[0], atol=1e-5)


def test_missing_runs_and_models_are_named(folders, hidden, tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        next(inference.predict([], hidden))
    with pytest.raises(FileNotFoundError, match=r"no run\.json"):
        next(inference.predict([tmp_path], hidden))
    runs.write_record(tmp_path, runs.read(folders[0]).record)
    with pytest.raises(FileNotFoundError, match=r"no model\.keras"):
        next(inference.predict([tmp_path], hidden))


def test_no_scans_give_no_predictions(folders, hidden):
    assert list(inference.predict(folders[:1], hidden.iloc[:0], progress=False)) == []
