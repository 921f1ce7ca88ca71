"""The run folder: everything that a training writes and that inference reads.

    run.json      Recipe, InputSpec, data, versions, fold table, wall time, state
    history.csv   one line per epoch
    model.keras   the network with its best weights
    oof/          out-of-fold probabilities, one file per scan, uint8 at the size of the InputSpec
    presence/     out-of-fold presence of a gate, one file per scan, float32
    score.json    the score on the validation scans
    settings.json post-processing, once it has been tuned
    weight.json   the network's weight in a mean with others, once it has been chosen
    checkpoint/   the state to resume from, until the training is finished

Files are written under another name and renamed when they are whole. Folders of older versions are read too.
"""

import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib import contest, files
from kitlib.data import scans
from kitlib.data.inputs import InputSpec
from kitlib.files import Problem, replacing
from kitlib.postprocess.cleaning import DEFAULT, Settings

WEIGHT = "weight.json"
UNKNOWN = "unknown"  # the kind of data in a record that does not say it
ROLES = ("both", "gate", "segmenter")
_CLOSING_BYTES = 10**8  # model, checkpoints with the optimizer's state, tables
_PACKAGES = ("kitlib", "keras", "tensorflow", "numpy", "pandas", "opencv-python-headless", "opencv-python")


@dataclass(frozen=True)
class Run:
    """A run folder; `record` is its run.json."""

    folder: Path
    record: dict

    @property
    def spec(self) -> InputSpec:
        """The specification of the network's input.

        Raises:
            ValueError: names the run.json that has none.
        """
        if "input_spec" not in self.record:
            raise Problem(
                str(self.folder / "run.json"), "has no input_spec; copy the run folder again, or train it again"
            )
        return InputSpec.from_json(json.dumps(self.record["input_spec"]))

    @property
    def model_path(self) -> Path:
        """The network's file."""
        return self.folder / "model.keras"

    @property
    def state(self) -> str:
        """Return "running" (or killed), "stopped" by its time limit, so that it can resume, or "finished"."""
        return self.record.get("state", "finished")

    @property
    def parameters(self) -> dict:
        """The recipe as flat values by name; objects such as the loss by their class, with their settings apart."""
        if "recipe" not in self.record:
            return self.record.get("parameters", {})
        flat = {}
        for name, value in self.record["recipe"].items():
            if isinstance(value, dict) and "class_name" in value:
                flat |= {name: value["class_name"], f"{name}_settings": value.get("config", {})}
            elif isinstance(value, dict):
                flat |= value
            else:
                flat[name] = value
        return flat

    @property
    def trained(self) -> bool:
        """Whether the run finished an epoch; otherwise its weights are nearly random."""
        if "trained_epochs" in self.record:
            return self.record["trained_epochs"] > 0
        return self.record.get("best_weights") != "unfinished epoch"  # as version 0.1 wrote it

    @property
    def kind(self) -> str:
        """Kind of data that it was trained on, as in `scans.describe`; UNKNOWN if its record lacks it."""
        return self.record.get("data", {}).get("kind") or UNKNOWN

    def foreign(self, kind: str) -> bool:
        """Whether it was trained on another kind of data; False where one of the two is unknown."""
        return UNKNOWN not in (kind, self.kind) and self.kind != kind

    @property
    def role(self) -> str:
        """What its network is for: "gate" finds the slices of an organ, "segmenter" its contours, "both" does both."""
        return self.parameters.get("role", "both")

    @property
    def flipped(self) -> bool:
        """Whether its training mirrored slices."""
        settings = self.parameters.get("augmentation_settings", self.parameters.get("augment_settings"))
        return bool(settings) and settings.get("flip", 0) > 0 and settings.get("strength", 1) > 0

    @property
    def scans(self) -> list[str]:
        """The scans with out-of-fold probabilities, by name."""
        return sorted(path.stem for path in (self.folder / "oof").glob("*.npy") if not files.is_stray(path.name))

    def probabilities(self, scan: str) -> np.ndarray:
        """Read the out-of-fold probabilities of a scan: (D, height, width, organs) float32 at the size of the spec."""
        return np.load(self.folder / "oof" / f"{scan}.npy").astype(np.float32) / 255

    def scored(self, rows: pd.DataFrame) -> np.ndarray:
        """Read the probabilities of a scan as its score took them: a segmenter's only where the truth has the organ.

        Args:
            rows: the slices of one scan, with masks.

        Returns:
            (D, height, width, organs) float32.
        """
        found = self.probabilities(rows["scan"].iloc[0])
        return found * scans.presence(rows)[:, None, None] if self.role == "segmenter" else found

    def presence(self, scan: str) -> np.ndarray | None:
        """Read the out-of-fold presence of each organ on the slices of a scan: (D, organs) float32; None without one.

        A presence is a probability in [0, 1], as `postprocess.intervals.presence` takes it from a gate.
        """
        path = self.folder / "presence" / f"{scan}.npy"
        return np.load(path).astype(np.float32) if path.is_file() else None

    def history(self) -> pd.DataFrame:
        """Read one row per epoch; no rows before the first one is finished."""
        path = self.folder / "history.csv"
        return pd.read_csv(path) if path.is_file() and path.stat().st_size else pd.DataFrame()

    @property
    def settings(self) -> Settings:
        """The tuned post-processing settings, or DEFAULT before any tuning."""
        path = self.folder / "settings.json"
        try:
            return Settings.from_json(path.read_text(encoding="utf-8")) if path.is_file() else DEFAULT
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def weight(self) -> float:
        """The weight of its network in a mean with others, its own or its cross-validation's; 1 before any choice.

        Raises:
            ValueError: names the weight.json that holds no positive number.
        """
        for path in (self.folder / WEIGHT, self.folder.parent / WEIGHT):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                try:
                    weight = float(text)
                except ValueError:
                    weight = math.nan
                if not 0 < weight < math.inf:
                    raise ValueError(f"{path} holds {text[:20]!r}; expected a positive number, or no such file")
                return weight
        return 1.0

    def score(self) -> dict:
        """Read the score on the validation scans; empty before there is one."""
        path = self.folder / "score.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read(folder: str | os.PathLike) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: names the folder that is not a run.
        ValueError: names the run.json that cannot be read.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no run.json; name another, or train first")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(str(path), f"is damaged: {error}; copy the run folder again") from None
    if not isinstance(record, dict) or not isinstance(record.get("data", {}), dict):
        raise Problem(str(path), "is damaged: it is not the record of a run; copy the run folder again")
    return Run(folder, record)


def finished(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a finished run, which is never written to again."""
    return (Path(folder) / "run.json").is_file() and read(folder).state == "finished"


def find(root: str | os.PathLike) -> list[Run]:
    """List the runs below a folder that have a model, the newest last."""
    return sorted((read(path.parent) for path in records(root) if (path.parent / "model.keras").is_file()), key=age)


def records(root: str | os.PathLike) -> Iterator[Path]:
    """Find each run.json in a folder and below it, but not in folders of other programs, such as a bin for waste."""
    for path in sorted(Path(root).rglob("run.json")):
        if path.is_file() and not any(map(files.is_stray, path.relative_to(root).parts)):
            yield path


def age(run: Run) -> tuple[str, str]:
    """Sort key of runs: the time at which they ended, the newest last."""
    return str(run.record.get("ended", "")), str(run.folder)


def compare(root: str | os.PathLike) -> pd.DataFrame:
    """Compare the runs below a folder in one table, a row per run: parameters, best epoch, score and minutes."""
    lines = []
    for run in find(root):
        record, score = run.record, run.score()
        history = run.history()
        line = {"run": run.folder.relative_to(root).as_posix(), "state": run.state}
        line |= {name: value for name, value in run.parameters.items() if not isinstance(value, dict)}
        line |= {name: value for name, value in score.items() if not isinstance(value, dict)}
        line |= {"best epoch": record.get("best_epoch"), "epochs run": len(history)}
        lines.append(line | {"minutes": record["wall_seconds"] / 60})
    return pd.DataFrame(lines).set_index("run") if lines else pd.DataFrame()


def write_history(folder: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Write history.csv: append the missing rows, or replace a file that an interrupted process left incomplete.

    A value that is not measured after every epoch has its own column, empty where it is missing.
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
        with replacing(path) as file:
            file.write(text)


def _cell(value) -> str:
    """Write a value so that it reads back the same; nothing for a missing one."""
    return "" if value is None or value != value else repr(value)


def write_record(folder: str | os.PathLike, record: dict) -> None:
    """Write run.json."""
    with replacing(Path(folder) / "run.json") as file:
        file.write(json.dumps(record, indent=1))


def write_probabilities(folder: str | os.PathLike, scan: str, probabilities: np.ndarray) -> None:
    """Write the out-of-fold probabilities of a scan, (D, height, width, organs), in 256 steps."""
    with replacing(Path(folder) / "oof" / f"{scan}.npy", "wb") as file:
        np.save(file, np.rint(probabilities * 255).astype(np.uint8))


def write_presence(folder: str | os.PathLike, scan: str, presence: np.ndarray) -> None:
    """Write the out-of-fold presence of the organs on the slices of a scan, (D, organs), as float32."""
    with replacing(Path(folder) / "presence" / f"{scan}.npy", "wb") as file:
        np.save(file, np.asarray(presence, np.float32))


def check_disk(folder: str | os.PathLike, slices: int, spec: InputSpec, left: int | None = None) -> str:
    """Compare the disk use of trainings with the space that is left, before they begin.

    Args:
        folder: the run folder, or the folder of a cross-validation.
        slices: validation slices, of all trainings together; each leaves height * width * organs bytes. Trainings side
            by side share packed scans on the disk, which take as much for every slice of the data.
        spec: what the networks see.
        left: bytes that may be written, as `session.disk_left` gives them; None is what is free on the disk.

    Returns:
        A line that names both.

    Raises:
        OSError: when the space does not suffice.

    >>> check_disk("runs/cv", 38496, InputSpec(384, 384), 20 * 10**9)
    'runs/cv will take about 17.1 GB, and 20.0 GB are left'
    """
    if left is None:
        place = Path(folder).resolve()
        left = shutil.disk_usage(next(there for there in (place, *place.parents) if there.is_dir())).free
    needed = slices * spec.height * spec.width * len(contest.ORGANS) + _CLOSING_BYTES
    line = f"{folder} will take about {needed / 1e9:.1f} GB, and {left / 1e9:.1f} GB are left"
    if needed > left:
        raise OSError(f"{line}: remove files, train fewer folds here, or use a smaller size than {spec.height}")
    return line


def surroundings() -> dict:
    """Describe the software and the machine of a run: git hash, versions, cores."""
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
