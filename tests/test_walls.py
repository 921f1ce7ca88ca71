"""The walls between the rooms of kitlib: who may import whom, read from every import, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCORING = "contest rle files submission data".split()
INFERENCE = [*SCORING, "layers", "models", "scoring", "session", "postprocess", "runs"]
TRAINING = [*(room for room in INFERENCE if room != "session"), "inference"]
HEAVY = {"tensorflow", "jax", "torch"}
TABLES = {"keras", *HEAVY, "matplotlib", "PIL"}
TENSORS = {*HEAVY, "pandas", "cv2", "scipy", "sklearn", "matplotlib", "PIL"}

# room -> what it may import of kitlib, what it must not import at all, what it may import inside functions only
WALLS = {
    "contest": ((), TABLES | {"pandas"}, set()),
    "rle": ((), TABLES | {"pandas"}, set()),
    "files": ((), TABLES, set()),
    "submission": (("contest", "rle", "files"), TABLES, set()),
    "layers": (("contest",), TENSORS, set()),
    "models": (("contest", "files", "layers"), TENSORS, set()),
    "data": (("contest", "rle", "files"), TABLES - {"tensorflow", "PIL"}, {"tensorflow"}),
    "session": (("contest", "files", "data"), TABLES, set()),
    "scoring": (SCORING, TABLES, set()),
    "eda": ([*SCORING, "scoring"], TABLES, set()),
    "postprocess": ([*SCORING, "scoring"], TABLES, set()),
    "runs": ([*SCORING, "scoring", "postprocess"], TABLES, set()),
    "inference": (INFERENCE, {"jax", "torch", "matplotlib", "PIL"}, {"tensorflow"}),
    "figures": ([*(room for room in INFERENCE if room != "session"), "eda"], {"jax", "torch"}, {"tensorflow"}),
    "training": (TRAINING, {"matplotlib", "PIL"}, HEAVY),
    "paper": ([*TRAINING, "training", "eda", "session"], HEAVY | {"matplotlib", "PIL"}, set()),
}
LIGHT = "contest rle files submission session data scoring eda postprocess runs".split()  # rooms that load no Keras


def files(room: str) -> list[Path]:
    """The files of a room, or the one file of a room that is a module."""
    place = ROOT / "kitlib" / room
    return sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every import of a file by its full name, and whether it runs only inside a function or behind an `if`."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    inside = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.Try)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found += [(f"{node.module}.{alias.name}", node in inside) for alias in node.names]
    return found


def breaches(room: str, path: Path) -> list[str]:
    """What a file of a room imports through a wall."""
    allowed, never, functions = WALLS[room]
    found = []
    for name, inside in imports(path):
        top, *rest = name.split(".")
        if top == "kitlib" and rest and rest[0] not in (room, *allowed):
            found.append(f"{path.name} imports {name}, which is not open to {room}")
        if top == "phantom" or top in never or (top in functions and not inside):
            found.append(f"{path.name} imports {name}{'' if top in never else ' outside a function'}")
    return found


def test_every_room_has_its_walls():
    rooms = {path.stem for path in (ROOT / "kitlib").iterdir() if path.name != "__pycache__"} - {"__init__"}
    assert rooms == set(WALLS)


@pytest.mark.parametrize("room", WALLS)
def test_rooms_import_only_what_is_open_to_them(room):
    assert not [breach for path in files(room) for breach in breaches(room, path)]


def test_a_planted_import_inside_a_function_is_found(tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text(
        "def f():\n    if True:\n        from kitlib import training\n    import torch\n", encoding="utf-8"
    )
    assert len(breaches("layers", planted)) == 2
    assert len(breaches("scoring", planted)) == 2
    assert len(breaches("paper", planted)) == 1


def test_rooms_have_no_circle():
    edges = {room: set(allowed) for room, (allowed, _, _) in WALLS.items()}
    check_no_circle(edges)


def check_no_circle(edges: dict[str, set[str]]) -> None:
    """Fail when some nodes import each other in a circle."""
    done = set()
    while len(done) < len(edges):
        free = {name for name, below in edges.items() if name not in done and below - {name} <= done}
        assert free, f"a circle among {sorted(set(edges) - done)}"
        done |= free


@pytest.mark.parametrize("package", ["kitlib", "phantom"])
def test_files_have_no_circle(package):
    """Imports inside functions count too."""
    names = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    edges = {}
    for name, path in names.items():
        below = set()
        for full, _ in imports(path):
            target = full if full in names else full.rpartition(".")[0]
            if target in names and target != name and not name.startswith(f"{target}."):
                below.add(target)
        edges[name] = below
    check_no_circle(edges)


@pytest.mark.parametrize("room", [room for room in WALLS if (ROOT / "kitlib" / room).is_dir()])
def test_no_module_has_the_name_of_a_public_function_of_its_room(room):
    functions = {
        node.name
        for path in files(room)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert not functions & {path.stem for path in files(room)}


def loaded(code: str) -> str:
    """Run code in a fresh process and give what it prints."""
    return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip()


def test_the_package_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import kitlib; seconds = time.perf_counter() - start;"
        "print(seconds, sorted({'tensorflow', 'keras', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    seconds, names = loaded(code).split(maxsplit=1)
    assert names == "[]"
    assert float(seconds) < 0.1


def test_light_rooms_load_no_keras():
    names = []
    for room in LIGHT:
        names += [
            f"kitlib.{room}" if path.stem in (room, "__init__") else f"kitlib.{room}.{path.stem}"
            for path in files(room)
        ]
    names += ["phantom", "phantom.__main__", "phantom.likeness.report", "phantom.standin"]
    code = f"import sys, {', '.join(names)}; print(sorted({{'tensorflow', 'keras'}} & set(sys.modules)))"
    assert loaded(code) == "[]"
