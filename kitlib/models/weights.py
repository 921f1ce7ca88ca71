"""Weight files as arrays: HDF5 with layer names, .npz, and PyTorch before 1.6. Nothing in a file is executed."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from kitlib.files import replacing

FORMATS = ".h5 (with layer names), .npz or .pth (PyTorch before 1.6)"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's first format
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip file can name
_STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}


def read(path: Path) -> dict[str, list[np.ndarray]]:
    """Read a file of weights: layer -> arrays in the order of `layer.get_weights()`.

    A .pth file holds tensors and no layers: each name has a list of one array.

    Raises:
        ValueError: a file of another format, or a damaged one.
    """
    readers = {".h5": _read_hdf5, ".npz": _read_npz, ".pth": _read_torch}
    if path.suffix not in readers:
        raise ValueError(f"{path}: {path.suffix or 'a file without a suffix'} is not supported; use {FORMATS}")
    try:
        return readers[path.suffix](path)
    except Exception as reason:  # a damaged file can fail anywhere in its reader
        raise ValueError(
            f"{path} is damaged or has another format ({reason}); download it again, or use {FORMATS}"
        ) from reason


def write(path: Path, layers: dict[str, list[np.ndarray]]) -> Path:
    """Write weights as .npz, one array "layer/index" each; the same weights always give the same bytes."""
    arrays = {f"{layer}/{index}": array for layer in sorted(layers) for index, array in enumerate(layers[layer])}
    with replacing(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _EARLIEST)  # np.savez writes other bytes on other systems
            entry.create_system = 3
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(entry, content.getvalue())
    return path


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Compute the check sum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def from_lite0(tensors: dict[str, list[np.ndarray]], blocks: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Name the tensors of EfficientNet-Lite0's .pth as the kit's layers, and turn their axes to Keras' order.

    Args:
        tensors: as `read` gives them.
        blocks: the names of its blocks, in order.
    """
    names = {
        "_conv_stem": "stem_conv",
        "_bn0": "stem_bn",
        "_conv_head": "top_conv",
        "_bn1": "top_bn",
        "_fc": "predictions",
    }
    for index, block in enumerate(blocks):
        for theirs, bn, conv, ours in (
            ("expand", "_bn0", "expand_conv", "expand_bn"),
            ("depthwise", "_bn1", "dwconv", "bn"),
            ("project", "_bn2", "project_conv", "project_bn"),
        ):
            names[f"_blocks.{index}._{theirs}_conv"] = f"{block}_{conv}"
            names[f"_blocks.{index}.{bn}"] = f"{block}_{ours}"
    layers: dict[str, list] = {}
    for part in ("weight", "bias", "running_mean", "running_var"):
        for name, (array,) in tensors.items():
            if name.endswith(f".{part}"):
                theirs = name.removesuffix(f".{part}")
                if array.ndim == 4:
                    array = array.transpose((2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0))
                layers.setdefault(names.get(theirs, theirs), []).append(array.T if array.ndim == 2 else array)
    return layers


def _read_npz(path):
    layers = {}
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        for name in sorted(file.files, key=lambda name: (name.rpartition("/")[0], int(name.rpartition("/")[2]))):
            layers.setdefault(name.rpartition("/")[0], []).append(file[name])
    return layers


def _read_hdf5(path):
    import h5py

    def text(names):
        return [name.decode() if isinstance(name, bytes) else name for name in names]

    with h5py.File(path, "r", locking=False) as file:
        root = file if "layer_names" in file.attrs else file["model_weights"]
        groups = {name: root[name] for name in text(root.attrs["layer_names"])}
        layers = {name: [group[key][()] for key in text(group.attrs["weight_names"])] for name, group in groups.items()}
    return {name: arrays for name, arrays in layers.items() if arrays}


class _Unpickler(pickle.Unpickler):
    """Reads a state dict of tensors; every other class or function in the file is an error."""

    def __init__(self, file: IO[bytes], storages: dict):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed in a weight file")

    def persistent_load(self, identifier):
        kind, storage, key, _, count, view = identifier
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"{kind} {key!r} is not a plain storage")
        self.storages[key] = np.dtype(_STORAGES[storage]), count
        return key


class _Tensor:
    """A tensor's part of a storage; the storage comes later in the file."""

    def __init__(self, key, offset, shape, strides, *_):
        self.key, self.offset, self.shape = key, offset, shape
        # Axes may be permuted, but the numbers must lie without gaps: no stride is ever followed.
        self.order = sorted(range(len(shape)), key=lambda axis: (shape[axis] == 1, -strides[axis]))
        self.stored = [shape[axis] for axis in self.order]
        dense = [math.prod(self.stored[axis + 1 :]) for axis in range(len(shape))]
        if any(shape[axis] > 1 and strides[axis] != step for axis, step in zip(self.order, dense, strict=True)):
            raise pickle.UnpicklingError(f"a tensor of shape {shape} in storage {key!r} has gaps: strides {strides}")

    def cut(self, storage: np.ndarray) -> np.ndarray:
        """Take the tensor out of its storage."""
        numbers = storage[self.offset : self.offset + math.prod(self.shape)]
        return numbers.reshape(self.stored).transpose(np.argsort(self.order))


def _read_torch(path):
    with open(path, "rb") as file:
        plain = [_Unpickler(file, {}).load() for _ in range(3)]  # magic number, protocol, byte order
        if plain[:2] != [_MAGIC, _PROTOCOL] or not plain[2].get("little_endian"):
            raise ValueError("it is not a little-endian file of PyTorch before 1.6")
        storages = {}
        tensors = _Unpickler(file, storages).load()
        values = {}
        for key in _Unpickler(file, {}).load():
            dtype, count = storages[key]
            stored = int.from_bytes(file.read(8), "little")
            if stored != count:
                raise ValueError(f"storage {key!r} has {stored} numbers, but its tensors need {count}")
            values[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
            if len(values[key]) != count:
                raise ValueError(f"storage {key!r} ends after {len(values[key])} of {count} numbers")
    return {name: [tensor.cut(values[tensor.key])] for name, tensor in tensors.items()}
