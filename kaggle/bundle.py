"""Build what goes to Kaggle: `python kaggle/bundle.py [RUN ...] --user NAME`, or `make bundle`.

    kaggle/bundle/dataset/   a private data set: the kit as a wheel, the chosen runs, dataset-metadata.json
    kaggle/bundle/kernels/   a folder per notebook: the ipynb and its kernel-metadata.json

Nothing else has to travel: all that the kit imports is in Kaggle's image (tests/test_bundle.py compares the two);
elasticdeform, which is not, only serves comparisons in tests and benchmarks.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kitlib import contest
from kitlib.inference import networks
from kitlib.runs import manifest

ROOT = Path(__file__).resolve().parents[1]
TAKEN = ("run.json", "model.keras", "settings.json", "score.json", "history.csv")  # oof/ stays: it is large, and unused
SLUG = "uwm-kit-bundle"
T4_X2 = "NvidiaTeslaT4"  # two T4: one alone is not offered, and NvidiaTeslaT4Highmem is for Kaggle's own people
NEEDS_GPU = ("02_train", "03_inference", "05_experiments")
TRAINS = ("02_train", "05_experiments")


def build(chosen: list[Path], user: str, target: Path, slug: str = SLUG, outputs: Sequence[str] = ()) -> Path:
    """Write the bundle anew.

    Args:
        chosen: run folders, or folders of a cross-validation with its folds.
        user: name of the Kaggle account.
        target: the folder to write; what it held is deleted.
        slug: name of the data set.
        outputs: notebooks, as NAME/SLUG, whose last output is attached to those that train, which go on with the runs
            in it.

    Raises:
        FileNotFoundError: names a folder that holds no finished run.
        ValueError: names two folders that would have one place in the bundle.
    """
    chosen = [folder.resolve() for folder in chosen]
    for first, other in itertools.combinations(chosen, 2):
        if first == other:
            raise ValueError(f"{first} is named twice; name it once")
        if first.name == other.name:
            raise ValueError(f"{first} and {other} are both called {other.name}; rename one of the folders")
    shutil.rmtree(target, ignore_errors=True)
    dataset = target / "dataset"
    dataset.mkdir(parents=True)
    _wheel(dataset)
    for folder in chosen:
        _take(folder, dataset / "runs")
    manifest.write(dataset / "runs")
    _write_json(
        dataset / "dataset-metadata.json",
        {"title": slug, "id": f"{user}/{slug}", "licenses": [{"name": "other"}], "isPrivate": True},
    )
    for notebook in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        folder = target / "kernels" / notebook.stem
        folder.mkdir(parents=True)
        shutil.copy2(notebook, folder)
        _write_json(folder / "kernel-metadata.json", kernel(notebook.stem, user, slug, outputs))
    return target


def kernel(name: str, user: str, slug: str = SLUG, outputs: Sequence[str] = ()) -> dict:
    """Describe a notebook as `kaggle kernels push` wants it: no internet, a pinned machine, its sources."""
    title = f"uwm-kit-{name.replace('_', '-')}"
    gpu = name in NEEDS_GPU
    return {
        "id": f"{user}/{title}",
        "title": title,
        "code_file": f"{name}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": gpu,
        "enable_internet": False,
        "machine_shape": T4_X2 if gpu else "",
        "competition_sources": [contest.SLUG],
        "dataset_sources": [f"{user}/{slug}"],
        "kernel_sources": list(outputs) if name in TRAINS else [],
        "model_sources": [],
    }


def _wheel(target: Path) -> None:
    """Build the kit's wheel from a clean copy, in which no earlier build has left anything."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, copy)
        shutil.copytree(ROOT / "kitlib", copy / "kitlib", ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), str(copy)]
        subprocess.run(command, check=True)


def _take(folder: Path, target: Path) -> None:
    """Copy a run, or a cross-validation with all its folds."""
    finished = sorted(path.parent for path in folder.rglob("run.json") if (path.parent / "model.keras").is_file())
    if not finished:
        raise FileNotFoundError(f"{folder} holds no finished run (run.json and model.keras); name another folder")
    for run in networks.trained(finished):
        place = target / folder.name / run.relative_to(folder)
        place.mkdir(parents=True)
        for name in TAKEN:
            if (run / name).is_file():
                shutil.copy2(run / name, place)
    for name in ("folds.csv", "settings.json"):
        if (folder / name).is_file():
            shutil.copy2(folder / name, target / folder.name)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def newest(root: Path) -> list[Path]:
    """Find the newest run; of a cross-validation its whole folder, since settings tuned on all folds stand there."""
    found = networks.choose(root)
    return [found[0].parent] if (found[0].parent / "folds.csv").is_file() else found


def main() -> None:
    """Bundle the runs that are named, or the newest with its folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or cross-validations; the newest without any")
    parser.add_argument("--user", required=True, help="name of the Kaggle account")
    parser.add_argument("--slug", default=SLUG, help="name of the data set")
    parser.add_argument(
        "--go-on-with", nargs="+", default=[], metavar="NAME/SLUG", help="notebooks whose last output has stopped runs"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "kaggle/bundle", help="folder to write anew")
    given = parser.parse_args()
    target = build(given.runs or newest(ROOT / "runs"), given.user, given.out, given.slug, given.go_on_with)
    for path in sorted(target.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 2**20:9.2f} MiB  {path.relative_to(target)}")


if __name__ == "__main__":
    main()
