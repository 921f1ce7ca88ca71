"""Weight files: a round trip, and files that are damaged or that want something executed."""

import os
import pickle

import numpy as np
import pytest

from kitlib.models import weights

LAYERS = {"b": [np.arange(6.0).reshape(2, 3), np.ones(3)], "a_1": [np.zeros((1, 2), "float32")] * 12}
START = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]


def test_an_npz_comes_back_and_has_the_same_bytes_each_time(tmp_path):
    path = weights.write(tmp_path / "deep/weights.npz", LAYERS)
    found = weights.read(path)
    assert {name: len(arrays) for name, arrays in found.items()} == {"a_1": 12, "b": 2}
    for name, arrays in LAYERS.items():
        for a, b in zip(arrays, found[name], strict=True):
            np.testing.assert_array_equal(a, b)
    again = weights.write(tmp_path / "again.npz", dict(reversed(LAYERS.items())))
    assert weights.digest(again) == weights.digest(path)
    assert [p.name for p in path.parent.iterdir()] == ["weights.npz"]


class Evil:
    """What a hostile file would hold."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", [0, 2, 3])
def test_nothing_in_a_file_is_executed(place, tmp_path):
    parts = [*START, {}]
    parts[place] = Evil(tmp_path / "executed")
    path = tmp_path / "evil.pth"
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(ValueError, match=r"evil\.pth is damaged.*it refers to (posix|nt)\.mkdir"):
        weights.read(path)
    assert not (tmp_path / "executed").exists()


class Stub:
    """A tensor as PyTorch pickles it: a storage by its persistent name, offset, shape and strides."""

    def __init__(self, key, offset, shape, strides):
        self.arguments = key, offset, shape, strides


def legacy(path, tensors, storages):
    """Write the format of PyTorch before 1.6 without PyTorch."""
    import sys
    import types

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise NotImplementedError

    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    class Name(str):
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Name):
                return ("storage", torch.FloatStorage, str(thing), "cpu", len(storages[thing]), None)
            return None

        def reducer_override(self, thing):
            if isinstance(thing, Stub):
                key, *rest = thing.arguments
                return utils._rebuild_tensor_v2, (Name(key), *rest, False, {})
            return NotImplemented

    with pytest.MonkeyPatch.context() as patch, open(path, "wb") as file:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        for part in START:
            pickle.dump(part, file, protocol=2)
        Pickler(file, protocol=2).dump(tensors)
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(len(values).to_bytes(8, "little") + np.asarray(values, "<f4").tobytes())
    return path


def test_tensors_of_pytorchs_first_format_are_read_with_permuted_axes(tmp_path):
    values = np.arange(30, dtype="float32")
    tensors = {
        "plain": Stub("0", 2, (3, 2), (2, 1)),
        "turned": Stub("0", 6, (4, 3, 2), (1, 8, 4)),
        "one": Stub("1", 0, (), ()),
    }
    found = weights.read(legacy(tmp_path / "x.pth", tensors, {"0": values, "1": [7.0]}))
    np.testing.assert_array_equal(found["plain"][0], values[2:8].reshape(3, 2))
    np.testing.assert_array_equal(found["turned"][0], values[6:30].reshape(3, 2, 4).transpose(2, 0, 1))
    assert found["one"][0] == 7


@pytest.mark.parametrize(
    ("tensor", "cut", "message"),
    [
        (Stub("0", 0, (3, 2), (4, 1)), 0, "has gaps"),
        (Stub("0", 0, (3, 2), (0, 0)), 0, "has gaps"),
        (Stub("0", 28, (3, 2), (2, 1)), 0, "cannot reshape"),
        (Stub("0", 0, (3, 2), (2, 1)), 60, "ends after 15 of 30 numbers"),
    ],
)
def test_tensors_that_reach_outside_and_cut_files_are_refused(tensor, cut, message, tmp_path):
    path = legacy(tmp_path / "x.pth", {"w": tensor}, {"0": np.arange(30, dtype="float32")})
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    with pytest.raises(ValueError, match=message):
        weights.read(path)


@pytest.mark.parametrize("name", ["weights.bin", "weights.h5", "weights.npz", "weights.pth"])
def test_files_of_another_format_are_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 nothing that can be read")
    with pytest.raises(ValueError, match=r"weights\.\w+.*use \.h5 \(with layer names\), \.npz or \.pth"):
        weights.read(path)


def test_tensors_of_lite0_get_the_names_and_axes_of_layers():
    shapes = {
        "_conv_stem.weight": (2, 3, 5, 7),
        "_bn0.running_var": (2,),
        "_bn0.weight": (3,),
        "_blocks.1._depthwise_conv.weight": (2, 3, 5, 7),
        "_blocks.1._bn2.bias": (5,),
        "_fc.weight": (2, 3),
    }
    tensors = {name: [np.zeros(shape)] for name, shape in shapes.items()}
    found = weights.from_lite0(tensors, ["a", "b"])
    assert {name: [array.shape for array in arrays] for name, arrays in found.items()} == {
        "stem_conv": [(5, 7, 3, 2)],
        "stem_bn": [(3,), (2,)],
        "b_dwconv": [(5, 7, 2, 3)],
        "b_project_bn": [(5,)],
        "predictions": [(3, 2)],
    }


def test_an_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", **{"a/0": np.array([Evil(tmp_path / "executed")], dtype=object)})
    with pytest.raises(ValueError, match=r"objects\.npz is damaged"):
        weights.read(tmp_path / "objects.npz")
    assert not (tmp_path / "executed").exists()
