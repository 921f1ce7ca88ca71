"""Run notebooks and render them: `python notebooks/execute.py [NAME ...] [--set PARAMETER=VALUE ...]`.

Papermill runs each notebook in its own kernel, with the parameters set, and shows its progress. The cells are those of
the script; the executed notebook and its HTML page are written to pages/. Each parameter has to be assigned in the cell
with the tag "parameters" of one of the notebooks.
"""

import argparse
import ast
import base64
import difflib
import io
import os
import re
import sys
import time
from pathlib import Path

import jinja2
import jupytext
import nbconvert
import nbformat
import papermill
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import generate

FOLDER = Path(__file__).parent
PAGES = FOLDER.parent / "pages"
PATHS = ("DATA", "INDEX", "RUNS", "OUTPUT")  # parameters that name files or folders
PAGE = """{% extends "lab/index.html.j2" %}
{% block data_png scoped %}
{%- set text = cell.metadata.description | escape_html_keep_quotes | replace('"', "&quot;") -%}
{{ super() | replace("<img ", '<img alt="' ~ text ~ '" ', 1) }}
{%- endblock %}"""


def script_of(name: str) -> Path:
    """Find the script of a notebook by its name, with or without a suffix.

    Raises:
        FileNotFoundError: lists the notebooks that there are.
    """
    script = FOLDER / f"{Path(name).stem}.py"
    if script not in generate.SCRIPTS:
        raise FileNotFoundError(
            f"no notebook {name!r}; choose one of {', '.join(path.stem for path in generate.SCRIPTS)}"
        )
    return script


def parameters_of(script: Path) -> dict[str, object]:
    """List the names that the cell with the tag "parameters" assigns, with their defaults; None for no literal."""
    cells = [cell for cell in jupytext.read(script).cells if "parameters" in cell.metadata.get("tags", [])]
    found = {}
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in cells))):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = ast.literal_eval(node.value) if len(targets) == 1 and isinstance(targets[0], ast.Name) else None
            found |= {name.id: value for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def execute(name: str, parameters: dict, pages: Path = PAGES) -> Path:
    """Run one notebook, as its script has it, with the parameters that it knows, and render it.

    Returns:
        The HTML page.
    """
    script, known = script_of(name), parameters_of(script_of(name))
    # papermill would write a tuple down as text
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items() if key in known
    }
    text = generate.generate(script)
    if generate.read(script.with_suffix(".ipynb")) != text:
        print(
            f"{script.stem}.ipynb differs from {script.name}; the script is run. `make notebooks` updates the notebook."
        )
    pages.mkdir(parents=True, exist_ok=True)
    executed = pages / f"{script.stem}.ipynb"
    os.environ.pop("MPLBACKEND", None)  # pictures are shown by the kernel's own
    started = time.perf_counter()
    print(f"{script.stem}: running", flush=True)
    papermill.execute_notebook(
        nbformat.reads(text, as_version=4),
        executed,
        given,
        cwd=FOLDER,
        kernel_name="python3",
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=50"],  # its own remarks on transport and interrupts alarm for nothing
    )
    _render(executed)
    print(f"{script.stem}: {time.perf_counter() - started:.0f} s, {executed.with_suffix('.html')}", flush=True)
    return executed.with_suffix(".html")


def _render(executed: Path) -> None:
    """Write the page of an executed notebook, without progress bars and the chatter of drivers, and its previews."""
    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        for name in [
            tag.removeprefix("preview-") for tag in cell.metadata.get("tags", []) if tag.startswith("preview-")
        ]:
            _preview(cell, executed.parent / "previews" / f"{name}.png")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    _describe(notebook)
    page, _ = _exporter().from_notebook_node(notebook)
    executed.with_suffix(".html").write_text(page, encoding="utf-8")


def _exporter() -> nbconvert.HTMLExporter:
    """Make the exporter of a page; its template adds the description of a cell to the cell's pictures."""
    return nbconvert.HTMLExporter(
        embed_images=True, extra_loaders=[jinja2.DictLoader({"page.html.j2": PAGE})], template_file="page.html.j2"
    )


def _describe(notebook) -> None:
    """Name the page after the first heading, and describe each cell by the heading and the question above it."""
    heading, question = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines = cell.source.splitlines()
            heading = next((line.lstrip("# ") for line in lines if line.startswith("#")), heading)
            text = " ".join(line for line in lines if line and not line.startswith("#"))
            question = next(iter(re.findall(r"[^.?!]+\?", text)), "").strip()
            notebook.metadata.setdefault("title", heading)
        cell.metadata["description"] = f"{heading}: {question}" if question else heading


def _preview(cell, path: Path) -> None:
    """Save the first picture of a cell, small enough to travel with the kit."""
    found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    if found:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(base64.b64decode(found[0]))) as picture:
            small = picture.convert("RGB")
            small.thumbnail((640, 640))
            # Of Pillow's methods, this one keeps rare strong colours: the organs' contours.
            few = small.quantize(160, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(path, optimize=True)


def main() -> None:
    """Run the notebooks that are named, or all of them in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="01_eda, 02_train, ...; all when none is given")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PARAMETER=VALUE", help="a Python literal or text"
    )
    given = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook may print what the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        texts = dict(map(_split, given.set))
        names = [script_of(name).stem for name in given.names] or [script.stem for script in generate.SCRIPTS]
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    defaults = {name: parameters_of(script_of(name)) for name in names}
    known = {key for found in defaults.values() for key in found}
    for key in texts.keys() - known:
        meant = "".join(f"; did you mean {close}?" for close in difflib.get_close_matches(key.upper(), known, 1))
        has = " has" if len(names) == 1 else " have"
        parser.error(f"--set {key}: {' and '.join(names)}{has} no such parameter{meant}")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # a machine without a GPU is no error
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # a bar cannot move in a log: a line now and then
    for name, found in defaults.items():
        execute(name, {key: _value(key, text, found[key]) for key, text in texts.items() if key in found})


def _split(text: str) -> tuple[str, str]:
    """Split PARAMETER=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {text}: expected PARAMETER=VALUE, such as --set EPOCHS=3")
    return key.strip(), value.strip()


def _value(key: str, text: str, default: object) -> object:
    """Read a value: a Python literal, or the text itself where it is none or where the default is text.

    A relative path is relative to the folder that this command was started in.
    """
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    if isinstance(default, str) and not isinstance(value, str):
        value = text
    return os.path.abspath(os.path.expanduser(value)) if key in PATHS and value else value


if __name__ == "__main__":
    main()
