"""Training steps on one GPU: `python benchmarks/gpu.py [--seconds 30] [--tiny] [--save]`.

The kit's networks on the JAX backend of Keras in bfloat16, with augmentation in the step, at 256 x 384: the paper's and
the U-Net on EfficientNetV2-S; beside it the U-Net of segmentation_models_pytorch on the same encoder under
torch.compile; and the kit's elastic distortion beside kornia's. Every contestant runs in a process of its own. JAX
needs its CUDA libraries, `pip install "jax[cuda12]"`. --tiny tries the script on a CPU with small sizes and saves
nothing.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "gpu.md"
WARM = 3
# name: needed package, function, its argument
FIELD = {
    "kit on JAX, the paper's network": ("jax", "kit", None),
    "kit on JAX, U-Net on EfficientNetV2-S": ("jax", "kit", "efficientnetv2-s"),
    "segmentation_models_pytorch, the same encoder, torch.compile": (
        "segmentation_models_pytorch",
        "smp",
        "efficientnetv2-s",
    ),
    "elastic distortion: kit on JAX": ("jax", "kit_elastic", None),
    "elastic distortion: kornia": ("kornia", "kornia_elastic", None),
}


def batch(tiny: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make images, masks and seeds, channels last."""
    count, height, width = (2, 64, 96) if tiny else (16, 256, 384)
    rng = np.random.default_rng(0)
    images = rng.random((count, height, width, 5), np.float32)
    return images, (rng.random((count, height, width, 3)) > 0.9).astype("float32"), np.arange(count, dtype=np.int32)


def rate(step, count: int, seconds: float) -> float:
    """Return images per second; `step` waits until the device is done."""
    for _ in range(WARM):
        step()
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step()
        rounds += 1
    return rounds * count / (time.perf_counter() - started)


def kit(encoder: str | None, tiny: bool, seconds: float) -> dict:
    """Train a network of the kit with its augmentation."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    from kitlib.layers import augment, losses
    from kitlib.models import build_unet
    from kitlib.training import step

    keras.config.set_dtype_policy("mixed_bfloat16")
    images, masks, seeds = batch(tiny)
    network = build_unet(images.shape[1:], **({"encoder": encoder} if encoder else {}))
    model = step.AugmentedModel(network, augment.Augment())
    model.compile("adamw", losses.BCEDice(dice_weight=0.5), jit_compile=True)
    data = {"images": images, "masks": masks.astype(np.uint8), "seed": seeds, "weight": np.ones(len(seeds), "float32")}
    found = rate(lambda: model.train_on_batch(data), len(images), seconds)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"rate": found, "memory": memory, "device": jax.devices()[0].device_kind}


def kit_elastic(_, tiny: bool, seconds: float) -> dict:
    """Distort images and masks by the kit's layer."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    from kitlib.layers import elastic

    images, masks, seeds = map(jax.numpy.asarray, batch(tiny))

    @jax.jit
    def distort(images, masks, seeds):
        field = elastic.displacement(seeds, images.shape[:3], points=4, sigma_px=0.03 * images.shape[1])
        return elastic.warp(images, field, order=1), elastic.warp(masks, field, order=0)

    found = rate(lambda: jax.block_until_ready(distort(images, masks, seeds)), len(images), seconds)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"rate": found, "memory": memory, "device": jax.devices()[0].device_kind}


def smp(encoder: str, tiny: bool, seconds: float) -> dict:
    """Train the U-Net of segmentation_models_pytorch under torch.compile, without augmentation."""
    import torch

    from peers import smp_unet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, masks, _ = batch(tiny)
    layout = {"device": device, "memory_format": torch.channels_last}
    images, masks = (torch.from_numpy(part).permute(0, 3, 1, 2).to(**layout) for part in (images, masks))
    network = smp_unet(encoder).to(**layout)
    optimizer = torch.optim.AdamW(network.parameters())
    run = torch.compile(network)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            logits = run(images)
        logits = logits.float()
        chances = torch.sigmoid(logits)
        overlap = (2 * (chances * masks).sum((0, 2, 3)) + 1) / (chances.sum((0, 2, 3)) + masks.sum((0, 2, 3)) + 1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks) + 0.5 * (1 - overlap.mean())
        loss.backward()
        optimizer.step()
        return loss.item()

    found = rate(step, len(images), seconds)
    return {"rate": found} | of_torch(device)


def kornia_elastic(_, tiny: bool, seconds: float) -> dict:
    """Distort images and masks by kornia."""
    import torch
    from kornia import augmentation

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, masks, _ = batch(tiny)
    images, masks = (torch.from_numpy(part).permute(0, 3, 1, 2).contiguous().to(device) for part in (images, masks))
    layer = augmentation.AugmentationSequential(
        augmentation.RandomElasticTransform(kernel_size=(63, 63), sigma=(12.0, 12.0), p=1.0),
        data_keys=["input", "mask"],
    )

    def step():
        found = layer(images, masks)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return {"rate": rate(step, len(images), seconds)} | of_torch(device)


def of_torch(device: str) -> dict:
    """Return peak memory and name of PyTorch's device."""
    import torch

    if device == "cpu":
        return {"memory": None, "device": "cpu"}
    return {"memory": torch.cuda.max_memory_allocated(), "device": torch.cuda.get_device_name()}


def main() -> None:
    """Run every contestant, print the table, save it with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement (default: 30)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script without a GPU")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/gpu.md")
    parser.add_argument("--one", choices=FIELD, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        _, function, argument = FIELD[given.one]
        print(json.dumps(globals()[function](argument, given.tiny, given.seconds)))
        return
    packages = [name for name in "keras jax torch segmentation_models_pytorch kornia".split() if find_spec(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    lines = [
        "# Training steps on a GPU\n",
        f"Python {platform.python_version()}, {versions}. Batches of 16, 256 x 384 pixels, 5 slices, bfloat16; the "
        "kit's steps include its augmentation and the copy of each batch to the device, the peer's do not. Both "
        "elastic layers draw their own field: the kit's a spline of 4 x 4 points, kornia's noise blurred over 63 "
        "pixels. Memory as each framework reports its peak.\n",
        "| contestant | device | images/s | peak MiB |",
        "|--|--|--|--|",
    ]
    for name, (package, *_) in FIELD.items():
        if find_spec(package) is None:
            lines.append(f"| {name} | {package} is not installed | | |")
            continue
        if not given.tiny and not shutil.which("nvidia-smi"):
            lines.append(f"| {name} | not measured: this machine has no GPU | | |")
            continue
        command = [sys.executable, __file__, "--one", name, "--seconds", str(given.seconds)]
        done = subprocess.run(command + ["--tiny"] * given.tiny, capture_output=True, text=True, check=False)
        if done.returncode:
            lines.append(f"| {name} | failed: {done.stderr.strip().splitlines()[-1][:90]} | | |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        if found["device"] == "cpu" and not given.tiny:
            lines.append(f"| {name} | not measured: {package} does not see the GPU | | |")
            continue
        memory = f"{found['memory'] / 2**20:,.0f}" if found["memory"] else "not reported"
        lines.append(f"| {name} | {found['device']} | {found['rate']:,.1f} | {memory} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if given.save and not given.tiny:
        from kitlib import files

        with files.replacing(RESULTS) as file:
            file.write(text)


if __name__ == "__main__":
    main()
