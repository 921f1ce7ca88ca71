"""What the attentions cost: forward and training step of the network with and without them, in one process.

`python benchmarks/attention.py [--levels 4] [--steps 8] [--save]`. The variants take turns, so a slow moment hits all
of them; Keras' backend and device are as configured. Two more tables follow: the time of each layer per pixel on maps
of three sizes, which must not grow, and each step inside the window attention of the finest stage.

On a CPU under TensorFlow, memory traffic bounds the window attention: each operation makes its own pass over maps and
scores. Tried without a gain beyond the noise of a busy machine: a custom gradient (`keras.ops.custom_gradient`, softmax
stored or recomputed, sums as products with ones, no maximum), separate projections, windows cut before the projections,
larger thresholds of the memory allocator. Slower: queries and keys in one product per window on the coarser stages, XLA
around the attention.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops

from kitlib import files
from kitlib.layers import losses
from kitlib.layers.attention import (
    ChannelNormalization,
    ExternalAttention,
    LocalWindowAttention,
    attend,
    join_windows,
    split_windows,
)
from kitlib.models.unet import NO_ATTENTION, build_unet

RESULTS = Path(__file__).parent / "results" / "attention.md"
SHAPE, BATCH = (128, 128, 5), 16
VARIANTS = {
    "plain": NO_ATTENTION,
    "external at the bottom": {"window_stages": ()},
    "windows on stages 0, 1, 2": {"external_bottleneck": False},
    "both (the paper's)": {},
}
PARTS = {  # name: layer, channels, side of its maps in the network, heads
    "window, stage 0": (LocalWindowAttention, 16, 128, 2),
    "window, stage 1": (LocalWindowAttention, 32, 64, 4),
    "window, stage 2": (LocalWindowAttention, 64, 32, 8),
    "external": (ExternalAttention, 256, 8, 32),
}


def seconds(tasks: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Measure the best time of each task after two warm-up calls; the tasks take turns."""
    taken = {name: [] for name in tasks}
    for turn in range(rounds + 2):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if turn > 1:
                taken[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in taken.items()}


def training(options: dict, levels: int) -> tuple[Callable, Callable]:
    """Make a function that predicts a batch, and one that trains on it."""
    model = build_unet(SHAPE, levels=levels, **options)
    model.compile("adam", losses.BCEDice(dice_weight=0.5))
    rng = np.random.default_rng(0)
    images = ops.convert_to_tensor(rng.normal(size=(BATCH, *SHAPE)).astype("float32"))
    masks = ops.convert_to_tensor((rng.random((BATCH, *SHAPE[:2], 3)) > 0.9).astype("float32"))
    return lambda: model.predict_on_batch(images), lambda: model.train_on_batch(images, masks)


def table(levels: int, rounds: int) -> str:
    """Time the variants, as a Markdown table."""
    made = {name: training(options, levels) for name, options in VARIANTS.items()}
    forward = seconds({name: pair[0] for name, pair in made.items()}, rounds)
    step = seconds({name: pair[1] for name, pair in made.items()}, rounds)
    lines = ["| levels | network | forward ms | step ms | images/s | step against plain |", "|--|--|--|--|--|--|"]
    for name in VARIANTS:
        more = step[name] / step["plain"] - 1
        lines.append(
            f"| {levels} | {name} | {forward[name] * 1e3:.0f} | {step[name] * 1e3:.0f} | {BATCH / step[name]:.1f} "
            f"| {more:+.1%} |"
        )
    return "\n".join(lines)


def growth(rounds: int) -> str:
    """Time each attention with its normalisation per pixel, on its maps and on maps of 4 and 16 times the pixels."""
    lines = ["| attention | channels | side | forward ns/pixel | step ns/pixel |", "|--|--|--|--|--|"]
    for name, (kind, channels, side, heads) in PARTS.items():
        for factor in (1, 2, 4):
            shape = (1, side * factor, side * factor, channels)
            maps = keras.Input(shape[1:])
            model = keras.Model(maps, layers.Add()([maps, kind(heads)(ChannelNormalization()(maps))]))
            model.compile("sgd", "mse")
            x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
            tasks = {"f": lambda m=model, x=x: m.predict_on_batch(x), "s": lambda m=model, x=x: m.train_on_batch(x, x)}
            taken = seconds(tasks, rounds)
            forward, step = (1e9 * taken[key] / np.prod(shape[:3]) for key in "fs")
            lines.append(f"| {name} | {channels} | {shape[1]} | {forward:.0f} | {step:.0f} |")
    return "\n".join(lines)


class Step(layers.Layer):
    """One step of the attention as a layer; a weight before it makes the gradient pass through it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, maps):
        return self.function(maps * self.scale)

    def compute_output_shape(self, shape):
        return shape


def steps_inside(rounds: int) -> str:
    """Time each step of the window attention on the finest stage's maps, minus the time of an empty step.

    The layer cuts queries, keys and values together and joins the result once: four transpositions, two per row.
    """
    side, channels, heads, window = SHAPE[0], 16, 2, 4
    maps, squares = (BATCH, side, side, channels), (BATCH, heads * (side // window) ** 2, window**2, channels // heads)
    scores = (*squares[:3], window**2)
    kernel = ops.ones((channels, channels))
    steps = {
        "nothing, on maps": (maps, lambda x: x),
        "normalisation": (maps, ChannelNormalization()),
        "normalisation, Keras' own (not used on a CPU)": (maps, layers.LayerNormalization()),
        "one projection (of four)": (maps, lambda x: ops.matmul(x, kernel)),
        "cut into windows and heads, and back (one of two)": (
            maps,
            lambda x: join_windows(split_windows(x, heads, window), side, side, window),
        ),
        "nothing, on scores": (scores, lambda x: x),
        "softmax": (scores, lambda x: ops.softmax(x, axis=-1)),
        "nothing, on heads": (squares, lambda x: x),
        "both products and the softmax": (squares, lambda x: attend(x, x, x)),
    }
    tasks = {}
    for name, (shape, function) in steps.items():
        inputs = keras.Input(shape[1:])
        model = keras.Model(inputs, Step(function)(inputs))
        model.compile("sgd", "mse")
        x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
        tasks[name] = lambda m=model, x=x: m.train_on_batch(x, x)
    taken, idle = seconds(tasks, rounds), 0.0
    lines = ["| step of the window attention, 16 channels, 128 x 128 | forward and backward ms |", "|--|--|"]
    for name, each in taken.items():
        idle = each if name.startswith("nothing") else idle
        if not name.startswith("nothing"):
            lines.append(f"| {name} | {(each - idle) * 1e3:.0f} |")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine and the versions."""
    devices = keras.distribution.list_devices("gpu") or [f"{os.cpu_count()} CPU cores"]
    return (
        f"{platform.processor() or platform.machine()}, {devices[0]}; Python {platform.python_version()}, "
        f"Keras {keras.__version__} on {keras.backend.backend()}; best of several steps, batch {BATCH}, {SHAPE}; "
        f"load average at the start {os.getloadavg()[0]:.1f}."
    )


def main() -> None:
    """Print the tables, and save them with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=int, nargs="*", default=[4, 5])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/attention.md")
    options = parser.parse_args()
    text = f"# Cost of the attentions\n\n{machine()}\n"
    print(text)
    for part in (
        *(lambda n=n: table(n, options.steps) for n in options.levels),
        lambda: growth(options.steps),
        lambda: steps_inside(options.steps),
    ):
        made = part() + "\n"
        print(made, flush=True)
        text += "\n" + made
    text += "\n" + " ".join(__doc__.split("\n\n")[-1].split()) + "\n"
    if options.save:
        with files.replacing(RESULTS) as file:
            file.write(text)


if __name__ == "__main__":
    main()
