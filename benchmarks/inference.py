"""Images per second of the network in inference, beside the usual ways; and whole scans, with where their time goes.

`python benchmarks/inference.py [--parts network scans ensemble] [--rounds 4] [--scans 1] [--save]`. Every contestant
runs in a process of its own, one after the other: 144 slices of 128 x 128 x 5, float32, from NumPy to NumPy. The part
scans writes the submission of phantom scans of 144 x 310 x 360 with five networks and the flip, through the same
functions as 03_inference. These networks are not trained; what follows them works on the true masks instead, as after
good ones. The part ensemble predicts one scan with the networks of docs/strength.md, one of each kind, at full size.
"""

import argparse
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
VERSIONS = "keras tensorflow torch segmentation_models_pytorch onnxruntime openvino numpy opencv-python-headless"
SHAPE, SLICES, BATCH = (128, 128, 5), 144, 16
PARTS = ("network", "scans", "ensemble")
# name: needed packages, contestant, batch
FIELD = {
    "Keras predict, as it comes (32 at a time)": (("tensorflow",), "predict", 32),
    "Keras predict, batch 16": (("tensorflow",), "predict", 16),
    "Keras predict_on_batch": (("tensorflow",), "on_batch", 16),
    "kit's engine": (("tensorflow",), "kit", 16),
    "PyTorch eager, channels last": (("torch",), "torch", 16),
    "ONNX Runtime": (("onnxruntime", "torch", "onnx"), "onnx", 16),
    "OpenVINO, float32": (("openvino", "tensorflow"), "openvino", 16),
    "smp eager, channels last": (("segmentation_models_pytorch",), "smp", 16),
}
_OF_KERAS = ("Keras predict, as it comes (32 at a time)", "kit's engine")
# network: its heading, and who runs it
NETWORKS = {
    "plain": ("The plain network", [name for name in FIELD if not name.startswith("smp")]),
    "paper": ("The paper\u2019s network", [*_OF_KERAS, "OpenVINO, float32"]),
    "efficientnet-lite0": ("The U-Net on EfficientNet-Lite0", [*_OF_KERAS, "smp eager, channels last"]),
    "efficientnetv2-s": ("The U-Net on EfficientNetV2-S", [*_OF_KERAS, "smp eager, channels last"]),
}


def images() -> np.ndarray:
    """One scan of stacks."""
    return np.random.default_rng(0).random((SLICES, *SHAPE), np.float32)


def keras_network(kind: str):
    """One of NETWORKS, with batch norms that have seen data."""
    import keras

    from kitlib.models.unet import NO_ATTENTION, build_unet

    keras.utils.set_random_seed(0)
    options = {"plain": NO_ATTENTION, "paper": {}}.get(kind, {"encoder": kind})
    network = build_unet(SHAPE, **options)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return network


def batched(run, count: int):
    """Run a scan batch by batch."""
    return lambda scan: np.concatenate([run(scan[first : first + count]) for first in range(0, len(scan), count)])


def predict(kind, count):
    network = keras_network(kind)
    return lambda scan: network.predict(scan, batch_size=count, verbose=0)


def on_batch(kind, count):
    network = keras_network(kind)
    return batched(lambda batch: np.asarray(network.predict_on_batch(batch)), count)


def kit(kind, count):
    from kitlib.inference.networks import Engine

    engine = Engine(keras_network(kind), count)
    if not engine.frozen:
        raise RuntimeError(f"the engine runs as {engine}")
    return batched(engine, count)


def torch_network():
    """The plain network of benchmarks/step.py with a sigmoid, in inference mode."""
    import torch

    from step import torch_unet

    return torch.nn.Sequential(torch_unet(4), torch.nn.Sigmoid()).eval()


def torch(kind, count):
    return eager(torch_network(), count)


def smp(kind, count):
    import torch

    from peers import smp_unet

    return eager(torch.nn.Sequential(smp_unet(kind), torch.nn.Sigmoid()).eval(), count)


def eager(network, count):
    """Run a PyTorch network as it is, channels last."""
    import torch

    network = network.to(memory_format=torch.channels_last)

    def run(batch):
        with torch.inference_mode():
            return network(torch.from_numpy(batch).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()

    return batched(run, count)


def onnx(kind, count):
    import onnxruntime
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(torch_network(), torch.zeros(count, SHAPE[2], *SHAPE[:2]), path, dynamo=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch):
        found = session.run(None, {name: np.ascontiguousarray(batch.transpose(0, 3, 1, 2))})[0]
        return found.transpose(0, 2, 3, 1)

    return batched(run, count)


def openvino(kind, count):
    import keras
    import openvino
    import tensorflow as tf

    keras.ops.eye = np.eye  # a constant, where OpenVINO has no rule for TensorFlow's operation
    network = keras_network(kind)
    function = tf.function(lambda batch: network(batch, training=False), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec((count, *SHAPE), tf.float32))
    model = openvino.convert_model(concrete, input=[([count, *SHAPE], openvino.Type.f32)])
    ready = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return batched(lambda batch: next(iter(ready(batch).values())).copy(), count)


def compete(name: str, kind: str, rounds: int) -> dict:
    """Time one contestant: the best of some rounds over the scan, after one to warm up."""
    _, maker, count = FIELD[name]
    run, scan = globals()[maker](kind, count), images()
    assert run(scan).shape == (SLICES, *SHAPE[:2], 3)
    times, work = [], []
    for _ in range(rounds):
        started, worked = time.perf_counter(), time.process_time()
        run(scan)
        times.append(time.perf_counter() - started)
        work.append(time.process_time() - worked)
    best, median = SLICES / min(times), SLICES / float(np.median(times))
    return {"best": best, "median": median, "cpu_ms": 1e3 * min(work) / SLICES, "memory": peak_mib()}


def end_to_end(scans_wanted: int, models: int = 5) -> dict:
    """Predict whole phantom scans with five networks and the flip, and take down where the time goes."""

    import phantom
    from kitlib import inference, postprocess, submission
    from kitlib.data import inputs, scans
    from kitlib.inference import clock as deadline
    from kitlib.inference import networks

    spent: dict[str, float] = {}

    def timed(label, function):
        def wrapped(*given, **named):
            started = time.perf_counter()
            result = function(*given, **named)
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - started
            return result

        return wrapped

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.write(folder + "/phantom", cases=scans_wanted + 1, slices=SLICES, sizes=[(310, 360)])
        slices = scans.read(root)
        slices = slices[slices["scan"].isin(slices["scan"].unique()[:scans_wanted])].reset_index(drop=True)
        spec = inputs.InputSpec(*SHAPE[:2], depth=SHAPE[2])
        answers = iter(true_masks(slices, spec, passes=2 * models))
        members = []
        for number in range(models):
            engine = networks.Engine(keras_network("paper"), BATCH)
            network = timed("network", engine)
            run = functools.partial(lambda network, images: (network(images), next(answers))[1], network)
            members.append(networks.Member(f"fold{number}", spec, run))
        for module, name, label in (
            (inputs, "read_picture", "decode"),
            (inputs, "prepare", "resize to the grid"),
            (inputs, "restore", "resize back"),
            (postprocess, "masks", "post-process"),
            (submission, "encode", "encode"),
            (submission, "write", "write the file"),
        ):
            setattr(module, name, timed(label, getattr(module, name)))
        clock = deadline.Deadline(None)
        started = time.perf_counter()
        sample = submission.expected_rows(slices)
        options = {"flip": True, "clock": clock, "settings": postprocess.DEFAULT}
        rows = inference.submit(members, slices, sample, folder + "/submission.csv", inference.Faults(), **options)
        total = time.perf_counter() - started
    spent["everything else"] = total - sum(spent.values())
    seconds = {
        f"{count} networks{', flip' if flip else ''}": clock.forecast(SLICES, deadline.passes([flip] * count))
        for count in (1, models)
        for flip in (False, True)
    }
    return {
        "seconds": total / scans_wanted,
        "spent": {label: value / scans_wanted for label, value in spent.items()},
        "presets": seconds,
        "memory": peak_mib(),
        "masks": int((rows["predicted"] != "").sum()),
    }


def ensemble() -> dict:
    """Predict a scan with a gate, segmenters along three axes (z with a prior), 3D, and the flips they learned."""
    import phantom
    from kitlib import inference
    from kitlib.data import earlier, scans
    from kitlib.inference import clock as deadline
    from kitlib.inference import networks, stacks
    from kitlib.training import presets, recipes

    box = (-185.0, 72.0, -202.0, 192.0)
    grids = {role: presets.suited(1, role)[1] for role in ("gate", "segmenter")}
    specs = {"gate": presets.spec("encoder", grids["gate"], box)}
    specs |= {f"segmenter, {axis}": presets.spec("encoder", grids["segmenter"], box, axis) for axis in "zyx"}
    specs["segmenter, z"] = replace(specs["segmenter, z"], prior=True)
    specs |= {"volumes": presets.spec("volume", presets.grid("volume", 1), box)}
    members, found = [], {}
    for name, spec in specs.items():
        network = (recipes.volume() if spec.volume else recipes.encoder()).builder(spec.prior)(spec.shape)
        engine = networks.Engine(network, stacks.inputs_per_call(spec, BATCH))
        role = "gate" if name == "gate" else "segmenter"
        members.append(networks.Member(name, spec, engine, flip=spec.axis != "x", role=role))
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.write(folder + "/phantom", cases=3, days=2, slices=SLICES, sizes=[(310, 360)], processes=2)
        known, hidden = scans.read(root), scans.read(root, "test")
        slices = hidden[hidden["scan"] == next(iter(earlier.days(hidden, known)))].reset_index(drop=True)
        clock, started = deadline.Deadline(None), time.perf_counter()
        options = {"clock": clock, "known": known, "progress": False}
        (predicted,) = inference.predict(members, slices, inference.Faults(), **options)
        seconds = time.perf_counter() - started
    assert predicted.presence is not None
    assert predicted.line is not None
    every = deadline.passes([member.flip for member in members], [member.gate for member in members])
    for number, (name, spec) in enumerate(specs.items()):
        shape = " x ".join(map(str, spec.shape))
        own = clock.forecast(SLICES, every) - clock.forecast(SLICES, [run for run in every if run.model != number])
        found[name] = {"input": shape, "seconds": own, "weights": members[number].run.network.count_params()}
    return {"members": found, "seconds": seconds, "memory": peak_mib()}


def true_masks(slices, spec, passes: int):
    """Give the masks of each scan as a good network would, batch after batch, as often as there are passes."""
    from kitlib import contest, rle
    from kitlib.data import inputs

    for _, rows in slices.groupby("scan", sort=False):
        shape = rows["height"].iloc[0], rows["width"].iloc[0]
        masks = [inputs.prepare_masks(rle.decode_stack(rows[organ].tolist(), shape), spec) for organ in contest.ORGANS]
        answer = np.stack(masks, axis=-1).astype(np.float32)
        for number in range(passes):
            some = answer[:, :, ::-1] if number >= passes // 2 else answer
            for first in range(0, SLICES, BATCH):
                yield some[first : first + BATCH]


def peak_mib() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def child(*arguments: object) -> dict:
    """Run one part in a process of its own; give its figures, or the reason why there are none."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:100]}
    return json.loads(done.stdout.splitlines()[-1])


def speed_table(rounds: int) -> list[str]:
    """The contestants, on each of NETWORKS."""
    lines = [
        f"\n144 slices of 128 x 128 x 5, float32, best of {rounds} rounds; the networks of PyTorch and ONNX have the "
        "same layers and other weights. The kit's engine freezes the weights into the graph; those of large networks, "
        "such as EfficientNetV2-S, stay outside."
    ]
    for kind, (title, contestants) in NETWORKS.items():
        lines += [
            f"\n## {title}, images/s\n",
            "| way | best | median | times `predict` | CPU ms per image | peak MiB |",
            "|--|--|--|--|--|--|",
        ]
        base = None
        for name in contestants:
            packages, _, _ = FIELD[name]
            lacking = [package for package in packages if find_spec(package) is None]
            found = (
                {"failed": f"{lacking[0]} is not installed"}
                if lacking
                else child("--one", name, "--network", kind, "--rounds", rounds)
            )
            if "failed" in found:
                lines.append(f"| {name} | {found['failed']} | | | | |")
            else:
                base = base or found["best"]
                line = f"| {name} | {found['best']:.1f} | {found['median']:.1f} | {found['best'] / base:.2f} "
                lines.append(f"{line}| {found['cpu_ms']:.1f} | {found['memory']:.0f} |")
            print(lines[-1], flush=True)
    return lines


def scan_table(scans_wanted: int) -> list[str]:
    """Seconds per scan, where they go, and what they come to for fifty scans."""
    found = child("--end-to-end", "--scans", scans_wanted)
    if "failed" in found:
        return [f"\nEnd to end: {found['failed']}\n"]
    lines = [
        "\n## A scan of 144 x 310 x 360 from files to rows, the paper's network, five networks and the flip\n",
        "| part | seconds | share |",
        "|--|--|--|",
    ]
    for label, seconds in sorted(found["spent"].items(), key=lambda item: -item[1]):
        lines.append(f"| {label} | {seconds:.2f} | {seconds / found['seconds']:.1%} |")
    lines += [
        f"| all | {found['seconds']:.2f} | {found['masks']} masks in {scans_wanted} scans |",
        f"\nPeak memory {found['memory']:,.0f} MiB, five networks loaded.\n",
        "Forecast: 50 scans of 144 slices at the seconds per slice measured here, by `deadline.Deadline.forecast`; a",
        "pass costs what it cost above.\n",
        "| preset | seconds per scan | minutes for 50 scans | for 160 scans (50 cases of 3.2 days) |",
        "|--|--|--|--|",
    ]
    for label, seconds in found["presets"].items():
        lines.append(f"| {label} | {seconds:.1f} | {seconds * 50 / 60:.0f} | {seconds * 160 / 60:.0f} |")
    return lines


def ensemble_table(_: int) -> list[str]:
    """Seconds and peak memory of the whole ensemble, and what they come to for fifty scans."""
    found = child("--ensemble")
    if "failed" in found:
        return [f"\nThe whole ensemble: {found['failed']}\n"]
    lines = [
        "\nA scan of 144 x 310 x 360, from files to probabilities; all networks but the sagittal one also predict the "
        "mirrored inputs. EfficientNetV2-S for gate and segmenters, SegResNet for volumes; not trained, float32.\n",
        "| network | input | weights | seconds |",
        "|--|--|--|--|",
    ]
    for name, one in found["members"].items():
        lines.append(f"| {name} | {one['input']} | {one['weights']:,} | {one['seconds']:.1f} |")
    hours = [found["seconds"] * count / 3600 for count in (50, 160)]
    lines += [
        f"| all, with reading and resizing | | | {found['seconds']:.1f} |",
        f"\nPeak memory {found['memory']:,.0f} MiB, all networks loaded. At this pace 50 scans take {hours[0]:.1f} "
        f"hours, 160 scans {hours[1]:.1f}. Beyond 9 hours the clock sheds flips first, then segmenters, then gates.",
    ]
    return lines


def versions() -> str:
    """The versions of whatever takes part."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in (
        "keras",
        "tensorflow",
        "torch",
        "segmentation_models_pytorch",
        "onnxruntime",
        "openvino",
        "numpy",
        "opencv-python-headless",
    ):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    """Run everybody, print the tables, save them with --save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--scans", type=int, default=1, help="scans of the end-to-end part")
    parser.add_argument("--save", action="store_true", help="write the tables into results/")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--end-to-end", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ensemble", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.one:
        print(json.dumps(compete(options.one, options.network, options.rounds)))
        return
    if options.end_to_end:
        print(json.dumps(end_to_end(options.scans)))
        return
    if options.ensemble:
        print(json.dumps(ensemble()))
        return
    from kitlib import files

    parts = {
        "network": ("inference.md", "# The network in inference\n", speed_table, options.rounds),
        "scans": ("scans.md", "# Whole scans, from files to the submission\n", scan_table, options.scans),
        "ensemble": ("ensemble.md", "# A whole ensemble on one scan\n", ensemble_table, 1),
    }
    for part in options.parts:
        name, title, table, count = parts[part]
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions()}"
        head = [title, f"{machine}; load average at the start {os.getloadavg()[0]:.1f}."]
        text = "\n".join(head + table(count)) + "\n"
        print("\n" + text, flush=True)
        if options.save:
            with files.replacing(RESULTS / name) as file:
                file.write(text)


if __name__ == "__main__":
    main()
