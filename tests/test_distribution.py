"""Keras' JAX backend: the same training on one device and, data-parallel, on two."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import keras, numpy as np
from kitlib.layers import augment
from kitlib.data import inputs
from kitlib.layers import losses
from kitlib.data import pipeline
from kitlib.data import scans
from kitlib.training import step as steps
from kitlib import training
from kitlib.models import unet

slices = scans.read(sys.argv[1])
spec = inputs.InputSpec(32, 32, depth=3)
packed = pipeline.pack(slices, spec)
small = {"levels": 2, "base": 4, "window_stages": (0,)}

def curve():
    keras.utils.set_random_seed(0)
    model = steps.AugmentedModel(unet.build_unet(spec.shape, **small), augment.paper())
    model.compile(keras.optimizers.Adam(5e-3), losses.BCEDice(dice_weight=0.5))
    batches = pipeline.dataset(slices, spec, 8, True, packed=packed)
    return model.fit(batches, epochs=3, steps_per_epoch=4, shuffle=False, verbose=0).history["loss"]

assert keras.backend.backend() == "jax"
one = curve()
devices = keras.distribution.list_devices("cpu")
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
two = curve()
run = training.fit_fold(
    slices, sys.argv[2], held_out=slices["case"] == slices["case"].iloc[0], packed=packed, spec=spec,
    recipe=training.Recipe(network_options=small, augment=augment.paper(), epochs=1, batch_size=8),
)
print(json.dumps({"devices": len(devices), "one": one, "two": two, "score": run.score()["score"]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_two_jax_devices_learn_like_one_and_leave_the_same_run_folder(competition, tmp_path):
    own = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(competition), str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2
    assert found["one"][-1] < found["one"][0]
    assert found["two"] == pytest.approx(found["one"], rel=2e-3)
    assert 0 <= found["score"] <= 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir())[-2:] == ["run.json", "score.json"]
