"""Networks on an encoder that another Keras has saved.

encoders.zip holds config.json of `build_unet((32, 64, 5), base=4, encoder=NAME).save(...)`, as VERSION/NAME.json, from
both ends of the versions that the kit supports.
"""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from kitlib import runs
from kitlib.inference import networks
from kitlib.models.unet import build_unet

SAVED = Path(__file__).with_name("encoders.zip")
with zipfile.ZipFile(SAVED) as content:
    NAMES = sorted(content.namelist())


@pytest.mark.slow
@pytest.mark.parametrize("saved", NAMES)
def test_a_network_that_another_keras_has_saved_computes_the_same(tmp_path, saved):
    keras.utils.set_random_seed(0)
    network = build_unet((32, 64, 5), base=4, encoder=Path(saved).stem)
    images = np.random.default_rng(0).random((1, 32, 64, 5), np.float32)
    expected = network.predict_on_batch(images)
    network.save(tmp_path / "own.keras")
    runs.write_record(tmp_path, {"recipe": {"network": "kitlib.models:build_unet"}})
    with (
        zipfile.ZipFile(SAVED) as configs,
        zipfile.ZipFile(tmp_path / "own.keras") as own,
        zipfile.ZipFile(tmp_path / "model.keras", "w") as other,
    ):
        for name in own.namelist():
            other.writestr(name, configs.read(saved) if name == "config.json" else own.read(name))
    found = networks.load(tmp_path)
    assert [layer.name for layer in found.layers] == [layer.name for layer in network.layers]
    np.testing.assert_allclose(found.predict_on_batch(images), expected, atol=1e-6)


def test_both_ends_of_the_supported_versions_are_there():
    versions = {name.split("/")[0] for name in NAMES}
    assert versions == {"3.13.2", "3.15.1"}
    assert len(NAMES) == 6
