"""The house's walls: who may import whom, and what importing the package costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[1] / "kitlib"
MODULES = sorted(path.stem for path in KIT.glob("*.py") if path.stem != "__init__")

FLOORS = {
    "facts": "contest rle phantom anatomy annotation cohort contrast geometry".split(),
    "tables": (
        "areas baselines bootstrap borders census conventions guesses habits hausdorff heldout inputs intensities "
        "likeness locks metric postprocess published rescoring runs scans scorecard splits standin statistics "
        "submission traits tuning "
        "deadline faults manifest rescue tiling"
    ).split(),
    "tensors": "augment elastic pipeline randomness sampling splines".split(),
    "models": "attention folding losses monitors sides unet".split(),
    "acts": (
        "averages budget checkpoints closing cluster command engine ensemble epochs evidence experiments inference "
        "judging presets records runtime schedules steps trackers training workers"
    ).split(),
}
PURE_KERAS = "attention augment elastic folding losses monitors randomness sampling sides splines unet".split()
MAY_USE_TENSORFLOW = ["pipeline", "runtime", "inference", "engine"]
# The phantom's command measures what it wrote; nothing that writes needs a table.
EXCEPTIONS = {("phantom", "likeness")}


def floor(module: str) -> int:
    """The floor that a module stands on, from 0."""
    if module.startswith("figures"):
        return len(FLOORS)
    return next(number for number, names in enumerate(FLOORS.values()) if module in names)


def imports(module: str) -> list[tuple[str, bool]]:
    """Every import of a module: the name, with kitlib's own as kitlib.name, and whether it runs only when asked."""
    tree = ast.parse((KIT / f"{module}.py").read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.If)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = [f"kitlib.{alias.name}" for alias in node.names] if node.module == "kitlib" else [node.module]
            found += [(name, node in inside) for name in names]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards_or_sideways(module):
    for name, _ in imports(module):
        if name.startswith("kitlib."):
            other = name.split(".")[1]
            assert floor(other) <= floor(module) or (module, other) in EXCEPTIONS, f"{module} imports {other} above it"


def test_imports_have_no_circle():
    edges = {
        module: {name.split(".")[1] for name, inside in imports(module) if name.startswith("kitlib.") and not inside}
        for module in MODULES
    }
    done = set()
    while len(done) < len(edges):
        free = {module for module, below in edges.items() if module not in done and below <= done}
        assert free, f"a circle among {sorted(set(edges) - done)}"
        done |= free


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_stay_on_their_side(module):
    tops = {(name.split(".")[0], inside) for name, inside in imports(module)}
    names = {name for name, _ in tops}
    if floor(module) < 2:
        assert not names & {"keras", "tensorflow", "jax", "torch"}
    if "tensorflow" in names:
        assert module in MAY_USE_TENSORFLOW
        assert ("tensorflow", False) not in tops, f"{module} imports tensorflow outside a function"
    if module in PURE_KERAS:
        assert not names & {"tensorflow", "jax", "torch", "pandas", "scipy", "sklearn", "cv2"}
    if names & {"matplotlib", "PIL"}:
        assert module.startswith("figures")


def test_only_notebooks_import_figures():
    for module in MODULES:
        if not module.startswith("figures"):
            assert not [name for name, _ in imports(module) if name.startswith("kitlib.figures")]


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module):
    assert len((KIT / f"{module}.py").read_text().splitlines()) <= 320


def test_the_package_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import kitlib; seconds = time.perf_counter() - start;"
        "print(seconds, sorted({'tensorflow', 'keras', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    seconds, loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.1


def test_tables_need_no_tensorflow():
    names = ", ".join(FLOORS["facts"] + [name for name in FLOORS["tables"] if (KIT / f"{name}.py").exists()])
    code = f"import sys; from kitlib import {names}; print(sorted({{'tensorflow', 'keras'}} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
