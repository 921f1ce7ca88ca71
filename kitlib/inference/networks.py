"""The networks of an inference run: load them, and run each in the fastest exact way on this machine."""

import contextlib
import importlib
import inspect
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib import runs
from kitlib.data import inputs
from kitlib.inference.faults import Faults
from kitlib.inference.stacks import BATCH_SIZE, inputs_per_call

TOLERANCE = 1e-5  # largest difference of a probability between a frozen graph and its network, in float32
TOLERANCE_16_BIT = 1e-2
MOST_FROZEN = 10_000_000  # weights of a network


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, ready to run.

    Attributes:
        name: its name in faults.
        spec: what it sees.
        run: from a batch (B, *spec.shape) float32 to (B, *spec.labelled, organs) float32.
        flip: whether it also predicts each slice mirrored, unless the caller decides.
        role: "gate" finds the slices of an organ and "segmenter" its contours. "both" does both, and only the contours
            where there is a gate.
        weight: its share in the mean over the networks of its role, relative to theirs; its passes over a scan, plain
            and flipped, divide it.
    """

    name: str
    spec: inputs.InputSpec
    run: Callable[[np.ndarray], np.ndarray]
    flip: bool = False
    role: str = "both"
    weight: float = 1.0

    @property
    def gate(self) -> bool:
        """Whether it is a gate."""
        return self.role == "gate"

    def __str__(self) -> str:
        role = "" if self.role == "both" else f"{self.role}, "
        run = f"{self.run}, " if isinstance(self.run, Engine) else ""
        return f"{self.name}: {role}{run}{self.spec}{', trained with flips' if self.flip else ''}"


class Engine:
    """A network made ready to run.

    On TensorFlow the weights are frozen into the graph as constants: TensorFlow's optimiser then fuses convolution,
    bias, batch norm and ReLU into one step. The graph is compared with the network on random numbers, and dropped when
    they differ by more than rounding. Other backends, and networks that cannot be frozen, run Keras'
    `predict_on_batch`. A CPU runs a network trained in 16 bits in float32, which is faster there.

    A graph copies its constants: 850 MiB for an EfficientNetV2-S, for a fifth of the time. So a network of more than
    `MOST_FROZEN` weights, or without a batch norm to fuse, runs as a graph that leaves them where they are.

    Args:
        network: functional keras.Model from (B, height, width, C) to (B, height, width, organs).
        batch_size: the B to make the graph for; another size gets a graph of its own when it comes.
    """

    def __init__(self, network, batch_size: int = BATCH_SIZE):
        import keras

        self.network, self.frozen = network, False
        self._graphs: dict[int, object] = {}
        self.backend = keras.backend.backend()
        if self.backend != "tensorflow":
            return
        try:
            single = all(layer.compute_dtype in ("float32", "float64", None) for layer in network.layers)
            if not single and not keras.distribution.list_devices("gpu"):
                self.network, single = _in_float32(network), True
            trial = np.random.default_rng(0).random((batch_size, *network.input_shape[1:]), np.float32)
            found = self._run_graph(trial)[:1]
            if not _pays(network):  # nothing was changed
                self.frozen = True
                return
            error = np.abs(found - np.asarray(self.network.predict_on_batch(trial[:1]))).max()
            self.frozen = bool(error <= (TOLERANCE if single else TOLERANCE_16_BIT))
        except Exception:  # TensorFlow's errors share no narrower name; Keras then runs the network
            self._graphs.clear()

    def __str__(self) -> str:
        if not self.frozen:
            return f"Keras on {self.backend}"
        return f"{'frozen ' * _pays(self.network)}TensorFlow graph"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Run a batch (B, height, width, C) float32; gives (B, height, width, organs) float32.

        Raises:
            MemoryError: when the device has not enough memory for the batch.
        """
        if self.backend != "tensorflow":
            return np.asarray(self.network.predict_on_batch(images), np.float32)
        import tensorflow as tf

        try:
            found = self._run_graph(images) if self.frozen else self.network.predict_on_batch(images)
            return np.asarray(found, np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(
                f"a batch of {len(images)} does not fit in device memory; choose a smaller batch_size "
                f"({error.message[:200]})"
            ) from error

    def _run_graph(self, images: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        graph = self._graphs.get(len(images))
        if graph is None:
            graph = self._graphs[len(images)] = _freeze(self.network, len(images))
        (result,) = graph(tf.constant(images))
        return result.numpy()


def load(folder: str | os.PathLike):
    """Load the network of a run, saved by this Keras or by a newer one.

    A newer Keras writes settings that an older one does not know and refuses. Where they are all off, as in the kit's
    networks, the older one computes the same without them.

    Raises:
        FileNotFoundError: names the folder without a model.
    """
    import keras

    from kitlib.models import unet  # noqa: F401 (registers the layers of the kit)

    run = runs.read(folder)
    if not run.model_path.is_file():
        raise FileNotFoundError(
            f"{run.folder} has no model.keras, because its training did not finish; resume it, or name another run"
        )
    module, colon, _ = str(run.parameters.get("network", "")).partition(":")
    if colon:  # a network of your own registers its layers where it is defined; without layers it needs no import
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    try:
        return keras.saving.load_model(run.model_path, compile=False)
    except (TypeError, ValueError):
        with tempfile.TemporaryDirectory() as folder:
            older = Path(folder) / "model.keras"
            if not _write_for_older(run.model_path, older):
                raise
            return keras.saving.load_model(older, compile=False)


def open_members(
    run_folders: Sequence[str | os.PathLike | Member], faults: Faults, batch_size: int = BATCH_SIZE
) -> list[Member]:
    """Load networks and make them ready to run; one that does not load is left out, unless faults are strict.

    Those of a larger weight come first, so that the clock sheds them last.

    Args:
        run_folders: runs, or members that are open already.
        faults: raises or lists networks that do not load.
        batch_size: slices per call.
    """
    members = []
    for folder in run_folders:
        if isinstance(folder, Member):
            members.append(folder)
            continue
        with faults.survive(folder, "this network is left out"):
            run = runs.read(folder)
            name = run.folder.name if run.role == "both" else f"{run.folder.parent.name}/{run.folder.name}"
            engine = Engine(load(folder), inputs_per_call(run.spec, batch_size))
            members.append(Member(name, run.spec, engine, run.flipped, run.role, run.weight))
    return sorted(members, key=lambda member: -member.weight)


def check_roles(members: Sequence[Member], faults: Faults) -> None:
    """List the role that no network plays: segmenters without a gate, or gates without a segmenter.

    Raises:
        ValueError: when the faults are strict.
    """
    roles = {member.role for member in members}
    way_out = "or set FAULTS = 'go on'"
    if roles == {"segmenter"}:
        text = f"all networks are segmenters, trained to go with a gate; add the run of a gate, {way_out}"
        faults.meet("networks", text, "the segmenters also decide on which slices an organ is")
    if roles == {"gate"}:
        text = f"all networks are gates, trained to go with a segmenter; add the run of a segmenter, {way_out}"
        faults.meet("networks", text, "the gates also draw the contours")


def _in_float32(network):
    """Build a network again that computes in float32, with the same weights."""
    import keras

    copy = keras.models.clone_model(
        network, clone_function=lambda layer: layer.from_config(layer.get_config() | {"dtype": "float32"})
    )
    copy.set_weights(network.get_weights())
    return copy


def _pays(network) -> bool:
    """Whether freezing is worth its memory."""
    import keras

    normed = any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
    return normed and network.count_params() <= MOST_FROZEN


def _freeze(network, batch_size: int):
    """Make a function of one static shape, with constants for weights unless they are too many."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shape = (batch_size, *network.input_shape[1:])
    function = tf.function(lambda images: network(images, training=False), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    if not _pays(network):
        return lambda images: [graph(images)]
    return convert_variables_to_constants_v2(graph)


def _write_for_older(path: Path, target: Path) -> bool:
    """Copy a network without the settings that this Keras does not know and that are off; tell if there were any."""
    with zipfile.ZipFile(path) as source:
        content = {name: source.read(name) for name in source.namelist()}
    network = json.loads(content["config.json"])
    if not _drop_unknown(network):
        return False
    content["config.json"] = json.dumps(network).encode()
    with zipfile.ZipFile(target, "w") as copy:
        for name, data in content.items():
            copy.writestr(name, data)
    return True


def _drop_unknown(part) -> int:
    """Remove from a network's description the settings that are off and that Keras' classes do not know; count them.

    Off is None or False, and every setting named after a switch that is off: `renorm_momentum` after `renorm`.
    """
    if isinstance(part, list):
        return sum(map(_drop_unknown, part))
    if not isinstance(part, dict):
        return 0
    dropped = sum(map(_drop_unknown, part.values()))
    config, module = part.get("config"), str(part.get("module"))
    if not isinstance(config, dict) or module.split(".")[0] != "keras":
        return dropped
    kind = getattr(importlib.import_module(module), part["class_name"])
    known = {name for parent in kind.__mro__ for name in inspect.signature(parent.__init__).parameters}
    off = [name for name in config if name not in known and config[name] in (None, False)]
    off += [name for name in config if name not in known and name.startswith(tuple(f"{switch}_" for switch in off))]
    for name in set(off):
        del config[name]
    return dropped + len(set(off))
