"""The choice of precision and cards, for machines that this one is not."""

import re
import sys
import types

import keras
import pytest

from kitlib.training import devices


def test_devices_say_what_was_chosen_and_why():
    found = devices.detect()
    assert found.precision in {"float32", "mixed_float16", "mixed_bfloat16"}
    assert found.precision in str(found)
    if not found.accelerators:
        assert "no GPU" in str(found)
        assert ("no XLA" in str(found)) == (keras.backend.backend() == "tensorflow")


@pytest.mark.parametrize(
    ("found", "precision", "words"),
    [
        (
            [("Tesla T4", (7, 5))] * 2,
            "mixed_float16",
            "2 x Tesla T4: a fold per card; a single training",
        ),
        ([("Tesla T4", (7, 5))], "mixed_float16", "Tesla T4: compute capability 7.5"),
        ([("Tesla T4", (7, 5))], "mixed_float16", "XLA on or off by the time of a few steps"),
        ([("Tesla P100", (6, 0))], "float32", "no 16-bit tensor cores"),
        ([("L4", (8, 9))], "mixed_bfloat16", "bfloat16"),
        ([("L4", (8, 9)), ("Tesla T4", (7, 5))], "mixed_float16", "L4 and Tesla T4: a fold per card"),
    ],
)
def test_gpus_get_the_precision_that_the_oldest_of_them_can_do(found, precision, words):
    chosen = devices._gpus(found)
    assert chosen.precision == precision
    assert words in str(chosen)
    assert chosen.shared == ()


@pytest.fixture
def two_cards(monkeypatch):
    """A machine with two T4s."""
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(devices, "listed", lambda kind: ["GPU:0", "GPU:1"] if kind == "gpu" else [])
    monkeypatch.setattr(devices, "_details", lambda backend: [("Tesla T4", (7, 5))] * 2)


def test_cards_share_a_batch_only_where_told_to_and_what_differs_is_said(two_cards):
    alone, shared = devices.detect(), devices.detect(share=True)
    assert (alone.accelerators, alone.shared) == (2, ())
    assert (shared.accelerators, shared.shared) == (2, ("GPU:0", "GPU:1"))
    assert "Dice, batch norms and CutMix see one card's share" in str(shared)


def test_one_of_two_cards_can_be_chosen(two_cards):
    chosen = devices.detect(cards=1, share=True)
    assert (chosen.accelerators, chosen.shared) == (1, ())
    assert str(chosen).startswith("Tesla T4: compute")


@pytest.mark.parametrize("sign", ["driver", "program"])
@pytest.mark.parametrize(
    ("visible", "words"), [(None, r'pip install "tensorflow\[and-cuda\]"'), ("-1", "'-1' hides"), ("", "'' hides")]
)
def test_a_card_that_tensorflow_does_not_see_is_named_with_the_remedy(monkeypatch, tmp_path, sign, visible, words):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(devices, "listed", lambda kind: [])
    monkeypatch.setattr(devices, "NVIDIA", (tmp_path / "version",))
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert str(devices.detect()).endswith("no GPU: float32, no XLA")
    if sign == "driver":
        (tmp_path / "version").touch()
    else:
        monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert re.search(f"has an NVIDIA GPU that .*{words}", str(devices.detect()))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_clearing_keeps_precision_and_distribution(precision):
    before = keras.config.dtype_policy()
    spread = object()  # Keras keeps whatever it is given; a real one cannot be made on TensorFlow before Keras 3.15
    try:
        keras.config.set_dtype_policy(precision)
        keras.distribution.set_distribution(spread)
        with pytest.raises(FloatingPointError), devices.cleared():
            raise FloatingPointError
        assert keras.config.dtype_policy().name == precision
        assert keras.distribution.distribution() is spread
        keras.utils.clear_session()
        assert keras.config.dtype_policy().name != precision, "Keras resets it: that is why `cleared` exists"
    finally:
        keras.distribution.set_distribution(None)
        keras.config.set_dtype_policy(before)


def test_one_device_needs_no_strategy():
    assert devices.Devices(1, "float32", "one").strategy() is None
    assert devices.Devices(1, "float32", "one").xla == "auto"
    with devices.scope(None):
        pass


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_devices_that_share_a_batch_go_without_xla(monkeypatch):
    monkeypatch.setattr(devices, "_mirrored", lambda names: names)
    assert devices.Devices(2, "float32", "two", ("GPU:0", "GPU:1")).xla is False


class Stub:
    """A model whose step takes some seconds, the first one longer, by a clock of its own."""

    now = 0.0

    def __init__(self, seconds):
        self.seconds = [60.0, *seconds]

    def train_on_batch(self, batch):
        if isinstance(self.seconds[0], Exception):
            raise self.seconds[0]
        Stub.now += self.seconds.pop(0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is a choice on TensorFlow alone")
@pytest.mark.parametrize(
    ("without", "compiled", "expected"),
    [
        ([0.2, 0.2, 0.2, 0.2, 9.0], [0.1] * 5, {"on": True, "with": 100.0, "without": 200.0}),
        ([0.1] * 5, [0.2, 0.05, 0.2, 0.05, 0.2], {"on": False, "with": 200.0, "without": 100.0}),
        ([0.1] * 5, [0.1] * 5, {"on": False, "with": 100.0, "without": 100.0}),
        ([0.1] * 5, None, {"on": False, "with": None, "without": 100.0}),
    ],
)
def test_xla_is_on_where_the_median_step_is_faster_with_it(without, compiled, expected):
    import tensorflow as tf

    def make(on):
        made = Stub(without if not on else compiled or [])
        if on and compiled is None:
            made.seconds = [tf.errors.UnimplementedError(None, None, "no such kernel")]
        return made

    assert devices.time_xla(make, {}, clock=lambda: Stub.now) == expected


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is a choice on TensorFlow alone")
def test_steps_are_timed_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(devices, "_mirrored", lambda names: names)
    assert devices.Devices(1, "float32", "one").times_xla
    assert not devices.Devices(0, "float32", "none").times_xla
    assert not devices.Devices(2, "float32", "two", ("GPU:0", "GPU:1")).times_xla
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert not devices.Devices(1, "float32", "one").times_xla


def test_a_backend_that_errs_where_there_is_no_gpu_is_a_cpu(monkeypatch):
    def none(kind):
        raise RuntimeError(f"Unknown backend: {kind!r} requested")

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "list_devices", none)
    assert devices.listed("gpu") == []
    assert devices.detect().accelerators == 0


@pytest.mark.parametrize(
    ("capability", "precision"),
    [("7.5", "mixed_float16"), ("8.0", "mixed_bfloat16"), ("6.0", "float32"), ("gfx90a", "float32")],
)
def test_jax_gets_the_precision_of_the_chip_and_says_that_one_of_two_is_used(monkeypatch, capability, precision):
    gpu = types.SimpleNamespace(device_kind="a GPU", compute_capability=capability)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=lambda kind: [gpu, gpu]))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(devices, "listed", lambda kind: ["gpu:0", "gpu:1"] if kind == "gpu" else [])
    chosen = devices.detect()
    assert chosen.precision == precision
    assert "2 x a GPU: one of 2 is used" in str(chosen)
    assert chosen.shared == ()


def test_a_tpu_is_for_jax_and_tensorflow_says_so(monkeypatch):
    monkeypatch.setattr(devices, "listed", lambda kind: [f"tpu:{k}" for k in range(8)] if kind == "tpu" else [])
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(RuntimeError, match="TPU, which the kit uses only with JAX: set KERAS_BACKEND=jax"):
        devices.detect()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    chosen = devices.detect()
    assert chosen.precision == "mixed_bfloat16"
    assert "one of 8 is used" in str(chosen)


def test_chosen_precision_is_used():
    before = keras.config.dtype_policy()
    try:
        chosen = devices.Devices(1, "mixed_bfloat16", "a test")
        assert devices.use(chosen) is chosen
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
