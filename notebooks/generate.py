"""Generate each notebook from its percent script: `python notebooks/generate.py [--check]`.

The script is what people edit; the ipynb beside it has the same cells, no outputs, and cell numbers for ids, so that a
notebook changes only where its script does. `--check` writes nothing and fails where a pair differs.
"""

import argparse
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def generate(script: Path) -> str:
    """Make the text of the notebook that belongs to a script."""
    notebook = jupytext.read(script)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
    return nbformat.writes(notebook, version=4) + "\n"


def main() -> int:
    """Write or check every pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a pair differs")
    check = parser.parse_args().check
    stale = [script for script in SCRIPTS if read(script.with_suffix(".ipynb")) != generate(script)]
    for script in stale:
        if check:
            print(f"{script.with_suffix('.ipynb')} differs from {script.name}; run `make notebooks`")
        else:
            script.with_suffix(".ipynb").write_text(generate(script), encoding="utf-8", newline="\n")
            print(f"wrote {script.with_suffix('.ipynb')}")
    return 1 if stale and check else 0


def read(path: Path) -> str:
    """Read a notebook as it is saved; empty where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    raise SystemExit(main())
