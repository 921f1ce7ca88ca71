"""A scan that several tests of the phantom look at."""

import pytest

from phantom import anatomy, cohort, files, geometry


@pytest.fixture(scope="session")
def scan():
    """One scan at a third of the real resolution: slices and masks."""
    plan = cohort.plan(2, seed=5, days=1, slices=48, sizes=[(89, 97)])
    return files.render(plan[0])


@pytest.fixture(scope="session")
def outlines():
    """Draw the masks of a scan without its images, which take most of the time."""

    def draw(scan):
        raster, stop = files.raster_of(scan)
        abdomen = anatomy.move(anatomy.case(scan.rng(), *scan.spread[:2]), scan.rng(scan.number, 2))
        return files.annotate(scan, geometry.organs(abdomen, raster)[0], stop)

    return draw
