"""What make would run: paths with blanks, and environments of the right Python. Nothing is run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("-m phantom", "notebooks/execute.py", "-m kitlib")
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


def lines(folder, *arguments):
    """The lines that make would run in a folder."""
    outer = ("DATA", "PYTHON", "PYTHON312", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # these tests may run below `make test`
    given = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "-n", *arguments]
    return subprocess.run(
        command, cwd=folder, env=given, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.fixture
def checkout(tmp_path):
    """A folder with blanks in its path that holds what make looks at."""
    folder = tmp_path / "My Drive" / "a kit"
    folder.mkdir(parents=True)
    (folder / "benchmarks").mkdir()
    needed = ("Makefile", "requirements.txt", "constraints-kaggle.txt", "pyproject.toml", "benchmarks/requirements.txt")
    for name in needed:
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("data", ["data/phantom", "{}/my data/a  b", "~/my data", "other"])
def test_a_path_with_blanks_is_one_argument(checkout, data):
    given = data.format(checkout.parent)
    found = [line for line in lines(checkout, "demo", f"DATA={given}") if any(word in line for word in COMMANDS)]
    assert len(found) == 5
    place = os.path.expanduser(given)
    for line in found:
        assert f'"{place}"' in line or f'"{place}/truth.csv"' in line or f'"DATA={place}"' in line


def test_data_that_are_there_are_not_written_again(checkout):
    (checkout / "my data").mkdir()
    (checkout / "my data/train.csv").touch()
    assert not [line for line in lines(checkout, "demo", "DATA=my data") if "-m phantom" in line]
    assert [line for line in lines(checkout, "demo", "DATA=my other data") if '-m phantom "my other data"' in line]


def test_pages_are_of_the_data_that_are_named_or_else_found(checkout):
    assert lines(checkout, "pages", "DATA=my data")[-1].endswith('execute.py --set "DATA=my data"')
    assert lines(checkout, "pages")[-1].rstrip().endswith("notebooks/execute.py")


@pytest.mark.parametrize(
    ("target", "folder", "name"),
    [
        ("test", ".venv", "PYTHON"),
        ("check", ".venv-check", "PYTHON"),
        ("kaggle-check", ".venv-kaggle", "PYTHON312"),
        ("bench", ".venv-bench", "PYTHON"),
    ],
)
def test_an_environment_of_another_python_is_replaced(checkout, target, folder, name):
    version = ".".join(map(str, sys.version_info[:2]))
    (checkout / folder).mkdir()
    for other in (".python-3.9", ".stamp"):
        (checkout / folder / other).touch()
    given = f"{name}={sys.executable}"
    (made,) = [line for line in lines(checkout, target, given) if "venv --clear" in line]
    assert made.startswith(f"[ -e {folder}/.python-{version} ] ||")
    (checkout / folder / f".python-{version}").touch()
    assert not [line for line in lines(checkout, target, given) if "venv --clear" in line]
