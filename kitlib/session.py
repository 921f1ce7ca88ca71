"""Where a notebook runs: on Kaggle or elsewhere, which session type, hours and disk left, and its parameters."""

import contextlib
import difflib
import functools
import importlib.metadata
import math
import os
import platform
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from kitlib.data import scans

SESSION_HOURS = 11.0  # of the 12 of a session on Kaggle; the rest is for what a notebook does after its trainings
KAGGLE_DISK = 20 * 10**9  # bytes that a session on Kaggle may keep
KAGGLE_VARIABLES = ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN", "KAGGLE_URL_BASE")


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
    """Tell whether this runs on Kaggle, by Kaggle's variables; /kaggle/input may exist elsewhere, as on Colab."""
    return any(name in os.environ for name in KAGGLE_VARIABLES)


def mode(root: str | os.PathLike | None = None) -> str:
    """Return the session type: "interactive", "batch" (a version is being saved) or "rerun" (Kaggle scores it).

    Kaggle does not always set its variable for the rerun. The other sign is the hidden test set: in a saved version the
    sample is a header and the test folder is empty, in the rerun they are not. Outside Kaggle it is "interactive".

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


def parameters(given: dict, **rules) -> list[tuple[str, str]]:
    """Check the parameters of a notebook: kind, choices and spelling.

    A rule is one of
        the default: text in quotes, a whole number, or a number; numbers are not negative, and 0 only where it is the
            default;
        a tuple of the choices, the default first; a range in it stands for its whole numbers;
        a list of what may be chosen together;
        a function that gives such a rule from parameters that are checked before it.

    In the scoring rerun, where nobody can correct them, wrong parameters get their defaults.

    Args:
        given: the notebook's `globals()`.
        **rules: one for each parameter.

    Returns:
        The names and faults of the parameters that were replaced; empty outside the rerun.

    Raises:
        ValueError: names the parameters, their values and what is expected, outside the rerun.

    >>> parameters({"FLIP": "false"}, FLIP=(True, False))
    Traceback (most recent call last):
    ValueError: parameter FLIP = 'false': expected True or False, without quotes
    """
    wrong = {name: "is missing" for name in rules if name not in given}
    for name in sorted(rules.keys() - wrong.keys(), key=lambda name: callable(rules[name])):
        if callable(rules[name]):
            if wrong:
                continue
            rules[name] = rules[name]()
        expected = _expected(given[name], rules[name])
        if expected:
            wrong[name] = f"= {given[name]!r}: expected {expected}"
    for name in [name for name in given if name.isupper() and name not in rules]:
        for meant in difflib.get_close_matches(name, rules, 1, 0.8):
            wrong[name] = f"is unknown; did you mean {meant}?"
    if not wrong:
        return []
    root = None
    with contextlib.suppress(FileNotFoundError):
        root = scans.find_root(None if "DATA" in wrong else given.get("DATA") or None)
    if mode(root) != "rerun":
        raise ValueError("; ".join(f"parameter {name} {fault}" for name, fault in wrong.items()))
    for name in wrong.keys() & rules.keys():
        rule = rules[name]
        given[name] = () if isinstance(rule, list) else rule[0] if isinstance(rule, tuple) else rule
    return [(f"parameter {name}", fault) for name, fault in wrong.items()]


def _expected(value, rule) -> str:
    """Say what a rule expects; nothing where the value is right."""
    if isinstance(rule, list):
        if isinstance(value, list | tuple) and all(type(item) is str and item in rule for item in value):
            return ""
        return f"a list of any of {', '.join(map(repr, rule))}, such as [{rule[0]!r}]"
    if isinstance(rule, tuple):
        if any(type(value) is int and value in one if isinstance(one, range) else _same(value, one) for one in rule):
            return ""
        texts = [_text(one) for one in rule if not any(isinstance(other, range) and one in other for other in rule)]
        unquoted = isinstance(value, str) and not any(isinstance(one, str) for one in rule)
        return f"{', '.join(texts[:-1])}{' or ' * (len(texts) > 1)}{texts[-1]}{', without quotes' * unquoted}"
    if isinstance(rule, str):
        return "" if isinstance(value, str) else "text in quotes"
    whole = isinstance(rule, int)
    number = type(value) is int or (type(value) is float and not whole and math.isfinite(value))
    if number and (value > 0 or (value == 0 and rule == 0)):
        return ""
    kind = "a whole number" if whole else "a number"
    return f"{kind} {'from 0 up' if rule == 0 else 'above 0'}{', without quotes' * isinstance(value, str)}"


def _same(value, choice) -> bool:
    """Compare by type as well, as True == 1."""
    return type(value) is type(choice) and value == choice


def _text(choice) -> str:
    """Write a choice; a range by its first and last number, and by its second where it has steps."""
    if not isinstance(choice, range):
        return repr(choice)
    return f"{choice[0]} to {choice[-1]}" if choice.step == 1 else f"{choice[0]}, {choice[1]}, ..., {choice[-1]}"


def bundle() -> Path | None:
    """Find the data set that `make bundle` made among those attached on Kaggle, by its wheel; None without one.

    Of several, the one with the newest kit, and of those the last by name.
    """
    wheels = [wheel for depth in range(1, 5) for wheel in scans.KAGGLE_INPUT.glob("*/" * depth + "kitlib-*.whl")]
    if not wheels:
        return None
    return max(wheels, key=lambda wheel: (Version(wheel.name.split("-")[1]), str(wheel))).parent


def run_folders(given: str = "", below: str = "") -> Path:
    """Return the folder for a notebook's run folders: `given`, else runs/ of the checkout, else runs/ here.

    On Kaggle it is always runs/ here: only what lies in /kaggle/working is kept.

    Args:
        given: the folder; a relative one is relative to the notebook's. Empty chooses.
        below: a folder below the one that is chosen.
    """
    return Path(given).expanduser() if given else _home() / "runs" / below


def submission_path(given: str = "") -> Path:
    """Return the file to hand in: `given`, else submission.csv here on Kaggle and in submissions/ of a checkout."""
    if given:
        return Path(given).expanduser()
    return _home() / ("submission.csv" if on_kaggle() else "submissions/submission.csv")


def _home() -> Path:
    """Return the checkout that kitlib runs from; the working folder on Kaggle and without a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() and not on_kaggle() else Path()


def disk_left(folder: str | os.PathLike = ".") -> int:
    """Return the bytes that may still be written to a folder; on Kaggle a session may keep 20 GB."""
    folder = Path(folder).resolve()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free
    if not on_kaggle():
        return free
    used = sum(path.stat().st_size for path in Path.cwd().rglob("*") if path.is_file())
    return max(0, min(free, KAGGLE_DISK - used))


def ends_at(hours: float = 0.0) -> float | None:
    """Return the time at which a notebook that starts now should have ended its trainings, as `time.time()` counts.

    Args:
        hours: from now; 0 is SESSION_HOURS on Kaggle and no limit, None, elsewhere.
    """
    hours = hours or (SESSION_HOURS if on_kaggle() else 0.0)
    return time.time() + 3600 * hours if hours else None


def versions() -> str:
    """Return two lines: the kit and its folder, Python and the packages that matter."""
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
    """Find the competition's folder and print which one it is.

    Args:
        path: the folder; empty looks where scans.find_root does.

    Raises:
        FileNotFoundError: lists where it looked, and gives the command that writes a synthetic competition.
    """
    root = scans.find_root(path or None)
    kind = "PHANTOM (synthetic, not data of patients)" if scans.is_phantom(root) else "competition data"
    print(f"{kind}: {root.resolve()}")
    return root


def devices() -> Devices:
    """Look for accelerators and choose precision and strategy.

    A GPU with bfloat16 arithmetic (compute capability 8 up) gets mixed_bfloat16; one with tensor cores for float16
    alone (7 up: V100, T4) gets mixed_float16, whose losses Keras scales; an older one (P100) has no tensor cores:
    float32. So does a CPU: newer ones are faster in bfloat16 (`benchmarks/step.py`), others slower, and none says which
    it is. A TPU computes in bfloat16.

    On TensorFlow several GPUs share each batch, and the precision is what the oldest of them can do. Batch norms then
    see their own share of the batch, which is all, beside rounding, that parts the curve from that of one device. XLA
    stays off under a strategy, where it fails (`Devices.xla`), and on a CPU, where it is slower: Keras' own choice
    ("auto"). Other backends use one device, unless keras.distribution is set to more (docs/cluster.md).

    Raises:
        RuntimeError: on TensorFlow with a TPU, which would stand idle.
    """
    import keras

    backend = keras.backend.backend()
    tpus = listed("tpu")
    if tpus and backend == "tensorflow":
        raise RuntimeError(
            "this machine has a TPU, which the kit uses on JAX alone: set KERAS_BACKEND=jax in the environment before "
            "Keras is imported, or choose a machine with a GPU"
        )
    if tpus:
        words = f"TPU{_one_of(len(tpus))}"
        return Devices(len(tpus), "mixed_bfloat16", f"Keras on {backend}, {words}: mixed_bfloat16, compiled by XLA")
    if not listed("gpu"):
        plain = ", no XLA" if backend == "tensorflow" else ""
        return Devices(0, "float32", f"Keras on {backend}, {os.cpu_count()} CPU cores, no GPU: float32{plain}")
    return _gpus(_details(backend), backend)


def listed(kind: str) -> list[str]:
    """List the devices of a kind, "gpu" or "tpu", that this process may use; their memory is left alone.

    Keras' own list makes TensorFlow take hold of them, is an error on JAX where there is none, and lacks PyTorch.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return [device.name for device in tf.config.get_visible_devices(kind.upper())]
    if backend == "torch":
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if kind == "gpu" else []
    try:
        return keras.distribution.list_devices(kind)
    except RuntimeError:
        return []


def _details(backend: str) -> list[tuple[str, tuple[int, int]]]:
    """Give name and compute capability of each GPU; (0, 0) where there is none to tell."""
    if backend == "tensorflow":
        import tensorflow as tf

        found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
        return [(one.get("device_name", "GPU"), one.get("compute_capability", (0, 0))) for one in found]
    if backend == "torch":
        import torch

        numbers = range(torch.cuda.device_count())
        return [(torch.cuda.get_device_name(one), torch.cuda.get_device_capability(one)) for one in numbers]
    import jax

    found = [(one.device_kind, str(getattr(one, "compute_capability", ""))) for one in jax.devices("gpu")]
    numeric = re.compile(r"(\d+)\.(\d+)").fullmatch  # "7.5"; AMD's are names
    return [(name, tuple(map(int, numeric(text).groups())) if numeric(text) else (0, 0)) for name, text in found]


def _one_of(count: int) -> str:
    """Say how many of the devices a backend without MirroredStrategy uses."""
    import keras

    if count < 2:
        return ""
    spread = keras.distribution.distribution() is not None
    return f": {count}, as keras.distribution has it" if spread else f": one of {count} is used (docs/cluster.md)"


def _gpus(found: list[tuple[str, tuple[int, int]]], backend: str = "tensorflow") -> Devices:
    """Choose for GPUs, given as name and compute capability."""
    capability = min(capability for _, capability in found)
    precision, why = "float32", "has no 16-bit tensor cores"
    if capability >= (8, 0):
        precision, why = "mixed_bfloat16", "has bfloat16 tensor cores"
    elif capability >= (7, 0):
        precision, why = "mixed_float16", "has float16 tensor cores alone"
    counts = {name: [one for one, _ in found].count(name) for name, _ in found}
    names = " and ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
    several, mirrored = len(found) > 1, len(found) > 1 and backend == "tensorflow"
    share = ": share each batch (MirroredStrategy, no XLA)" if mirrored else _one_of(len(found))
    known = (
        f"compute capability {capability[0]}.{capability[1]} {why}" if any(capability) else "unknown compute capability"
    )
    reason = f"{names}{share}{'; ' if several else ': '}{known}: {precision}"
    reason += "" if mirrored or backend == "torch" else ", compiled by XLA"
    reason = reason if backend == "tensorflow" else f"Keras on {backend}, {reason}"
    shared = tuple(f"GPU:{number}" for number in range(len(found))) if mirrored else ()
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
