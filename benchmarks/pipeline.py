"""Images per second that reach a training step, from packed scans and from two common alternatives.

`python benchmarks/pipeline.py [--data FOLDER] [--save]`. A sample is five neighbouring slices on 128 x 128 pixels
with three masks; batches of 16 in a new order every epoch. Alternatives: the tf.data of many notebooks, which decodes
five PNG files and the run-length text for every sample, and a PyTorch DataLoader with two workers that reads saved
stacks with np.load, then resizes and augments them with albumentations. Each row runs in a process of its own.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH, SIDE, DEPTH, ORGANS = 16, 128, 5, 3
FULL_SET = 38_496  # slices
RESULTS = Path(__file__).parent / "results" / "pipeline.md"
PACKAGES = "tensorflow keras torch numpy opencv-python-headless albumentations".split()


def table(data, scans_read=8):
    """Training slices of some scans."""
    from kitlib.data import scans

    slices = scans.read(scans.find_root(data))
    return slices[slices["scan"].isin(slices["scan"].unique()[:scans_read])].reset_index(drop=True)


def rate(iterator, started, seconds=4.0):
    """Seconds to the first batch, and images per second by the clock after eight batches of warming up."""
    next(iterator)
    first = time.perf_counter() - started
    for _ in range(7):
        next(iterator)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(iterator)
        count += BATCH
    return {"images/s": count / (time.perf_counter() - start), "first": first}


def usual_tf_data(data, folder):
    """(a) Decodes five PNG files and three masks for every sample, in every epoch."""
    import tensorflow as tf

    from kitlib import contest
    from kitlib.data import scans

    slices = table(data)
    stacks = scans.stacks(slices, DEPTH)
    paths = slices["path"].to_numpy()[stacks]
    texts = slices[list(contest.ORGANS)].to_numpy(str)
    sizes = slices[["height", "width"]].to_numpy(np.int32)

    def common_snippet(texts, size):
        masks = np.zeros((*size, ORGANS), np.uint8)
        for channel, text in enumerate(texts):
            flat = np.zeros(size[0] * size[1], np.uint8)
            words = text.decode().split()
            starts, lengths = (np.asarray(part, int) for part in (words[0::2], words[1::2]))
            for low, high in zip(starts - 1, starts - 1 + lengths, strict=True):
                flat[low:high] = 1
            masks[..., channel] = flat.reshape(size)
        return masks

    def load(paths, texts, size):
        pictures = [tf.io.decode_png(tf.io.read_file(paths[k]), 1, tf.uint16) for k in range(DEPTH)]
        image = tf.image.resize(tf.cast(tf.concat(pictures, -1), tf.float32), (SIDE, SIDE))
        masks = tf.numpy_function(common_snippet, [texts, size], tf.uint8)
        masks.set_shape((None, None, ORGANS))
        masks = tf.image.resize(masks, (SIDE, SIDE), "nearest")
        return image / tf.maximum(tf.reduce_max(image), 1.0), masks

    started = time.perf_counter()
    batches = tf.data.Dataset.from_tensor_slices((paths, texts, sizes)).shuffle(len(slices)).repeat()
    batches = batches.map(load, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return rate(iter(batches), started)


def torch_loader(data, folder, elastic=False):
    """(b) Two workers read stacks and masks from .npy files of full size, resize and, if asked, augment them."""
    import albumentations
    import torch

    from kitlib.data import inputs, scans

    slices = table(data)
    for _, rows in slices.groupby("scan", sort=False):  # the preparation, which is not counted
        scan = inputs.load(rows["path"].tolist())
        neighbours = scans.stacks(rows, DEPTH)
        masks = scans.masks(rows).astype(np.uint8)
        for index, row in enumerate(rows.index):
            np.save(folder / f"{row}-image.npy", scan[neighbours[index]].transpose(1, 2, 0))
            np.save(folder / f"{row}-masks.npy", np.ascontiguousarray(masks[index]))
    moves = [albumentations.HorizontalFlip(p=0.5), albumentations.ElasticTransform(alpha=150, sigma=12, p=1)]
    transform = albumentations.Compose([albumentations.Resize(SIDE, SIDE), *(moves if elastic else [])])

    class Stacks(torch.utils.data.Dataset):
        def __len__(self):
            return len(slices)

        def __getitem__(self, row):
            image = np.load(folder / f"{row}-image.npy").astype(np.float32)
            image /= max(image.max(), 1.0)
            done = transform(image=image, mask=np.load(folder / f"{row}-masks.npy"))
            return torch.tensor(done["image"].transpose(2, 0, 1)), torch.tensor(done["mask"].transpose(2, 0, 1))

    def epochs():
        while True:
            yield from loader

    started = time.perf_counter()
    loader = torch.utils.data.DataLoader(
        Stacks(), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    return rate(epochs(), started)


def torch_loader_elastic(data, folder):
    """(b) with flips and elastic distortion."""
    return torch_loader(data, folder, elastic=True)


def first_pass(data, folder):
    """Decode all scans once, on one core: slices per second, and what decoding alone would reach."""
    import cv2

    from kitlib.data import inputs, pipeline

    cv2.setNumThreads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    slices = table(data)
    start = time.perf_counter()
    for path in slices["path"]:
        cv2.imread(path, cv2.IMREAD_UNCHANGED)
    decoded = time.perf_counter()
    pipeline.pack(slices, inputs.InputSpec(SIDE, SIDE, DEPTH))
    packed = time.perf_counter()
    return {"slices/s": len(slices) / (packed - decoded), "decoded": len(slices) / (decoded - start)}


def packed(data, folder, mapped=False, augment=None):
    """Ours; the time to the first batch includes reading the files, or mapping the packed arrays."""
    from kitlib.data import inputs, pipeline

    slices, spec = table(data), inputs.InputSpec(SIDE, SIDE, DEPTH)
    if mapped:
        pipeline.pack(slices, spec, folder)  # the first pass of an earlier run
    started = time.perf_counter()
    scans = pipeline.pack(slices, spec, folder if mapped else None)
    batches = pipeline.dataset(slices, spec, BATCH, True, packed=scans, augment=augment)
    found = rate(iter(batches), started)
    return found | {"KiB a slice": (scans.images.nbytes + scans.masks.nbytes) / len(slices) / 1024}


def packed_mapped(data, folder):
    """Ours, packed scans mapped from a file."""
    return packed(data, folder, mapped=True)


def flips_and_elastic():
    """The layer with flips and elasticdeform's control points, as in (b)."""
    from kitlib.layers.augment import Augment

    off = dict.fromkeys("rotation scale shift gamma contrast brightness noise blur".split(), 0)
    return Augment(field="grid", flip=0.5, **off)


def packed_graph(data, folder):
    """Ours with flips and elastic distortion as a graph in tf.data."""
    return packed(data, folder, augment=flips_and_elastic())


def packed_compiled(data, folder):
    """Ours with flips and elastic distortion compiled by XLA, as in a compiled training step."""
    import tensorflow as tf

    from kitlib.data import inputs, pipeline

    slices, spec, layer = table(data), inputs.InputSpec(SIDE, SIDE, DEPTH), flips_and_elastic()
    step = tf.function(lambda x, y, seeds: layer(x, y, seeds, training=True), jit_compile=True)
    started = time.perf_counter()
    batches = pipeline.dataset(slices, spec, BATCH, True, packed=pipeline.pack(slices, spec))
    return rate((step(one["images"], one["masks"], one["seed"]) for one in batches), started)


def waits(data, folder):
    """Train the paper's network under its augmentation, and measure how long each step waits for its batch."""
    from kitlib.data import inputs, pipeline
    from kitlib.layers import augment, losses
    from kitlib.models import unet
    from kitlib.training import step as steps

    slices, spec = table(data), inputs.InputSpec(SIDE, SIDE, DEPTH)
    batches = iter(pipeline.dataset(slices, spec, BATCH, True, packed=pipeline.pack(slices, spec)))
    model = steps.AugmentedModel(unet.build_unet(spec.shape), augment.paper())
    model.compile("adam", losses.BCEDice(dice_weight=0.5))
    waited, worked = [], []
    for _ in range(22):
        start = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        model.train_on_batch(batch)
        waited.append(got - start)
        worked.append(time.perf_counter() - got)
    waited, worked = np.array(waited[2:]), np.array(worked[2:])
    return {"median": np.median(waited), "longest": waited.max(), "step": np.median(worked), "steps": len(waited)}


ROWS = {
    "PNG files, usual tf.data (a)": usual_tf_data,
    ".npy files, PyTorch DataLoader, two workers (b)": torch_loader,
    "ours: packed, in memory": packed,
    "ours: packed, mapped from a file": packed_mapped,
    "(b) with flips and elastic": torch_loader_elastic,
    "ours: with flips and elastic, graph": packed_graph,
    "ours: with flips and elastic, XLA": packed_compiled,
}
PLAIN = list(ROWS)[:2]


def work(row, data):
    """Run one row in a process of its own; {} where a package is missing."""
    command = [sys.executable, __file__, "--data", data, "--row", row]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{row} failed")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib():
    """Return the peak memory of this process and its workers, in MiB."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def one_row(row, data):
    """Run one row and print its figures as JSON, for `work`."""
    function = {**ROWS, "first_pass": first_pass, "waits": waits}[row]
    with tempfile.TemporaryDirectory(prefix="kitlib-pipeline-") as folder:
        try:
            found = function(data, Path(folder)) | {"MiB": peak_mib()}
        except ImportError as reason:
            print(f"skipped: {row} ({reason})", file=sys.stderr)
            found = {}
    print(json.dumps({key: float(value) for key, value in found.items()}), flush=True)
    os._exit(0)  # an endless tf.data iterator can hang the interpreter at its end


def report(found, counted, waiting, count):
    """Write the table as Markdown."""
    versions = {entry.name: entry.version for entry in importlib.metadata.distributions()}
    named = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    lines = [
        f"# Batches of {BATCH} x {SIDE} x {SIDE} x ({DEPTH} + {ORGANS}), images per second",
        "",
        f"{count:,} slices of a phantom; {platform.machine()}, {os.cpu_count()} cores; Python "
        f"{platform.python_version()}, {named}.",
        "",
        "| | images/s | times (a) | times (b) | first batch, s | peak memory, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    usual = [found[name].get("images/s", float("nan")) for name in PLAIN]
    for name, row in found.items():
        if row:
            ratios = " | ".join(f"{row['images/s'] / one:.1f}" for one in usual)
            lines.append(f"| {name} | {row['images/s']:,.0f} | {ratios} | {row['first']:.1f} | {row['MiB']:,.0f} |")
    size = found["ours: packed, in memory"]["KiB a slice"]
    lines += [
        "",
        f"First pass, once per data set: {counted['slices/s']:,.0f} slices/s on one core, where decoding alone makes "
        f"{counted['decoded']:,.0f}. Packed, a slice takes "
        f"{size:.0f} KiB: {FULL_SET * size / 2**20:.2f} GiB for all {FULL_SET:,} slices. The first batch of ours in "
        "memory counts the first pass; those of (b) do not count the files that were written before.",
        "",
        f"A training step of the paper's network takes {waiting['step'] * 1000:,.0f} ms here and waits "
        f"{waiting['median'] * 1000:.1f} ms for its batch (median of {waiting['steps']:.0f} steps; at most "
        f"{waiting['longest'] * 1000:.1f} ms).",
    ]
    return "\n".join(lines)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="", help="folder of the competition or of a phantom")
    arguments.add_argument("--save", action="store_true", help=f"write {RESULTS.name} beside the other results")
    arguments.add_argument("--row", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.row:
        one_row(chosen.row, chosen.data or None)
    data = chosen.data or ""
    counted = work("first_pass", data)
    found = {name: work(name, data) for name in ROWS}
    text = report(found, counted, work("waits", data), len(table(data or None)))
    print(text)
    if chosen.save:
        from kitlib import files

        with files.replacing(RESULTS) as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
