"""What the tests share: a small synthetic competition, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Path:
    """Five cases of odd sizes, ten slices a scan; one scan lacks a slice, one has no mask at all."""
    import phantom

    root = tmp_path_factory.mktemp("data") / "phantom"
    sizes = [(310, 360), (61, 47), (266, 266)]
    return phantom.write(root, cases=5, slices=10, sizes=sizes, missing_slice=True, empty_scan=True)


@pytest.fixture(scope="session")
def slices(competition):
    """The table of the competition's training slices."""
    from kitlib.data import scans

    return scans.read(competition)


@pytest.fixture(scope="session")
def brief():
    """A recipe of one epoch of a small network."""
    from kitlib import training
    from kitlib.layers import augment

    return training.Recipe(
        network_options={"levels": 2, "base": 4, "window_stages": (0,)},
        augment=augment.Augment(field=None),
        epochs=1,
        batch_size=4,
        learning_rate=1e-2,
        leave_out=(),
    )


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data that KITLIB_REAL_DATA names."""
    folder = os.environ.get("KITLIB_REAL_DATA")
    if not folder:
        pytest.skip("KITLIB_REAL_DATA is not set: no real data to test with")
    return Path(folder)
