"""From scans to packed arrays, and from packed arrays to tf.data batches.

Each scan is decoded once, resized to the network's grid and packed, so that an epoch only slices arrays. Images are
half floats and masks one bit per organ: 48 KiB a slice, 1.8 GiB for the full training set at 128 x 128.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import contest, files
from kitlib.data import axes, earlier, inputs, priors, scans

_BITS = np.arange(len(contest.ORGANS), dtype=np.uint8)
VISITS = 2  # volumes of an epoch that show a slice, about
_THERE = 1 << len(contest.ORGANS)  # the bit that says of a slice's masks that they are a prior
_ALIGNMENT = 64  # bytes; TensorFlow shares memory that starts at a multiple of it


@dataclass(frozen=True)
class Packed:
    """Scans on the network's grid.

    Attributes:
        slices: the slice table that was packed.
        spec: the grid and the stack.
        images: (rows, height, width) float16.
        masks: (rows, height, width) uint8; bit k is organ k of contest.ORGANS. Read them with `truth`.
        stacks: (rows, depth) row numbers of the neighbours of each slice, or of the slices of its volume.
        shifts: the slices between the days of each case, from `priors.shifts`; None where no prior is asked for.
    """

    slices: pd.DataFrame
    spec: inputs.InputSpec
    images: np.ndarray
    masks: np.ndarray
    stacks: np.ndarray
    shifts: priors.Shifts | None = None

    def stack(self, row: int) -> np.ndarray:
        """The stack or volume of one slice, by its row: (height, width, depth) float32."""
        return self.images[self.stacks[row]].transpose(1, 2, 0).astype(np.float32)

    def example(self, row: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The input of one slice, to look at.

        Along y and x it goes through the row or column of the slice that shows most of the organs; of a volume it is
        the slice between two neighbours on either side.

        Returns:
            Images (height, width, n) float32, masks (height, width, organs) bool of the middle one, and n names.
        """
        masks, spec = self.truth(self.slices.iloc[[row]])[0], self.spec
        if spec.axis == "z":
            stack = scans.stacks(self.slices, 5)[row] if spec.volume else self.stacks[row]
            images = self.images[stack].transpose(1, 2, 0).astype(np.float32)
            return images, masks, [f"slice {number}" for number in self.slices["slice"].to_numpy()[stack]]
        rows = self.slices[self.slices["scan"] == self.slices["scan"].iloc[row]]
        place = int(masks.any(axis=-1).sum(axis="zyx".index(spec.axis) % 2).argmax())
        stack = axes.places(spec.height if spec.axis == "y" else spec.width, spec)[place]
        pad = [(0, max(spec.length - len(rows), 0)), (0, 0), (0, 0)]
        images = axes.turn(np.pad(self.images[rows.index], pad)[: spec.length], spec.axis)[stack]
        shown = axes.turn(np.pad(self.truth(rows), [*pad, (0, 0)])[: spec.length], spec.axis)[place]
        kind = "row" if spec.axis == "y" else "column"
        return images.transpose(1, 2, 0).astype(np.float32), shown, [f"{kind} {number + 1}" for number in stack]

    def truth(self, slices: pd.DataFrame) -> np.ndarray:
        """The masks of some slices on the grid: (rows, height, width, organs) bool."""
        return (self.masks[self.rows(slices)][..., None] >> _BITS & 1).astype(bool)

    def prior(self, scan: str, other: str | None) -> np.ndarray:
        """The prior of a scan, as the network gets it: (D, height, width, 4) uint8, zeros without another day."""
        rows = self.slices[self.slices["scan"] == scan]
        shift = None if other is None else priors.between(self.shifts, scan, other)
        if shift is None:
            return np.zeros((len(rows), *self.masks.shape[1:], contest.PRIOR_CHANNELS), np.uint8)
        return priors.channels(self.truth(self.slices[self.slices["scan"] == other]), len(rows), shift)

    @cached_property
    def tensors(self):
        """Images and masks as tf.Variable on the CPU; they share the arrays' memory where that is aligned."""
        with ThreadPoolExecutor(1) as outside:  # another thread is outside the scope of any strategy
            return tuple(outside.map(_variable, (self.images, self.masks)))

    def restacked(self, spec: inputs.InputSpec) -> "Packed":
        """The same scans for another depth, stride or axis, as volumes, or with a prior; nothing is decoded or copied.

        Raises:
            ValueError: when anything else differs.
        """
        if spec.grid != self.spec.grid:
            raise ValueError(
                f"the scans were packed for {self.spec}; {spec} differs in more than depth, stride and axis: pack again"
            )
        if spec == self.spec:
            return self
        shifts = self.shifts
        if spec.prior and shifts is None:
            shifts = priors.shifts(self.slices, self.images, spec)
        return replace(self, spec=spec, stacks=_stacks(self.slices, spec), shifts=shifts)

    def remasked(self, slices: pd.DataFrame) -> "Packed":
        """The same images with the masks of another annotation: a table of the same slices in the same order."""
        if list(slices["id"]) != list(self.slices["id"]):
            raise ValueError(
                f"the {len(slices)} slices are not the {len(self.slices)} packed ones in their order; "
                "pack these instead"
            )
        slices, masks = slices.reset_index(drop=True), _aligned(self.masks.shape, np.uint8)
        for _, rows in slices.groupby("scan", sort=False):
            masks[rows.index] = _bits(rows, self.spec)
        return replace(self, slices=slices, masks=masks)

    def rows(self, slices: pd.DataFrame) -> np.ndarray:
        """Find the row numbers of some slices among the packed ones, by id."""
        rows = pd.Index(self.slices["id"]).get_indexer(slices["id"])
        if (rows < 0).any():
            raise ValueError(
                f"{slices['id'].iloc[np.argmax(rows < 0)]} is not among the packed slices; pack its scan too"
            )
        return rows


def pack(slices: pd.DataFrame, spec: inputs.InputSpec, folder: str | os.PathLike | None = None) -> Packed:
    """Decode every scan once and resize it to the network's grid; shows a progress bar.

    For a prior the days of each case are registered too.

    Args:
        slices: whole scans from `scans.read`; without columns of organs the masks are empty.
        spec: grid and stack.
        folder: where to keep the packed arrays as memory-mapped files. The next call with the same slices, masks, image
            files (by size and time) and grid finds them again. None keeps the arrays in memory.

    Raises:
        ValueError: names a file that cannot be decoded or a mask that is malformed.
    """
    slices = slices.reset_index(drop=True)
    stacks = _stacks(slices, spec)
    shape = (len(slices), spec.height, spec.width)
    if folder is None:
        images, masks = _aligned(shape, np.float16), _aligned(shape, np.uint8)
        _fill(slices, spec, images, masks)
        shifts = priors.shifts(slices, images, spec) if spec.prior else None
        return Packed(slices, spec, images, masks, stacks, shifts)
    stem = _fingerprint(slices, spec)
    paths = [Path(folder) / f"{stem}-images.npy", Path(folder) / f"{stem}-masks.npy"]
    if not all(path.exists() for path in paths):
        with files.replacing(paths[0], None) as first, files.replacing(paths[1], None) as second:
            images = np.lib.format.open_memmap(first, "w+", np.float16, shape)
            masks = np.lib.format.open_memmap(second, "w+", np.uint8, shape)
            _fill(slices, spec, images, masks)
            images.flush()
            masks.flush()
    images, masks = (np.load(path, mmap_mode="c") for path in paths)  # TensorFlow shares writable memory only
    shifts = _kept_shifts(slices, images, spec, Path(folder) / f"{stem}-shifts.json") if spec.prior else None
    return Packed(slices, spec, images, masks, stacks, shifts)


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

    A batch is a dict: "images" (B, height, width, depth) float32, "masks" (B, height, width, organs) uint8, of volumes
    (B, height, width, depth, organs), "seed" (B,) int32 and "weight" (B,) float32. Order and seeds depend on (seed,
    epoch, row) alone, so a run that is resumed at `first_epoch` sees the same batches as one that never stopped.

    Along y and x the height and width are those of a picture (`InputSpec.picture`). An epoch then draws as many
    pictures as there are slices, from `axes.pictures`; of a scan with more slices than `length` each draw takes a part.

    With a prior, its four channels follow the organs in "masks", because an augmentation treats them alike; the
    training step brings them behind the slices. In training it is another day among `slices`, which never holds a
    validation scan, and a sample's seed chooses the day, or for half of the samples none. Otherwise it is the earlier
    day among the packed slices.

    Args:
        slices: the slices to draw; their neighbours and priors come from the whole scans in `packed`. Of volumes an
            epoch draws the slices around which they lie, see `samples`.
        spec: grid and stack.
        batch_size: B.
        training: True shuffles, drops the remainder, and repeats for ever, epoch after epoch; False gives every slice
            once, in order, and pads the last batch with slices of weight 0. Along y and x these are the pictures of the
            slices' scans, cut after `length` slices.
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
        raise ValueError(f"the scans were packed for {packed.spec}, not for {spec}; pack them again")
    chosen = packed.rows(slices)
    count, turned = len(chosen), spec.axis != "z"
    if turned:
        pictures = axes.pictures(slices, packed.slices, packed.masks, spec, seed if training else None)
        if training:  # each as often as it takes for an epoch
            pictures = np.tile(pictures, (-(-len(slices) // max(len(pictures), 1)), 1))
        count = len(pictures)
        cut_turned = axes.cutter(packed.tensors, pictures, spec, training)
    if training:
        number = steps(slices, batch_size, spec)
        if not number:
            what = f"{samples(slices, spec)} {'volumes' if spec.volume else 'slices'}"
            raise ValueError(f"{what} do not fill a batch of {batch_size}; choose a smaller batch_size")

        def epoch_rows(epoch):
            order = tf.random.experimental.stateless_shuffle(tf.range(count), [seed, tf.cast(epoch, tf.int32)])
            seeds = tf.random.stateless_uniform([count], [seed, tf.cast(epoch, tf.int32)], None, None, tf.int32)
            order = order[: number * batch_size]
            shape = [number, batch_size]
            return tf.data.Dataset.from_tensor_slices(
                (tf.reshape(order, shape), tf.reshape(tf.gather(seeds, order), shape), tf.ones(shape))
            )

        batches = tf.data.Dataset.counter(first_epoch).flat_map(epoch_rows)
    else:
        number = -(-count // batch_size)
        rows = np.minimum(np.arange(number * batch_size), count - 1).astype(np.int32)
        weight = (np.arange(number * batch_size) < count).astype(np.float32)
        shape = (number, batch_size)
        batches = tf.data.Dataset.from_tensor_slices((rows.reshape(shape), rows.reshape(shape), weight.reshape(shape)))

    images, masks = packed.tensors
    stacks = packed.stacks[chosen].astype(np.int32)
    labelled = stacks if spec.volume else chosen.astype(np.int32)
    to_last = _to_last(len(_BITS) + spec.prior * contest.PRIOR_CHANNELS)
    if spec.prior:
        days = priors.others(slices) if training else _listed(earlier.days(slices, packed.slices))
        table, counts = (part[chosen] for part in priors.rows(packed.slices, days, packed.shifts))
        draws = 2 * np.maximum(counts, 1) if training else np.ones_like(counts)  # the second half is no day

    def prior(rows, seeds):
        """Give the bits of the priors."""
        drawn = tf.minimum(tf.math.floormod(seeds, tf.gather(draws, rows)), table.shape[1] - 1)
        row = tf.gather(tf.gather(table, rows), drawn, batch_dims=1)
        bits = tf.bitwise.bitwise_or(tf.gather(tf.convert_to_tensor(masks), tf.maximum(row, 0)), np.uint8(_THERE))
        return tf.where(row[:, None, None] >= 0, bits, np.uint8(0))

    def load(rows, seeds, weight):
        # No Python in here: it can deadlock, as tf.data waits for the interpreter and the interpreter for tf.data.
        if turned:
            cut, bits = cut_turned(rows, seeds)
        else:
            cut = tf.gather(tf.convert_to_tensor(images), tf.gather(stacks, rows))
            bits = tf.gather(tf.convert_to_tensor(masks), tf.gather(labelled, rows))
        if spec.prior:
            bits = tf.bitwise.bitwise_or(bits, tf.bitwise.left_shift(prior(rows, seeds), np.uint8(len(_BITS))))
        last, unpacked = to_last(cut, bits)
        return {"images": last, "masks": unpacked, "seed": seeds, "weight": weight}

    def augmented(batch):
        images, masks = augment(batch["images"], batch["masks"], batch["seed"], training=True)
        return {**batch, "images": images, "masks": masks}

    batches = batches.map(load, num_parallel_calls=2, deterministic=True)
    if augment is not None:
        batches = batches.map(augmented, num_parallel_calls=2, deterministic=True)
    return batches.prefetch(4)


@cache
def _to_last(count: int):
    """Make the function that moves slices and `count` bits to the last axis; XLA makes it three times as fast."""
    import tensorflow as tf

    def turn(stacks, bits):
        images = tf.cast(tf.transpose(stacks, [0, 2, 3, 1]), tf.float32)
        if bits.shape.rank == 4:  # of volumes
            bits = tf.transpose(bits, [0, 2, 3, 1])
        return images, tf.bitwise.right_shift(bits[..., None], np.arange(count, dtype=np.uint8)) & 1

    return tf.function(turn, jit_compile=True, autograph=False)


def _variable(array: np.ndarray):
    """Hand an array to TensorFlow without copying it; as a variable, because tf.data copies captured tensors."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        if array.flags.writeable and array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
            tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
        else:
            tensor = tf.constant(array)
        return tf.Variable(tensor, trainable=False)


def steps(slices: pd.DataFrame, batch_size: int, spec: inputs.InputSpec = inputs.InputSpec()) -> int:
    """Count the training batches of an epoch."""
    return samples(slices, spec) // batch_size


def samples(slices: pd.DataFrame, spec: inputs.InputSpec) -> int:
    """Count the training samples of an epoch: a stack per slice; of volumes as many as show each slice twice.

    The volumes around neighbouring slices are nearly the same sample, so that each epoch draws some of them anew.

    >>> samples(range(144), inputs.InputSpec(depth=32, volume=True))
    9
    """
    return -(-VISITS * len(slices) // spec.depth) if spec.volume else len(slices)


def _stacks(slices: pd.DataFrame, spec: inputs.InputSpec) -> np.ndarray:
    """Find the rows of each slice's input: (rows, depth)."""
    if spec.volume:
        return scans.volumes(slices, spec.depth)
    return scans.stacks(slices, spec.depth, spec.stride)


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Make an array of zeros that TensorFlow can share, by its alignment."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def _fill(slices: pd.DataFrame, spec: inputs.InputSpec, images: np.ndarray, masks: np.ndarray) -> None:
    """Decode the scans, several at a time (OpenCV releases the interpreter), and write each to its rows."""
    annotated = set(contest.ORGANS) <= set(slices.columns)

    def pack_scan(rows: pd.DataFrame) -> int:
        scan, size = inputs.load(rows["path"].tolist()), scans.common_size(rows)
        if scan.shape[1:] != size:
            size, real = (f"{height}x{width}" for height, width in (size, scan.shape[1:]))
            raise ValueError(f"{rows['path'].iloc[0]} is {real}, but its name says {size}; copy the file again")
        images[rows.index] = inputs.prepare(scan, spec, scans.spacing_mm(rows))
        if annotated:
            masks[rows.index] = _bits(rows, spec)
        return len(rows)

    groups = [rows for _, rows in slices.groupby("scan", sort=False)]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(slices), desc="packing", unit=" slices") as bar,
    ):
        for count in pool.map(pack_scan, groups):
            bar.update(count)


def _bits(rows: pd.DataFrame, spec: inputs.InputSpec) -> np.ndarray:
    """Decode the masks of one scan on the grid: (D, height, width) uint8, one bit per organ."""
    bits = np.zeros((len(rows), spec.height, spec.width), np.uint8)
    filled = (scans.organ_count(rows) > 0).to_numpy()
    if filled.any():
        masks, spacing_mm = scans.masks(rows[filled]), scans.spacing_mm(rows)
        for bit in _BITS:  # organ after organ, whose masks are contiguous in memory
            bits[filled] |= inputs.prepare_masks(masks[..., bit], spec, spacing_mm) << bit
    return bits


def _kept_shifts(slices: pd.DataFrame, images: np.ndarray, spec: inputs.InputSpec, path: Path) -> priors.Shifts:
    """Read the shifts that are kept beside packed arrays; the first call registers the days and writes them."""
    if not path.exists():
        found = [[*pair, shift] for pair, shift in priors.shifts(slices, images, spec).items()]
        with files.replacing(path) as file:
            json.dump(found, file)
    return {(later, before): shift for later, before, shift in json.loads(path.read_text(encoding="utf-8"))}


def _listed(days: dict[str, str]) -> dict[str, list[str]]:
    return {scan: [other] for scan, other in days.items()}


def _fingerprint(slices: pd.DataFrame, spec: inputs.InputSpec) -> str:
    """Name packed arrays by their contents: slices, masks, sizes and times of the image files, and the grid."""
    columns = [name for name in ("id", "path", *contest.ORGANS) if name in slices.columns]
    digest = hashlib.sha256(spec.grid.to_json().encode())
    digest.update(pd.util.hash_pandas_object(slices[columns], index=False).to_numpy().tobytes())
    for path in slices["path"]:
        try:
            found = os.stat(path)
        except OSError:  # packing names the missing file
            continue
        digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
    return f"packed-{digest.hexdigest()[:16]}"
