"""Images per second of one elastic warp of images and masks: the kit and nine peers, on one core, two and a GPU.

`python benchmarks/elastic.py [--save]`. A batch is 16 x 128 x 128 x (5 + 3): five slices warped linearly, three masks
by nearest pixel. Each row draws fields and warps; only the rows of whole layers change intensities. On two cores the
peers run as two processes whose rates are added, like the workers of a data loader.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from kitlib import files

BATCH, SIDE, SLICES, MASKS = 16, 128, 5, 3
POINTS, SIGMA_PX = 4, 4.0
STEP, PRESETS = "training step", ("Augment", "paper")
BUSY = "--busy" in sys.argv  # the machine has other work: measure CPU time of one core, not the clock
RESULTS = Path(__file__).parent / "results" / "elastic.md"
PACKAGES = (
    "tensorflow keras jax numpy elasticdeform albumentations opencv-python-headless scipy monai torchio kornia torch"
)


def batch():
    """Images in [0, 1], masks and seeds."""
    random = np.random.default_rng(0)
    images = random.random((BATCH, SIDE, SIDE, SLICES)).astype("float32")
    return images, (images[..., :MASKS] > 0.5).astype("uint8"), np.arange(BATCH, dtype="int32")


def rate(call, seconds=0.6):
    """Measure images per second by the median call, after two warm-up calls."""
    clock = time.process_time if BUSY else time.perf_counter
    call(), call()
    times, start = [], clock()
    while clock() - start < seconds or len(times) < 5:
        before = clock()
        call()
        times.append(clock() - before)
    return BATCH / float(np.median(times))


def ours():
    """Measure the rows of the backend in KERAS_BACKEND: name -> images per second."""
    import keras

    from kitlib.layers import augment

    images, masks, seeds = (keras.ops.convert_to_tensor(part) for part in batch())
    elastic_only = {"rotation": 0, "scale": 0, "shift": 0, "flip": 0, "gamma": 0, "contrast": 0, "brightness": 0}
    elastic_only |= {"noise": 0, "blur": 0, "elastic": SIGMA_PX / SIDE, "points": POINTS}
    layers = {
        "elastic": augment.Augment(**elastic_only),
        "elastic order 3": augment.Augment(**elastic_only, order=3),
        "`augment.Augment()`": augment.Augment(),
        "`augment.paper()`": augment.paper(),
    }
    found = {}
    for name, layer in layers.items():

        def step(images, masks, seeds, layer=layer):
            return layer(images, masks, seeds, training=True)

        for mode, compiled in compile_all(step).items():
            found[f"{name}, {mode}"] = rate(
                lambda compiled=compiled: [np.asarray(part) for part in compiled(images, masks, seeds)]
            )
    trains = keras.backend.backend() == "tensorflow" and (BUSY or len(os.sched_getaffinity(0)) > 1)
    return found | (training_step() if trains else {})


def compile_all(step):
    """Compile a step in each way that the backend has."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return {"JAX compiled": jax.jit(step)}
    import tensorflow as tf

    return {"eager": step, "graph": tf.function(step), "XLA": tf.function(step, jit_compile=True)}


def training_step():
    """Measure a training step of the paper's network without augmentation, in images per second."""
    from kitlib.layers import losses
    from kitlib.models import unet
    from kitlib.training import step as steps

    images, masks, seeds = batch()
    data = {"images": images, "masks": masks, "seed": seeds, "weight": np.ones(BATCH, "float32")}
    model = steps.AugmentedModel(unet.build_unet((SIDE, SIDE, SLICES)))
    model.compile("adam", losses.BCEDice())
    return {STEP: rate(lambda: model.train_on_batch(data), seconds=5.0)}


def elasticdeform(order):
    import elasticdeform as library

    images, masks, _ = batch()
    options = {"points": POINTS, "sigma": SIGMA_PX, "order": [order, 0], "axis": [(0, 1), (0, 1)]}
    return lambda: [library.deform_random_grid([x, m], **options) for x, m in zip(images, masks, strict=True)]


def albumentations():
    import albumentations as library

    images, masks, _ = batch()
    transform = library.ElasticTransform(alpha=150, sigma=12, interpolation=1, p=1)
    return lambda: [transform(image=x, mask=m) for x, m in zip(images, masks, strict=True)]


def keras_layer():
    import keras
    import tensorflow as tf

    images, masks, _ = batch()
    layer = keras.layers.RandomElasticTransform(1.0, (0.5, 0.5), interpolation="bilinear", value_range=(0, 1))
    data = {"images": tf.constant(images), "segmentation_masks": tf.constant(masks)}
    compiled = tf.function(lambda data: layer(data, training=True))
    return lambda: [np.asarray(part) for part in compiled(data).values()]


def monai():
    from monai.transforms import Rand2DElasticd

    images, masks, _ = batch()
    transform = Rand2DElasticd(
        ["image", "mask"], spacing=SIDE // POINTS, magnitude_range=(4, 4), prob=1, mode=["bilinear", "nearest"]
    )
    pairs = [{"image": x.transpose(2, 0, 1), "mask": m.transpose(2, 0, 1)} for x, m in zip(images, masks, strict=True)]
    return lambda: [transform(pair) for pair in pairs]


def torchio():
    import torch
    import torchio as library

    images, masks, _ = batch()
    transform = library.RandomElasticDeformation((7, 7, 4), max_displacement=(6, 6, 0), locked_borders=0)
    subjects = [
        library.Subject(
            image=library.ScalarImage(tensor=torch.tensor(x.transpose(2, 0, 1)[..., None])),
            mask=library.LabelMap(tensor=torch.tensor(m.transpose(2, 0, 1)[..., None])),
        )
        for x, m in zip(images, masks, strict=True)
    ]
    return lambda: [transform(subject) for subject in subjects]


def kornia():
    import torch
    from kornia import augmentation

    images, masks, _ = map(torch.tensor, batch())
    transform = augmentation.AugmentationSequential(
        augmentation.RandomElasticTransform(kernel_size=(63, 63), sigma=(12.0, 12.0), p=1.0),
        data_keys=["input", "mask"],
    )
    images, masks = images.permute(0, 3, 1, 2).contiguous(), masks.permute(0, 3, 1, 2).float().contiguous()
    return lambda: transform(images, masks)


def scipy():
    from scipy import ndimage

    images, masks, _ = batch()
    random, grid = np.random.default_rng(0), np.mgrid[:SIDE, :SIDE]

    def one(x, m):
        control = random.normal(size=(2, POINTS, POINTS)) * SIGMA_PX
        places = grid + np.stack([ndimage.zoom(axis, SIDE / POINTS, order=3, mode="mirror") for axis in control])
        linear = [ndimage.map_coordinates(x[..., c], places, order=1) for c in range(SLICES)]
        return linear, [ndimage.map_coordinates(m[..., c], places, order=0) for c in range(MASKS)]

    return lambda: [one(x, m) for x, m in zip(images, masks, strict=True)]


def opencv():
    import cv2

    cv2.setNumThreads(1)
    images, masks, _ = batch()
    random, grid = np.random.default_rng(0), np.mgrid[:SIDE, :SIDE].astype("float32")

    def one(x, m):
        control = (random.normal(size=(POINTS, POINTS, 2)) * SIGMA_PX).astype("float32")
        field = cv2.resize(control, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        rows, columns = grid[0] + field[..., 0], grid[1] + field[..., 1]
        return cv2.remap(x, columns, rows, cv2.INTER_LINEAR), cv2.remap(m, columns, rows, cv2.INTER_NEAREST)

    return lambda: [one(x, m) for x, m in zip(images, masks, strict=True)]


PEERS = {
    "elasticdeform, order 1": lambda: elasticdeform(1),
    "elasticdeform, order 3": lambda: elasticdeform(3),
    "albumentations ElasticTransform": albumentations,
    "Keras RandomElasticTransform, graph": keras_layer,
    "MONAI Rand2DElasticd": monai,
    "TorchIO RandomElasticDeformation": torchio,
    "kornia RandomElasticTransform": kornia,
    "SciPy map_coordinates, order 1": scipy,
    "OpenCV remap of a coarse field": opencv,
}


def peers():
    """Measure the peers; name those that are not installed on stderr and leave them out."""
    found = {}
    for name, make in PEERS.items():
        try:
            found[name] = rate(make())
        except ImportError as reason:
            print(f"skipped: {name} ({reason})", file=sys.stderr)
    return found


def worker(kind, cores, backend, gpu=False):
    """Start a process that measures rows on the given cores and prints them as its last line."""
    threads = {name: str(len(cores)) for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "MKL_NUM_THREADS")}
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": "-1"}
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", **threads, **hidden}
    command = [sys.executable, __file__, "--worker", kind, "--cores", ",".join(map(str, cores)), *BUSY * ["--busy"]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def rows_of(*processes):
    """Add the rates that the processes print."""
    parts = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return {name: sum(part.get(name, float("nan")) for part in parts) for name in parts[0]}


def measure(parts):
    """Measure column -> row -> images per second."""
    columns = {"1 core": [0]} if BUSY else {"1 core": [0], "2 cores": [0, 1]}
    backends = ["tensorflow", *(["jax"] if importlib.util.find_spec("jax") else [])] if "ours" in parts else []
    found = {title: {} for title in columns}
    for title, cores in columns.items():
        for backend in backends:
            found[title] |= rows_of(worker("ours", cores, backend))
        if "peers" in parts:
            found[title] |= rows_of(*[worker("peers", [core], "tensorflow") for core in cores])
    if not BUSY and shutil.which("nvidia-smi"):
        found["GPU"] = rows_of(worker("ours", sorted(os.sched_getaffinity(0)), "tensorflow", gpu=True))
    return found


def report(columns):
    """Format the table."""
    found = {entry.name: entry.version for entry in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {found[name]}" for name in PACKAGES.split() if name in found)
    names = [name for name in columns["1 core"] if name != STEP]
    lines = [
        f"# Elastic warp of {BATCH} x {SIDE} x {SIDE} x ({SLICES} + {MASKS}), images per second",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores{'' if 'GPU' in columns else ', no GPU'}; Python "
        f"{platform.python_version()}, {versions}. Median call" + BUSY * ", in CPU seconds" + ".",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name in names:
        cells = [f"{column[name]:,.0f}" if name in column else "" for column in columns.values()]
        lines.append(f"| {'ours: ' if name not in PEERS else ''}{name} | {' | '.join(cells)} |")
    for title, column in columns.items():
        if STEP in column:
            lines += [
                "",
                f"{title}: a training step of the paper's network takes {column[STEP]:.1f} images/s. As a graph,",
            ]
            shares = [
                f"`augment.{name}()` {100 * column[STEP] / column[f'`augment.{name}()`, graph']:.1f} %"
                for name in PRESETS
            ]
            lines += [f"added to it, {' and '.join(shares)} of its time."]
    return "\n".join(lines)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--save", action="store_true", help=f"write {RESULTS.name} beside the other results")
    arguments.add_argument("--parts", nargs="+", default=["ours", "peers"], choices=["ours", "peers"])
    arguments.add_argument("--worker", choices=["ours", "peers"], help=argparse.SUPPRESS)
    arguments.add_argument("--cores", help=argparse.SUPPRESS)
    arguments.add_argument("--busy", action="store_true", help="count computing, not waiting; one core only")
    chosen = arguments.parse_args()
    if chosen.worker:
        os.sched_setaffinity(0, map(int, chosen.cores.split(",")))
        print(json.dumps({"ours": ours, "peers": peers}[chosen.worker]()))
        return
    text = report(measure(chosen.parts))
    print(text)
    if chosen.save:
        with files.replacing(RESULTS) as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
