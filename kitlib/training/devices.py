"""The accelerators of this machine, the precision that suits them, and how several of them are used."""

import contextlib
import functools
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

TIMED_STEPS = 5
NVIDIA = (
    Path("/proc/driver/nvidia/version"),
    Path("/dev/nvidia0"),
)  # either is there where the driver has found a card


@dataclass(frozen=True)
class Devices:
    """The devices that a run uses.

    Attributes:
        accelerators: how many there are.
        precision: the dtype policy for Keras.
        reason: the choice in one line, for people.
        shared: names of the devices that share each batch; fewer than two are no strategy.
    """

    accelerators: int
    precision: str
    reason: str
    shared: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.reason

    def strategy(self):
        """The MirroredStrategy of the devices that share each batch; None for one device or another backend."""
        if len(self.shared) < 2 or keras.backend.backend() != "tensorflow":
            return None
        return _mirrored(self.shared)

    @property
    def xla(self) -> bool | str:
        """The value of `jit_compile`: False under a strategy, where XLA fails; else Keras' "auto", False on a CPU."""
        return "auto" if self.strategy() is None else False

    @property
    def times_xla(self) -> bool:
        """Whether XLA is on or off by `time_xla`: on a GPU with TensorFlow.

        A CPU trains without it, because compiling a U-Net there takes longer than the timing could save. JAX always
        compiles, and PyTorch never does.
        """
        return self.accelerators > 0 and keras.backend.backend() == "tensorflow" and self.strategy() is None


def detect(cards: int = 0, share: bool = False) -> Devices:
    """Look for accelerators and choose the precision.

    A GPU with bfloat16 arithmetic (compute capability 8 and above) gets mixed_bfloat16; one with tensor cores for
    float16 alone (7 and above: V100, T4) gets mixed_float16, whose losses Keras scales; an older one (P100) has no
    tensor cores: float32. A CPU gets float32 too: newer ones are faster in bfloat16 (`benchmarks/step.py`), others are
    slower, and none says which it is. A TPU computes in bfloat16. Of several GPUs the oldest decides.

    Several GPUs train one fold each, side by side (`jobs.run`); a single training uses the first one. With `share`, on
    TensorFlow, they share each batch instead (MirroredStrategy). That is not the same training: a Dice term is the mean
    of one per card, each over its share of the batch (for 16 samples .75 on two cards where one card has .64), batch
    norms and the partners of CutMix and MixUp are those of a share too, and XLA is off. Other backends use one device,
    unless keras.distribution is set to more (docs/cluster.md).

    Args:
        cards: GPUs to use; 0 is all of them.
        share: let several GPUs share each batch.

    Raises:
        RuntimeError: on TensorFlow with a TPU, which would be idle.
    """
    backend = keras.backend.backend()
    tpus = listed("tpu")
    if tpus and backend == "tensorflow":
        raise RuntimeError(
            "this machine has a TPU, which the kit uses only with JAX: set KERAS_BACKEND=jax in the environment before "
            "Keras is imported, or choose a machine with a GPU"
        )
    if tpus:
        text = f"TPU{_one_of(len(tpus))}"
        return Devices(len(tpus), "mixed_bfloat16", f"Keras on {backend}, {text}: mixed_bfloat16, compiled by XLA")
    if not listed("gpu"):
        plain = ", no XLA" if backend == "tensorflow" else ""
        text = f"Keras on {backend}, {os.cpu_count()} CPU cores, no GPU: float32{plain}{unseen_gpu(backend)}"
        return Devices(0, "float32", text)
    found = _details(backend)
    return _gpus(found[: cards or None], backend, share)


def unseen_gpu(backend: str) -> str:
    """Explain why an NVIDIA card of this machine is not used, and the remedy; empty where there is no card.

    Called where the backend has no GPU. A card is known by the driver's files or by its program nvidia-smi.
    """
    if not any(path.exists() for path in NVIDIA) and not shutil.which("nvidia-smi"):
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return f". This machine has an NVIDIA GPU that CUDA_VISIBLE_DEVICES={visible!r} hides: unset it to use the GPU"
    package = {"tensorflow": '"tensorflow[and-cuda]"', "jax": '"jax[cuda12]"'}.get(backend, f"{backend} with CUDA")
    return (
        f". This machine has an NVIDIA GPU that {backend} does not see, usually because it was installed without "
        f"CUDA's libraries: pip install {package}, then check that nvidia-smi lists the card"
    )


def listed(kind: str) -> list[str]:
    """List the devices of a kind, "gpu" or "tpu", that this process may use; their memory is not allocated.

    Keras' own list makes TensorFlow take hold of them, is an error on JAX where there is none, and lacks PyTorch.
    """
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


def use(chosen: Devices) -> Devices:
    """Make Keras compute in the chosen precision from now on, and let several GPUs keep memory for other processes."""
    keras.config.set_dtype_policy(chosen.precision)
    if chosen.accelerators > 1 and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with contextlib.suppress(RuntimeError, ValueError):  # the GPUs are in use already: their memory is taken
            for gpu in tf.config.get_visible_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
    return chosen


def time_xla(
    make: Callable[[bool], keras.Model], batch: dict[str, np.ndarray], clock: Callable[[], float] = time.perf_counter
) -> dict:
    """Time a few training steps without and with XLA, and choose the faster.

    Which one is faster depends on the network: XLA joins small operations, and chooses slower kernels for some
    convolutions. Compiling, in the first step, is not counted: it is done once.

    Args:
        make: from `jit_compile` to a compiled model. TensorFlow only.
        batch: for `train_on_batch`, with the sizes of the training.
        clock: gives seconds.

    Returns:
        "on", and the median step in ms "with" XLA, None where XLA cannot compile the model, and "without".
    """
    import tensorflow as tf

    def median(model: keras.Model) -> float:
        seconds = []
        for _ in range(1 + TIMED_STEPS):
            began = clock()
            model.train_on_batch(batch)  # ends when the step has, because it returns the loss
            seconds.append(clock() - began)
        return round(1000 * statistics.median(seconds[1:]), 2)

    without = median(make(False))
    try:
        compiled = median(make(True))
    except tf.errors.OpError:  # an operation that it does not know, or too little memory
        compiled = None
    return {"on": compiled is not None and compiled < without, "with": compiled, "without": without}


def scope(strategy):
    """The scope of a strategy, to build a model in; of None, one that does nothing."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def seed(number: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and Keras; with `deterministic`, make TensorFlow's operations repeat to the bit from now on.

    That choice holds for the rest of the process.
    """
    keras.utils.set_random_seed(number)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def cleared() -> Iterator[None]:
    """Free Keras' state after a training; precision and distribution, which Keras would reset with it, stay."""
    try:
        yield
    finally:
        policy, spread = keras.config.dtype_policy(), keras.distribution.distribution()
        keras.utils.clear_session()
        keras.config.set_dtype_policy(policy)
        keras.distribution.set_distribution(spread)


def _details(backend: str) -> list[tuple[str, tuple[int, int]]]:
    """Give name and compute capability of each GPU; (0, 0) where there is none to tell."""
    if backend == "tensorflow":
        import tensorflow as tf

        found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
        return [(gpu.get("device_name", "GPU"), gpu.get("compute_capability", (0, 0))) for gpu in found]
    if backend == "torch":
        import torch

        numbers = range(torch.cuda.device_count())
        return [(torch.cuda.get_device_name(gpu), torch.cuda.get_device_capability(gpu)) for gpu in numbers]
    import jax

    found = [(gpu.device_kind, str(getattr(gpu, "compute_capability", ""))) for gpu in jax.devices("gpu")]
    numeric = re.compile(r"(\d+)\.(\d+)").fullmatch  # "7.5"; AMD's are names
    return [(name, tuple(map(int, numeric(text).groups())) if numeric(text) else (0, 0)) for name, text in found]


def _one_of(count: int) -> str:
    """Say how many of the devices a backend without MirroredStrategy uses."""
    if count < 2:
        return ""
    spread = keras.distribution.distribution() is not None
    return f": {count}, as set by keras.distribution" if spread else f": one of {count} is used (docs/cluster.md)"


def _gpus(found: list[tuple[str, tuple[int, int]]], backend: str = "tensorflow", share: bool = False) -> Devices:
    """Choose for GPUs, given as name and compute capability."""
    capability = min(capability for _, capability in found)
    precision, why = "float32", "has no 16-bit tensor cores"
    if capability >= (8, 0):
        precision, why = "mixed_bfloat16", "has bfloat16 tensor cores"
    elif capability >= (7, 0):
        precision, why = "mixed_float16", "has float16 tensor cores alone"
    counts = {name: [other for other, _ in found].count(name) for name, _ in found}
    names = " and ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
    several, mirrored = len(found) > 1, share and len(found) > 1 and backend == "tensorflow"
    how = _one_of(len(found))
    if mirrored:
        how = ": share each batch (MirroredStrategy, no XLA); Dice, batch norms and CutMix see one card's share of it"
    elif several and backend == "tensorflow":
        how = ": a fold per card; a single training uses the first"
    known = (
        f"compute capability {capability[0]}.{capability[1]} {why}" if any(capability) else "unknown compute capability"
    )
    reason = f"{names}{how}{'; ' if several else ': '}{known}: {precision}"
    timed = ", XLA on or off by the time of a few steps"
    reason += "" if mirrored else {"tensorflow": timed, "jax": ", compiled by XLA"}.get(backend, "")
    reason = reason if backend == "tensorflow" else f"Keras on {backend}, {reason}"
    shared = tuple(f"GPU:{number}" for number in range(len(found))) if mirrored else ()
    return Devices(len(found), precision, reason, shared)


@functools.cache
def _mirrored(names: tuple[str, ...]):
    """Make the strategy of some devices, once per process."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(names))
