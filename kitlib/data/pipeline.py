"""From packed scans to batches; the only module that knows tf.data.

Each scan is decoded once, brought to the network's grid and kept packed, so that an epoch is array slicing: half floats
for the pictures and one bit per organ for the masks make 48 KiB a slice, 1.8 GiB for the full training set at 128 x
128.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest, rle
from kitlib.data import inputs, scans

_BITS = np.arange(len(contest.ORGANS), dtype=np.uint8)
_ALIGNMENT = 64  # bytes that TensorFlow wants memory to start at


@dataclass(frozen=True)
class Packed:
    """Scans on the network's grid.

    Attributes:
        slices: the table that was packed, one row per slice.
        spec: the grid and the stack.
        images: (rows, height, width) float16.
        masks: (rows, height, width) uint8; bit k is organ k of contest.ORGANS.
        stacks: (rows, depth) positions of the neighbours of each slice.
    """

    slices: pd.DataFrame
    spec: inputs.InputSpec
    images: np.ndarray
    masks: np.ndarray
    stacks: np.ndarray

    def stack(self, row: int) -> np.ndarray:
        """The stack of one slice, by its row: (height, width, depth) float32, as the network gets it."""
        return self.images[self.stacks[row]].transpose(1, 2, 0).astype(np.float32)

    def truth(self, slices: pd.DataFrame) -> np.ndarray:
        """The masks of some slices on the grid: (rows, height, width, organs) bool."""
        return (self.masks[self.rows(slices)][..., None] >> _BITS & 1).astype(bool)

    @cached_property
    def tensors(self):
        """Images and masks as tf.Variable on the CPU, which share the arrays' memory where that is aligned."""
        with ThreadPoolExecutor(1) as outside:  # a thread of its own is outside the scope of any strategy
            return tuple(outside.map(_variable, (self.images, self.masks)))

    def restacked(self, spec: inputs.InputSpec) -> "Packed":
        """The same scans for another depth or stride; nothing is decoded or copied.

        Raises:
            ValueError: when anything else differs.
        """
        if replace(spec, depth=self.spec.depth, stride=self.spec.stride) != self.spec:
            raise ValueError(f"the scans were packed for {self.spec}, which is more than a stack away from {spec}")
        if spec == self.spec:
            return self
        return replace(self, spec=spec, stacks=scans.stacks(self.slices, spec.depth, spec.stride))

    def remasked(self, slices: pd.DataFrame) -> "Packed":
        """The same images with the masks of another annotation: a table of the same slices in the same order."""
        if list(slices["id"]) != list(self.slices["id"]):
            raise ValueError(f"expected the {len(self.slices)} packed slices in their order, got {len(slices)} others")
        slices, masks = slices.reset_index(drop=True), _aligned(self.masks.shape, np.uint8)
        for _, rows in slices.groupby("scan", sort=False):
            _draw(rows, self.spec, (int(rows["height"].iloc[0]), int(rows["width"].iloc[0])), masks)
        return replace(self, slices=slices, masks=masks)

    def rows(self, slices: pd.DataFrame) -> np.ndarray:
        """Find the row numbers of some slices among the packed ones, by id."""
        rows = pd.Index(self.slices["id"]).get_indexer(slices["id"])
        if (rows < 0).any():
            raise ValueError(f"{slices['id'].iloc[np.argmax(rows < 0)]} is not among the packed slices")
        return rows


def pack(slices: pd.DataFrame, spec: inputs.InputSpec, folder: str | os.PathLike | None = None) -> Packed:
    """Decode every scan once and bring it to the network's grid; shows a progress bar.

    Args:
        slices: whole scans, as scans.read gives them; without columns of organs the masks are empty.
        spec: grid and stack.
        folder: where to keep the packed arrays as memory-mapped files, to be found again by the next run on the same
            slices, grid and masks; None keeps them in memory.

    Raises:
        ValueError: names a file that cannot be decoded or a mask that is malformed.
    """
    slices = slices.reset_index(drop=True)
    stacks = scans.stacks(slices, spec.depth, spec.stride)
    shape = (len(slices), spec.height, spec.width)
    if folder is None:
        images, masks = _aligned(shape, np.float16), _aligned(shape, np.uint8)
        _fill(slices, spec, images, masks)
        return Packed(slices, spec, images, masks, stacks)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = _fingerprint(slices, spec)
    files = [folder / f"{stem}-images.npy", folder / f"{stem}-masks.npy"]
    if not all(file.exists() for file in files):
        drafts = [file.with_suffix(f".{os.getpid()}.part") for file in files]
        types = (np.float16, np.uint8)
        opened = [
            np.lib.format.open_memmap(draft, "w+", dtype, shape) for draft, dtype in zip(drafts, types, strict=True)
        ]
        try:
            _fill(slices, spec, *opened)
            for array, draft, file in zip(opened, drafts, files, strict=True):
                array.flush()
                os.replace(draft, file)
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)
    images, masks = (np.load(file, mmap_mode="c") for file in files)  # TensorFlow shares writable memory only
    return Packed(slices, spec, images, masks, stacks)


def dataset(
    slices: pd.DataFrame,
    spec: inputs.InputSpec,
    batch_size: int,
    training: bool,
    *,
    packed: Packed | None = None,
    seed: int = 0,
    first_epoch: int = 0,
    augment=None,
):
    """Make a tf.data.Dataset of batches of static shape.

    A batch is a dict: "images" (B, height, width, depth) float32, "masks" (B, height, width, organs) uint8, "seed" (B,)
    int32 and "weight" (B,) float32. Order and seeds are functions of (seed, epoch, row) alone, so that a run resumed at
    `first_epoch` goes on as if it had never stopped.

    Args:
        slices: the slices to draw; their neighbours come from the whole scans in `packed`.
        spec: grid and stack.
        batch_size: B.
        training: True shuffles, drops what is left over and goes on for ever, epoch after epoch; False gives every
            slice once, in order, and fills the last batch up with slices of weight 0.
        packed: packed scans that hold the slices; None packs them here.
        seed: of the run.
        first_epoch: number of the first epoch to deliver, in training.
        augment: kitlib.layers.augment.Augment, or another function of (images, masks, seed, training), to run on the
            CPU while batches are made, for machines without an accelerator; None leaves it to the training step.
            `keras.ops` run there on the TensorFlow backend of Keras only.

    Raises:
        ValueError: when there are fewer slices than a batch takes, in training.
    """
    import tensorflow as tf

    packed = packed or pack(slices, spec)
    if packed.spec != spec:
        raise ValueError(f"the scans were packed for {packed.spec}, not {spec}")
    chosen = packed.rows(slices)
    count = len(chosen)
    if training:
        if count < batch_size:
            raise ValueError(f"{count} slices do not fill a batch of {batch_size}; choose a smaller batch_size")
        steps = count // batch_size

        def epoch_rows(epoch):
            order = tf.random.experimental.stateless_shuffle(tf.range(count), [seed, tf.cast(epoch, tf.int32)])
            seeds = tf.random.stateless_uniform([count], [seed, tf.cast(epoch, tf.int32)], None, None, tf.int32)
            order = order[: steps * batch_size]
            shape = [steps, batch_size]
            return tf.data.Dataset.from_tensor_slices(
                (tf.reshape(order, shape), tf.reshape(tf.gather(seeds, order), shape), tf.ones(shape))
            )

        batches = tf.data.Dataset.counter(first_epoch).flat_map(epoch_rows)
    else:
        steps = -(-count // batch_size)
        rows = np.minimum(np.arange(steps * batch_size), count - 1).astype(np.int32)
        weight = (np.arange(steps * batch_size) < count).astype(np.float32)
        shape = (steps, batch_size)
        batches = tf.data.Dataset.from_tensor_slices((rows.reshape(shape), rows.reshape(shape), weight.reshape(shape)))

    images, masks = packed.tensors
    stacks, middles = packed.stacks[chosen].astype(np.int32), chosen.astype(np.int32)
    turn = _turn()

    def load(rows, seeds, weight):
        # No Python in here: tf.data would wait for the interpreter, and for ever where the interpreter waits for it.
        cut = tf.gather(tf.convert_to_tensor(images), tf.gather(stacks, rows))
        bits = tf.gather(tf.convert_to_tensor(masks), tf.gather(middles, rows))
        turned, unpacked = turn(cut, bits)
        return {"images": turned, "masks": unpacked, "seed": seeds, "weight": weight}

    def augmented(batch):
        images, masks = augment(batch["images"], batch["masks"], batch["seed"], training=True)
        return {**batch, "images": images, "masks": masks}

    batches = batches.map(load, num_parallel_calls=2, deterministic=True)
    if augment is not None:
        batches = batches.map(augmented, num_parallel_calls=2, deterministic=True)
    return batches.prefetch(4)


@cache
def _turn():
    """Make the function that puts slices and organs last; XLA fuses it into two loops, a third of the graph's time."""
    import tensorflow as tf

    def turn(stacks, bits):
        images = tf.cast(tf.transpose(stacks, [0, 2, 3, 1]), tf.float32)
        return images, tf.bitwise.right_shift(bits[..., None], _BITS) & 1

    return tf.function(turn, jit_compile=True, autograph=False)


def _variable(array: np.ndarray):
    """Give TensorFlow an array without copying it: as a variable, because tf.data writes captured tensors out."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        if array.flags.writeable and array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
            tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
        else:
            tensor = tf.constant(array)
        return tf.Variable(tensor, trainable=False)


def steps(slices: pd.DataFrame, batch_size: int) -> int:
    """Count the training batches of an epoch."""
    return len(slices) // batch_size


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Make an array of zeros that starts where TensorFlow can share it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def _fill(slices: pd.DataFrame, spec: inputs.InputSpec, images: np.ndarray, masks: np.ndarray) -> None:
    """Decode scan after scan, several at a time (OpenCV lets other threads run), and write each where it belongs."""
    annotated = set(contest.ORGANS) <= set(slices.columns)

    def one(rows: pd.DataFrame) -> int:
        scan = inputs.load(rows["path"].tolist())
        images[rows.index] = inputs.prepare(scan, spec)
        if annotated:
            _draw(rows, spec, scan.shape[1:], masks)
        return len(rows)

    groups = [rows for _, rows in slices.groupby("scan", sort=False)]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(slices), desc="packing", unit=" slices") as bar,
    ):
        for done in pool.map(one, groups):
            bar.update(done)


def _draw(rows: pd.DataFrame, spec: inputs.InputSpec, shape: tuple[int, int], masks: np.ndarray) -> None:
    """Decode the masks of one scan and set their bits at the rows' places."""
    for bit, organ in enumerate(contest.ORGANS):
        filled = rows.index[rows[organ] != ""]
        if len(filled):
            full = rle.decode_stack(rows.loc[filled, organ].tolist(), shape)
            masks[filled] |= inputs.prepare_masks(full, spec).astype(np.uint8) << bit


def _fingerprint(slices: pd.DataFrame, spec: inputs.InputSpec) -> str:
    """Name a packed data set by what is in it, whatever the stack that is cut from it."""
    columns = [name for name in ("id", "path", *contest.ORGANS) if name in slices.columns]
    digest = hashlib.sha256(replace(spec, depth=1, stride=1).to_json().encode())
    digest.update(pd.util.hash_pandas_object(slices[columns], index=False).to_numpy().tobytes())
    return f"packed-{digest.hexdigest()[:16]}"
