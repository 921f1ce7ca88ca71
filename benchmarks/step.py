"""Training steps per second: this kit's networks beside the same in PyTorch, and MONAI's U-Net.

`python benchmarks/step.py [--rounds 6] [--long] [--save]`. Every contestant runs in a process of its own, one after the
other: 128 x 128 x 5, batch 16, BCE + 0.5 Dice, Adam. The share of the peak is the arithmetic of the convolutions
(forward once, backward twice) over the speed of a large matrix product on the same device just before. --long runs
XLA, JAX, torch.compile, oneDNN and layout, some a minute each, beside the two plain contestants, and saves a table of
its own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "step.md"
PACKAGES = "keras tensorflow jax torch monai segmentation_models_pytorch"
SHAPE, BATCH = (128, 128, 5), 16
WIDTHS = {4: (16, 32, 64, 128, 256), 5: (16, 32, 64, 128, 256, 256)}
ALWAYS = ("Keras on TF, plain, 4 levels", "PyTorch eager, plain, 4 levels")
# name: needed package, contestant, its settings, whether only with --long
FIELD = {
    "Keras on TF, plain, 4 levels": ("tensorflow", "keras", {"backend": "tensorflow"}, False),
    "Keras on TF, attention, 4 levels": ("tensorflow", "keras", {"backend": "tensorflow", "attention": True}, False),
    "Keras on TF, plain, 5 levels": ("tensorflow", "keras", {"backend": "tensorflow", "levels": 5}, False),
    "Keras on TF, plain, bfloat16": (
        "tensorflow",
        "keras",
        {"backend": "tensorflow", "policy": "mixed_bfloat16"},
        False,
    ),
    "PyTorch eager, plain, 4 levels": ("torch", "torch", {}, False),
    "PyTorch eager, plain, 5 levels": ("torch", "torch", {"levels": 5}, False),
    "PyTorch eager, plain, bfloat16": ("torch", "torch", {"half": True}, False),
    "MONAI U-Net, eager": ("monai", "monai", {}, False),
    "Keras on TF, Lite0": ("tensorflow", "keras", {"backend": "tensorflow", "encoder": "efficientnet-lite0"}, False),
    "smp eager, Lite0": ("segmentation_models_pytorch", "smp", {"encoder": "efficientnet-lite0"}, False),
    "Keras on TF, V2-S": ("tensorflow", "keras", {"backend": "tensorflow", "encoder": "efficientnetv2-s"}, False),
    "smp eager, V2-S": ("segmentation_models_pytorch", "smp", {"encoder": "efficientnetv2-s"}, False),
    "Keras on TF without oneDNN, plain": ("tensorflow", "keras", {"backend": "tensorflow", "onednn": False}, True),
    "PyTorch eager, plain, channels first": ("torch", "torch", {"channels_last": False}, True),
    "Keras on TF with XLA, plain": ("tensorflow", "keras", {"backend": "tensorflow", "jit": True}, True),
    "Keras on JAX, plain": ("jax", "keras", {"backend": "jax", "jit": True}, True),
    "Keras on JAX, attention": ("jax", "keras", {"backend": "jax", "jit": True, "attention": True}, True),
    "PyTorch compiled, plain": ("torch", "torch", {"compiled": True}, True),
}


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Images and masks, channels last."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, *SHAPE)).astype("float32")
    return images, (rng.random((BATCH, *SHAPE[:2], 3)) > 0.9).astype("float32")


def arithmetic(levels: int) -> float:
    """Floating-point operations of the convolutions in one training step of the plain network."""
    widths, side, total = WIDTHS[levels], SHAPE[0], 0
    for stage, width in enumerate(widths):
        pixels = (side >> stage) ** 2
        before = widths[stage - 1] if stage else SHAPE[2]
        total += pixels * 9 * width * (before + width)
        if stage < levels:  # the way up: 2x2 up-convolution, then two convolutions on twice the channels
            total += pixels * width * widths[stage + 1] + pixels * 9 * width * 3 * width
    return 3 * 2 * BATCH * (total + SHAPE[0] ** 2 * widths[0] * 3)


def keras_steps(
    backend, rounds, levels=4, attention=False, policy="float32", jit=False, onednn=True, encoder=None
) -> dict:
    """Time this kit's network."""
    os.environ.update(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS=str(int(onednn)))
    import keras

    from kitlib.layers import losses
    from kitlib.models.unet import NO_ATTENTION, build_unet

    keras.config.set_dtype_policy(policy)
    options = {} if attention else NO_ATTENTION
    model = build_unet(SHAPE, **({"encoder": encoder} if encoder else {"levels": levels, **options}))
    model.compile("adam", losses.BCEDice(dice_weight=0.5), jit_compile=jit)
    images, masks = (keras.ops.convert_to_tensor(x) for x in batch())
    large = keras.ops.ones((2048, 2048), "bfloat16" if "bfloat" in policy else "float32")

    def product():
        return keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.matmul(large, large)[0, 0], "float32"))

    return timed(lambda: model.train_on_batch(images, masks), product, rounds, model.count_params())


def torch_steps(rounds, levels=4, half=False, compiled=False, channels_last=True, network=None) -> dict:
    """Time the same network in plain PyTorch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = (network or torch_unet(levels)).to(device, memory_format=layout)
    run = torch.compile(network) if compiled else network
    optimizer = torch.optim.Adam(network.parameters(), eps=1e-7)
    images, masks = (
        torch.from_numpy(x).permute(0, 3, 1, 2).to(device).contiguous(memory_format=layout) for x in batch()
    )

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = run(images)
        logits = logits.float()
        chances = torch.sigmoid(logits)
        dims = (0, 2, 3)
        overlap = (2 * (chances * masks).sum(dims) + 1) / (chances.sum(dims) + masks.sum(dims) + 1)
        cross = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
        loss = cross + 0.5 * (1 - overlap.mean())
        loss.backward()
        optimizer.step()
        return loss.item()

    large = torch.ones(2048, 2048, device=device, dtype=torch.bfloat16 if half else torch.float32)
    weights = sum(p.numel() for p in network.parameters())
    return timed(step, lambda: (large @ large)[0, 0].item(), rounds, weights)


def torch_unet(levels: int):
    """The plain network of `kitlib.models.unet` in PyTorch."""
    import torch
    from torch import nn

    def pair(inputs, width):
        steps = []
        for before in (inputs, width):
            steps += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        return nn.Sequential(*steps)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = WIDTHS[levels]
            self.down = nn.ModuleList(map(pair, (SHAPE[2], *widths[:-1]), widths))
            self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
            self.up = nn.ModuleList(pair(2 * width, width) for width in widths[:-1])
            self.head = nn.Conv2d(widths[0], 3, 1)

        def forward(self, maps):
            skips = []
            for stage, block in enumerate(self.down):
                maps = block(maps if not stage else nn.functional.max_pool2d(maps, 2))
                skips.append(maps)
            for stage in reversed(range(levels)):
                maps = self.up[stage](torch.cat([skips[stage], self.grow[stage](maps)], 1))
            return self.head(maps)

    return UNet()


def monai_steps(rounds) -> dict:
    """Time MONAI's U-Net of the same widths; it is built otherwise: strided convolutions, instance norm, PReLU."""
    from monai.networks.nets import UNet

    network = UNet(2, SHAPE[2], 3, WIDTHS[4], strides=(2,) * 4, num_res_units=2)
    return {**torch_steps(rounds, network=network), "share": None}


def smp_steps(rounds, encoder) -> dict:
    """Time the U-Net of segmentation_models_pytorch on the same encoder; its decoder is wider."""
    from peers import smp_unet

    return {**torch_steps(rounds, network=smp_unet(encoder)), "share": None}


def timed(step, product, rounds, weights) -> dict:
    """Best times of a step and of a product of two 2048 x 2048 matrices."""
    best = {}
    for name, task, count in (("product", product, 5), ("step", step, rounds)):
        task(), task()
        times = []
        for _ in range(count):
            started = time.perf_counter()
            task()
            times.append(time.perf_counter() - started)
        best[name] = min(times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": best["step"], "peak": 2 * 2048**3 / best["product"], "memory": peak, "weights": int(weights)}


def main() -> None:
    """Run every contestant, print the table, save it with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--long", action="store_true", help="compilers, oneDNN and layout")
    parser.add_argument("--save", action="store_true", help="write step.md, or compiled.md with --long")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _, contestant, settings, _ = FIELD[options.one]
        run = {"keras": keras_steps, "torch": torch_steps, "monai": monai_steps, "smp": smp_steps}[contestant]
        print(json.dumps(run(rounds=options.rounds, **settings)))
        return
    lines = [
        "# Training steps\n",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions()}; "
        f"load average at the start {os.getloadavg()[0]:.1f}.\n",
        "| network | weights | images/s | ms per step | peak memory MiB | share of the product's peak |",
        "|--|--|--|--|--|--|",
    ]
    seconds = {}
    for name, (package, _, settings, long) in FIELD.items():
        if long != options.long and name not in ALWAYS:
            continue
        if find_spec(package) is None:
            lines.append(f"| {name} | {package} is not installed | | | | |")
            continue
        command = [sys.executable, __file__, "--one", name, "--rounds", str(options.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines.append(f"| {name} | failed: {done.stderr.strip().splitlines()[-1][:80]} | | | | |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        seconds[name] = found["seconds"]
        share = ""
        if "share" not in found and not {"attention", "encoder"} & set(settings):
            ratio = arithmetic(settings.get("levels", 4)) / found["seconds"] / found["peak"]
            share = f"{ratio:.0%} of {found['peak'] / 1e9:.0f} GFLOP/s"
        lines.append(
            f"| {name} | {found['weights']:,} | {BATCH / found['seconds']:.1f} | {found['seconds'] * 1e3:.0f} "
            f"| {found['memory']:.0f} | {share} |"
        )
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", decisive(seconds)]) + "\n"
    print("\n" + text)
    if options.save:
        from kitlib import files

        target = RESULTS.with_name("compiled.md") if options.long else RESULTS
        with files.replacing(target) as file:
            file.write(text)


def decisive(seconds: dict[str, float]) -> str:
    """Compare every contestant's images per second with those of the plain network of the same package."""
    ratios = []
    for package, plain in zip(("Keras", "PyTorch"), ALWAYS, strict=True):
        others = [name for name in seconds if name.startswith(package) and name not in ALWAYS and "Lite0" not in name]
        others = [name for name in others if "V2-S" not in name]
        ratios += [f"{name} {seconds[plain] / seconds[name]:.2f}" for name in others if plain in seconds]
    both = f"{seconds[ALWAYS[1]] / seconds[ALWAYS[0]]:.2f}" if set(ALWAYS) <= set(seconds) else "not measured"
    pairs = [(f"Keras on TF, {name}", f"smp eager, {name}") for name in ("Lite0", "V2-S")]
    encoders = [
        f"{ours}: {seconds[theirs] / seconds[ours]:.2f}" for ours, theirs in pairs if {ours, theirs} <= set(seconds)
    ]
    return (
        f"Keras on TF over PyTorch eager, plain, 4 levels: {both} times the images per second. "
        f"Over smp, same encoder: {'; '.join(encoders) or 'not measured'}. "
        f"What decides it, in times the plain 4 levels of the same package: {'; '.join(ratios)}."
    )


def versions() -> str:
    """List the versions of the packages that take part."""
    from importlib.metadata import version

    return ", ".join(f"{package} {version(package)}" for package in PACKAGES.split() if find_spec(package))


if __name__ == "__main__":
    main()
