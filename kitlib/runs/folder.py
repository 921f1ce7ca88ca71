"""The run folder: what a training leaves behind, and all that inference reads.

    run.json      parameters, InputSpec, versions, fold table, wall time, state
    history.csv   one line per epoch
    model.keras   the network with its best weights
    oof/          out-of-fold probabilities, one file per scan, uint8 at the size of the InputSpec
    score.json    the score on the scans held out
    settings.json post-processing, once it has been tuned
    checkpoint/   while it is not finished: what the next call needs to go on (`checkpoints`)

Files are written under another name and put in place when they are whole.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.data.inputs import InputSpec
from kitlib.postprocess.cleaning import DEFAULT, Settings

UNFINISHED = "unfinished epoch"  # what a record calls the best weights of a run without a finished epoch
_PACKAGES = ("kitlib", "keras", "tensorflow", "numpy", "pandas", "opencv-python-headless", "opencv-python")


@dataclass(frozen=True)
class Run:
    """A run folder as it was read; `record` is its run.json."""

    folder: Path
    record: dict

    @property
    def spec(self) -> InputSpec:
        """What the network sees."""
        return InputSpec.from_json(json.dumps(self.record["input_spec"]))

    @property
    def model_path(self) -> Path:
        """The network's file."""
        return self.folder / "model.keras"

    @property
    def state(self) -> str:
        """ "running" (or killed), "stopped" by its time limit, which can go on, or "finished"."""
        return self.record.get("state", "finished")

    @property
    def scans(self) -> list[str]:
        """The scans with out-of-fold probabilities, by name."""
        return sorted(path.stem for path in (self.folder / "oof").glob("*.npy"))

    def probabilities(self, scan: str) -> np.ndarray:
        """Read the out-of-fold probabilities of a scan: (D, height, width, organs) float32 on the grid of the spec."""
        return np.load(self.folder / "oof" / f"{scan}.npy").astype(np.float32) / 255

    def history(self) -> pd.DataFrame:
        """Read one row per epoch; no rows before the first one is finished."""
        path = self.folder / "history.csv"
        return pd.read_csv(path) if path.is_file() and path.stat().st_size else pd.DataFrame()

    @property
    def settings(self) -> Settings:
        """How probabilities become masks: as tuned, or by the annotators' habits before that."""
        path = self.folder / "settings.json"
        return Settings.from_json(path.read_text(encoding="utf-8")) if path.is_file() else DEFAULT

    def score(self) -> dict:
        """Read the score on the scans held out; empty before there is one."""
        path = self.folder / "score.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read(folder: str | os.PathLike) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: names the folder that is no run, and what it lacks.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no run.json; train first, or name another folder")
    return Run(folder, json.loads(path.read_text(encoding="utf-8")))


def finished(folder: str | os.PathLike) -> bool:
    """Tell whether a folder holds a run that is done, which nothing writes to any more."""
    return (Path(folder) / "run.json").is_file() and read(folder).state == "finished"


def find(root: str | os.PathLike) -> list[Run]:
    """List the runs that ended with a model below a folder, the newest last."""
    found = [read(path.parent) for path in Path(root).rglob("run.json") if (path.parent / "model.keras").is_file()]
    return sorted(found, key=lambda run: (run.record.get("ended", ""), str(run.folder)))


def compare(root: str | os.PathLike) -> pd.DataFrame:
    """Put the runs below a folder into one table, a row per run: parameters, best epoch, score and minutes."""
    lines = []
    for run in find(root):
        record, score = run.record, run.score()
        history = run.history()
        line = {"run": run.folder.relative_to(root).as_posix(), "state": run.state}
        line |= {name: value for name, value in record["parameters"].items() if not isinstance(value, dict)}
        line |= {name: value for name, value in score.items() if not isinstance(value, dict)}
        line |= {"best epoch": record.get("best_epoch"), "epochs run": len(history)}
        lines.append(line | {"minutes": record["wall_seconds"] / 60})
    return pd.DataFrame(lines).set_index("run") if lines else pd.DataFrame()


def write_history(folder: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Bring history.csv to these rows: add what is missing, or mend what a killed process left, whole or not at all.

    A figure that was not taken after every epoch has a column of its own all the same, empty where it is missing.
    """
    path = Path(folder) / "history.csv"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(_cell(row.get(name)) for name in columns) for row in rows)] if rows else []
    text = "".join(f"{line}\n" for line in lines)
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old and text.startswith(old) and old.endswith("\n"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text[len(old) :])
    else:
        write_text(path, text)


def _cell(value) -> str:
    """Write a figure so that it reads back the same; nothing for what was not taken."""
    return "" if value is None or value != value else repr(value)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def write_record(folder: str | os.PathLike, record: dict) -> None:
    """Write run.json."""
    write_text(Path(folder) / "run.json", json.dumps(record, indent=1))


def write_probabilities(folder: str | os.PathLike, scan: str, probabilities: np.ndarray) -> None:
    """Keep the out-of-fold probabilities of a scan, (D, height, width, organs), in 256 steps."""
    path = Path(folder) / "oof" / f"{scan}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{scan}.{os.getpid()}.part")
    with open(draft, "wb") as file:
        np.save(file, np.rint(probabilities * 255).astype(np.uint8))
    os.replace(draft, path)


def surroundings() -> dict:
    """Describe what a run was made with: git hash, versions, machine."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "git": _revision(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "versions": versions,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _revision(checkout: Path) -> str | None:
    """Ask git for the hash of the kit's own checkout; None where there is no checkout or no git."""
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
