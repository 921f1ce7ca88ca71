"""A small network on packed scans, trained once for all tests of the room."""

import pytest

from kitlib import training
from kitlib.data import inputs, pipeline
from kitlib.layers import augment

SPEC = inputs.InputSpec(32, 32, depth=3)
SMALL = training.Recipe(
    network_options={"levels": 2, "base": 4, "window_stages": (0,)}, augment=augment.paper(), epochs=2, batch_size=4
)


@pytest.fixture(scope="package")
def spec():
    """32 x 32 pixels, three slices."""
    return SPEC


@pytest.fixture(scope="package")
def small():
    """Two epochs of a small network."""
    return SMALL


@pytest.fixture(scope="package")
def packed(slices):
    """The packed scans."""
    return pipeline.pack(slices, SPEC)


@pytest.fixture(scope="package")
def held_out(slices):
    """The first case."""
    return slices["case"] == slices["case"].iloc[0]


@pytest.fixture(scope="package")
def run(slices, packed, held_out, tmp_path_factory):
    """A finished run of `small`."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    return training.fit_fold(slices, folder, held_out=held_out, spec=SPEC, recipe=SMALL, packed=packed)
