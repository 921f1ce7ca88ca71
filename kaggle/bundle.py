"""Build what goes to Kaggle: `python kaggle/bundle.py [RUN ...] --user NAME`, or `make bundle`.

    kaggle/bundle/dataset/   a private data set: the kit as a wheel, the chosen runs, an encoder's weights if you name
                             one, dataset-metadata.json
    kaggle/bundle/kernels/   a folder per notebook: the ipynb and its kernel-metadata.json

The wheel is all: Kaggle's image has every package that the kit imports (tests/test_bundle.py compares the two). It
lacks elasticdeform, which only comparisons in tests and benchmarks use.
"""

import argparse
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kitlib import contest, files, runs
from kitlib.runs import manifest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))
import generate  # noqa: E402

# oof/ stays: it is large, and unused
TAKEN = ("run.json", "model.keras", "settings.json", "weight.json", "score.json", "history.csv")
SLUG = "uwm-kit-bundle"
T4_X2 = "NvidiaTeslaT4"  # two T4: one alone is not offered, and NvidiaTeslaT4Highmem is for Kaggle's own people
NEEDS_GPU = ("02_train", "03_inference", "05_experiments")
TRAINS = ("02_train", "05_experiments")
LITTER = (".DS_Store", "._*", "Thumbs.db", "desktop.ini")  # what a file manager leaves, and nobody misses
COMPETITION = "competition"  # the kind of data that the bundle is for, as `scans.describe` names it


def check_user(user: str) -> str:
    """Return the name of a Kaggle account, or say what is wrong with it."""
    if user == "USERNAME" or not re.fullmatch(r"[A-Za-z0-9-]+", user):
        text = "is the placeholder" if user == "USERNAME" else "must have letters, digits and hyphens only"
        raise argparse.ArgumentTypeError(
            f"{user!r} {text}; give the name in your profile's address, kaggle.com/NAME (make bundle KAGGLE_USER=NAME)"
        )
    return user


def check_slug(slug: str) -> str:
    """Return the name of a data set, or say what is wrong with it."""
    if not re.fullmatch(r"[A-Za-z0-9-]{6,50}", slug):
        raise argparse.ArgumentTypeError(f"{slug!r} must have 6 to 50 letters, digits and hyphens, such as {SLUG}")
    return slug


def check_notebook(name: str) -> str:
    """Return a notebook as NAME/SLUG, or say what is wrong with it."""
    if Path(name).exists():
        raise argparse.ArgumentTypeError(f"{name!r} is a folder here, not a notebook; name runs before --go-on-with")
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9-]{5,50}", name) or name.startswith("USERNAME/"):
        raise argparse.ArgumentTypeError(
            f"{name!r} must be NAME/SLUG, the end of the notebook's address kaggle.com/code/NAME/SLUG"
        )
    return name


def build(
    chosen: Sequence[Path],
    user: str,
    target: Path,
    slug: str = SLUG,
    outputs: Sequence[str] = (),
    any_data: bool = False,
    encoder: str = "",
) -> Path:
    """Write the bundle beside its target, and replace the target when it is whole.

    Args:
        chosen: run folders, or folders of a cross-validation with its folds; both folders of a gate and its segmenter.
        user: name of the Kaggle account.
        target: the folder to write or replace; an older bundle, or nothing.
        slug: name of the data set.
        outputs: notebooks, as NAME/SLUG, whose last output is attached to those that train, which resume its runs.
        any_data: take runs that were trained on other data than the competition's.
        encoder: one of `models.encoders.NAMES`, whose pretrained weights are taken along for trainings on Kaggle, with
            their sum in the manifest. Empty is none.

    Raises:
        FileNotFoundError: names a folder that holds no finished run, or where the encoder's weights were looked for.
        ValueError: names two folders of one name, a run that was trained on other data, or a target that is not a
            bundle or holds other files.
    """
    chosen, target = [folder.resolve() for folder in chosen], target.resolve()
    for first, other in itertools.combinations(chosen, 2):
        if first == other:
            raise ValueError(f"{first} is named twice; name it once")
        if first.name == other.name:
            raise ValueError(f"{first} and {other} are both called {other.name}; rename one of the folders")
    for folder in chosen:
        if target in (folder, *folder.parents):
            raise ValueError(f"{folder} is inside {target}, which would be replaced; move the run to runs/ first")
    own = own_files(target)
    if own:
        raise ValueError(
            f"{target} would be replaced, but {own[0]} is not part of a bundle; move it, or choose another --out"
        )
    taken = {folder: _runs_of(folder, any_data) for folder in chosen}
    with files.replacing(target, None) as draft:
        dataset = draft / "dataset"
        dataset.mkdir(parents=True)
        for folder, found in taken.items():
            _take(folder, found, dataset / "runs")
        if encoder:
            _take_encoder(encoder, dataset / "runs/encoders")
        manifest.write(dataset / "runs")
        _wheel(dataset)
        _write_json(
            dataset / "dataset-metadata.json",
            {"title": slug, "id": f"{user}/{slug}", "licenses": [{"name": "other"}], "isPrivate": True},
        )
        for script in generate.SCRIPTS:
            folder = draft / "kernels" / script.stem
            folder.mkdir(parents=True)
            (folder / f"{script.stem}.ipynb").write_text(generate.generate(script), encoding="utf-8", newline="\n")
            _write_json(folder / "kernel-metadata.json", kernel(script.stem, user, slug, outputs))
    return target


def own_files(target: Path) -> list[Path]:
    """List the files in a target that no bundle has written; the target itself where it is a file."""
    if target.is_file():
        return [target]
    patterns = ["dataset/dataset-metadata.json", "dataset/kitlib-*.whl", "dataset/runs/manifest.json"]
    patterns += ["kernels/*/*.ipynb", "kernels/*/kernel-metadata.json"]
    written = {path for pattern in patterns for path in target.glob(pattern)}
    written |= set(manifest.files(target / "dataset/runs"))
    there = sorted(path for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path for path in there if path not in written and not any(map(path.match, LITTER))]


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
    """Build the kit's wheel from a clean copy, without phantom and without the files of an earlier build."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, copy)
        shutil.copytree(ROOT / "kitlib", copy / "kitlib", ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), str(copy)]
        subprocess.run(command, check=True)


def _runs_of(folder: Path, any_data: bool) -> list[runs.Run]:
    """List the runs to take from a folder: a run, or the folds of a cross-validation."""
    found = runs.find(folder)
    if not found:
        raise FileNotFoundError(f"{folder} has no finished run (run.json and model.keras); name another folder")
    for run in found:
        if run.foreign(COMPETITION) and not any_data:
            way_out = "name another run, or add --any-data (with make ANY_DATA=1)"
            raise ValueError(f"{run.folder} was trained on {run.kind} data; {way_out}")
        _ = run.settings  # an error here names the file; on Kaggle, the defaults would take its place
    trained = [run for run in found if run.trained]
    for run in found if trained else ():
        if run not in trained:
            print(f"left out: {run.folder} stopped within its first epoch; resume it, then bundle again")
    return trained or found


def _take(folder: Path, found: Sequence[runs.Run], target: Path) -> None:
    """Copy a run, or a cross-validation with its folds, or a folder that holds several."""
    wanted = [run.folder / name for run in found for name in TAKEN]
    above = {place for run in found for place in (folder, run.folder.parent) if place.is_relative_to(folder)}
    wanted += [place / name for place in above for name in ("folds.csv", "settings.json", "weight.json")]
    for path in filter(Path.is_file, wanted):
        place = target / folder.name / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)


def _take_encoder(name: str, target: Path) -> None:
    """Write an encoder's pretrained weights, which may be downloaded for it."""
    from kitlib.models import encoders, weights  # Keras takes seconds to import

    weights.write(target / f"{name}.npz", encoders.arrays(name, encoders.find(name)))


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def newest(root: Path, any_data: bool = False) -> list[Path]:
    """Find the newest run, and of a gate or a segmenter the run of the other role with the same folds.

    Of a cross-validation it is the whole folder, which holds the settings tuned on all folds.
    """
    choice = runs.choose(root, kind=runs.UNKNOWN if any_data else COMPETITION)
    for path, problem in choice.problems:
        raise ValueError(f"{path} {problem}")
    if not choice.folders:
        raise FileNotFoundError(f"{root} has no finished run; run 02_train first, or name the run folders")
    found = (path.parent if (path.parent / "folds.csv").is_file() else path for path in choice.folders)
    return list(dict.fromkeys(found))


def main() -> None:
    """Bundle the runs that are named, or the newest with its folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders or cross-validation folders (default: the newest)"
    )
    parser.add_argument("--user", required=True, type=check_user, help="name of the Kaggle account")
    parser.add_argument("--slug", default=SLUG, type=check_slug, help="name of the Kaggle data set")
    parser.add_argument(
        "--go-on-with",
        nargs="+",
        default=[],
        type=check_notebook,
        metavar="NAME/SLUG",
        help="notebooks whose last output has stopped runs to resume",
    )
    parser.add_argument(
        "--encoder",
        default="",
        metavar="NAME",
        help="also take this encoder's pretrained weights, to train on Kaggle; no run is taken unless it is named",
    )
    parser.add_argument("--any-data", action="store_true", help="also accept runs trained on a phantom")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "kaggle/bundle", help="folder to write or replace (default: kaggle/bundle)"
    )
    given = parser.parse_args()
    try:
        # the first training on Kaggle needs an encoder's weights and no run
        chosen = given.runs if given.runs or given.encoder else newest(ROOT / "runs", given.any_data)
        options = {"any_data": given.any_data, "encoder": given.encoder}
        target = build(chosen, given.user, given.out, given.slug, given.go_on_with, **options)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for path in sorted(target.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 2**20:9.2f} MiB  {path.relative_to(target)}")


if __name__ == "__main__":
    main()
