"""The estimate of the hours on Kaggle: counted by hand on a small network, and as kaggle/README.md quotes it."""

import importlib.util
from pathlib import Path

import keras
from keras import layers

ROOT = Path(__file__).parents[1]


def load():
    spec = importlib.util.spec_from_file_location("hours", ROOT / "kaggle/hours.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_operations_are_counted_by_what_each_kernel_meets():
    images = keras.Input((6, 10, 3))
    maps = layers.Conv2D(7, 3, strides=2, padding="same")(images)  # 3 x 5 pixels
    maps = layers.DepthwiseConv2D(5, padding="same")(maps)
    maps = layers.Conv2DTranspose(2, 2, strides=2)(maps)
    maps = layers.Dense(11)(maps)  # 6 x 10 positions
    by_hand = 15 * 9 * 3 * 7 + 15 * 25 * 7 + 15 * 4 * 7 * 2 + 60 * 2 * 11
    assert load().macs(keras.Model(images, maps)) == by_hand


def test_the_readme_quotes_what_the_command_prints(capsys, monkeypatch):
    hours = load()
    monkeypatch.setattr(hours, "ENCODERS", hours.ENCODERS[:1])
    hours.main()
    head, rule, row, *others = capsys.readouterr().out.splitlines()
    lines = (ROOT / "kaggle/README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(head)
    assert lines[start + 1] == rule
    assert lines[start + 2] == row
    assert sum(map(bool, others)) == 3
    assert set(others) <= set(lines)
