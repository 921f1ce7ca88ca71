"""Where the kit runs: on Kaggle or elsewhere, and on what devices; one line says what was chosen and why."""

import contextlib
import functools
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from kitlib import phantom, scans


@dataclass(frozen=True)
class Devices:
    """What a run uses: `accelerators` found, the `precision` policy for Keras, and the reason in words.

    `shared` names the devices that share each batch; fewer than two are no strategy.
    """

    accelerators: int
    precision: str
    reason: str
    shared: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.reason

    def strategy(self):
        """The MirroredStrategy of the devices that share each batch; None for one device or another backend."""
        import keras

        if len(self.shared) < 2 or keras.backend.backend() != "tensorflow":
            return None
        return _mirrored(self.shared)

    @property
    def xla(self) -> bool | str:
        """What `compile` gets as `jit_compile`: False under a strategy, else "auto", which is False on a CPU too."""
        return "auto" if self.strategy() is None else False


def on_kaggle() -> bool:
    """Tell whether this is a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ or scans.KAGGLE_INPUT.is_dir()


def mode(root: str | os.PathLike | None = None) -> str:
    """Tell who is watching: "interactive", "batch" (a version is being saved) or "rerun" (Kaggle scores it, alone).

    Kaggle says so in its variables, and does not always set the one for the rerun. The other sign of it is the hidden
    test set: in a saved version the sample is a header and the test folder is empty, in the rerun they are not.

    Args:
        root: folder of the competition.
    """
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN", "").lower() not in ("", "0", "false"):
        return "rerun"
    if not on_kaggle() or os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive":
        return "interactive"
    return "rerun" if root and _holds_test(Path(root)) else "batch"


def _holds_test(root: Path) -> bool:
    """Tell whether there is anything to predict: a folder in test/, or a line after the header of the sample."""
    try:
        if any(True for _ in (root / "test").iterdir()):
            return True
    except OSError:
        pass
    try:
        with open(root / "sample_submission.csv", "rb") as file:
            return len(file.readlines(1 << 16)) > 1
    except OSError:
        return False


def bundle() -> Path | None:
    """Find the data set that `make bundle` made among those attached on Kaggle, by its wheel; None without one.

    Of several, the one with the newest kit, and of those the last by name: the one that the notebooks install.
    """
    wheels = [wheel for place in ("*", "datasets/*/*") for wheel in scans.KAGGLE_INPUT.glob(f"{place}/kitlib-*.whl")]
    if not wheels:
        return None
    return max(wheels, key=lambda wheel: (Version(wheel.name.split("-")[1]), str(wheel))).parent


def versions() -> str:
    """Say which kit runs on what, in two lines."""
    import kitlib

    packages = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "opencv-python-headless", "opencv-python")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    place = Path(kitlib.__file__).parent
    return f"kitlib {kitlib.__version__} from {place}\nPython {platform.python_version()}, {', '.join(found)}"


def competition(path: str = "") -> Path:
    """Find the competition, say which one it is, and write a synthetic one where none is attached.

    Args:
        path: its folder; empty looks where scans.find_root does.

    Raises:
        FileNotFoundError: when a folder is named and holds none, and on Kaggle, where the data has to be attached.
    """
    try:
        root = scans.find_root(path or None)
    except FileNotFoundError:
        if path or os.environ.get("KITLIB_DATA") or on_kaggle():
            raise
        print("No data here: writing a synthetic competition, which takes a minute.")
        checkout = Path(__file__).resolve().parents[1]
        base = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
        root = phantom.write(base / "data/phantom", cases=6, progress=True)
    print(f"{'PHANTOM (synthetic, not data of patients)' if scans.is_phantom(root) else 'competition data'}: {root}")
    return root


def devices() -> Devices:
    """Look for accelerators and choose precision and strategy.

    A GPU with bfloat16 arithmetic (compute capability 8 up) gets mixed_bfloat16; one with tensor cores for float16
    alone (7 up: V100, T4) gets mixed_float16, whose losses Keras scales; an older one (P100) has no tensor cores:
    float32. So does a CPU: newer ones are faster in bfloat16 (`benchmarks/step.py`), others slower, and none says which
    it is. A TPU computes in bfloat16.

    Several GPUs share each batch, and the precision is what the oldest of them can do. Batch norms then see their own
    share of the batch, which is all, beside rounding, that parts the curve from that of one device. XLA stays off under
    a strategy, where it fails (`Devices.xla`), and on a CPU, where it is slower: Keras' own choice ("auto").
    """
    import keras

    backend = keras.backend.backend()
    found = [name for kind in ("gpu", "tpu") for name in _listed(kind)]
    if not found:
        plain = ", no XLA" if backend == "tensorflow" else ""
        return Devices(0, "float32", f"Keras on {backend}, {os.cpu_count()} CPU cores, no GPU: float32{plain}")
    if backend != "tensorflow":
        return Devices(len(found), "mixed_bfloat16", f"Keras on {backend}, {', '.join(found)}: mixed_bfloat16")
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return _gpus([(one.get("device_name", "GPU"), one.get("compute_capability", (0, 0))) for one in details])


def _listed(kind: str) -> list[str]:
    """List the devices of a kind; JAX calls it an error when there is none."""
    import keras

    try:
        return keras.distribution.list_devices(kind)
    except RuntimeError:
        return []


def _gpus(found: list[tuple[str, tuple[int, int]]]) -> Devices:
    """Choose for GPUs, given as name and compute capability."""
    capability = min(capability for _, capability in found)
    precision, why = "float32", "has no 16-bit tensor cores"
    if capability >= (8, 0):
        precision, why = "mixed_bfloat16", "has bfloat16 tensor cores"
    elif capability >= (7, 0):
        precision, why = "mixed_float16", "has float16 tensor cores alone"
    counts = {name: [one for one, _ in found].count(name) for name, _ in found}
    names = " and ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
    share = "share each batch (MirroredStrategy, no XLA); " if len(found) > 1 else ""
    reason = f"{names}: {share}compute capability {capability[0]}.{capability[1]} {why}: {precision}"
    reason += "" if len(found) > 1 else ", compiled by XLA"
    shared = tuple(f"GPU:{number}" for number in range(len(found))) if len(found) > 1 else ()
    return Devices(len(found), precision, reason, shared)


def use(chosen: Devices) -> Devices:
    """Make Keras compute in the chosen precision from now on."""
    import keras

    keras.config.set_dtype_policy(chosen.precision)
    return chosen


def scope(strategy):
    """The scope of a strategy, to build a model in; of None, one that does nothing."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def seed(number: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and Keras; with `deterministic`, make TensorFlow's operations repeat to the bit from now on.

    That choice holds for the rest of the process.
    """
    import keras

    keras.utils.set_random_seed(number)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


@functools.cache
def _mirrored(names: tuple[str, ...]):
    """Make the strategy of some devices, once per process."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(names))
