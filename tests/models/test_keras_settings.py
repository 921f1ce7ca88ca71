"""Layers, losses and networks under the settings that a keras.json can hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kitlib.models.unet import check_keras

ROOT = str(Path(__file__).parents[2])
CODE = """
import sys, keras, numpy as np
from keras import ops
from kitlib.layers import Augment, BCEDice, ExternalAttention, LocalWindowAttention, LovaszHinge, monitors
from kitlib.models import build_unet
rng = np.random.default_rng(0)
images, masks = rng.random((2, 8, 12, 6)).astype("float32"), (rng.random((2, 8, 12, 3)) > 0.6).astype("uint8")
guess = rng.random((2, 8, 12, 3)).astype("float32")
moved = Augment()(images, masks, np.int32([3, 4]), training=True)
found = {"images": moved[0], "masks": moved[1]}
for kind in (LocalWindowAttention, ExternalAttention):
    layer = kind(heads=2)
    layer.build(images.shape)
    layer.set_weights([np.linspace(-1, 1, weight.size).reshape(weight.shape) for weight in layer.get_weights()])
    found[kind.__name__] = layer(images)
found |= {loss.__name__: loss()(masks, guess) for loss in (BCEDice, LovaszHinge)}
dice = monitors.Dice()
dice.update_state(masks, guess)
found["dice"] = dice.result()
np.savez(sys.argv[1], **{name: np.asarray(ops.convert_to_numpy(part), "float32") for name, part in found.items()})
print(keras.config.image_data_format(), keras.config.floatx())
print(build_unet((16, 16, 3), levels=2, base=4).output_shape)
"""


def run_with(settings, home):
    """Run the code in a process whose keras.json holds the settings; give the process and what it computed."""
    (home / "keras.json").write_text(json.dumps(settings), encoding="utf-8")
    surroundings = {**os.environ, "KERAS_HOME": str(home), "PYTHONPATH": os.pathsep.join([ROOT, *sys.path])}
    command = [sys.executable, "-c", CODE, str(home / "found.npz")]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert (home / "found.npz").exists(), done.stderr[-2000:]
    return done, np.load(home / "found.npz")


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    done, found = run_with({}, tmp_path_factory.mktemp("usual"))
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize(
    ("setting", "value", "needed"),
    [("image_data_format", "channels_first", "channels_last"), ("floatx", "float16", "float32")],
)
def test_layers_agree_under_a_setting_and_a_network_names_it(setting, value, needed, usual, tmp_path):
    """The attentions compute in float16 where floatx says so; augmentation, losses and metrics never do."""
    done, found = run_with({setting: value}, tmp_path)
    assert value in done.stdout
    for name in usual.files:
        half = value == "float16" and name.endswith("Attention")
        tolerance = (0.02 if half else 1e-6) * np.abs(usual[name]).max()
        np.testing.assert_allclose(found[name], usual[name], atol=tolerance, err_msg=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"Keras' {setting} is {value!r}, but the networks need {needed!r}; change it in keras.json" in last
    assert f"keras.config.set_{setting}('{needed}')" in last


@pytest.mark.parametrize(
    ("policy", "fits"), [("float64", True), ("mixed_float16", True), ("bfloat16", False), ("float16", False)]
)
def test_weights_of_16_bits_are_refused(policy, fits):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        if fits:
            check_keras()
        else:
            with pytest.raises(ValueError, match=rf"floatx is '{policy}'.*mixed_float16"):
                check_keras()
    finally:
        keras.config.set_dtype_policy(before)
