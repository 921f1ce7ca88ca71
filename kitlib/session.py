"""The session of a notebook: Kaggle or elsewhere, session type, time and disk left, and parameters."""

import contextlib
import difflib
import importlib.metadata
import math
import os
import platform
import shutil
import time
from pathlib import Path

from packaging.version import Version

import kitlib
from kitlib import contest, files
from kitlib.data import scans

SESSION_HOURS = 11.0  # of the 12 of a session on Kaggle; the rest is for what a notebook does after its trainings
KAGGLE_DISK = 20 * 10**9  # bytes that a session on Kaggle may keep
KAGGLE_VARIABLES = ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN", "KAGGLE_URL_BASE")


def on_kaggle() -> bool:
    """Whether this runs on Kaggle, by its environment variables; /kaggle/input may exist elsewhere, as on Colab."""
    return any(name in os.environ for name in KAGGLE_VARIABLES)


def mode(root: str | os.PathLike | None = None) -> str:
    """Return the session type: "interactive", "batch" (a version is being saved) or "rerun" (Kaggle scores it).

    Kaggle does not always set its variable for the rerun. The other sign is the hidden test set: in a saved version the
    sample is a header and the test folder is empty, in the rerun they are not. Outside Kaggle it is "interactive".

    Args:
        root: folder of the competition.
    """
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN", "").lower() not in ("", "0", "false"):
        return "rerun"
    if not on_kaggle() or os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive":
        return "interactive"
    return "rerun" if root and _holds_test(Path(root)) else "batch"


def _holds_test(root: Path) -> bool:
    """Tell whether there is anything to predict: a folder in test/, or a line after the header of the sample."""
    try:
        if not all(files.is_stray(path.name) for path in (root / "test").iterdir()):
            return True
    except OSError:
        pass
    try:
        with open(root / "sample_submission.csv", "rb") as file:
            return len(file.readlines(1 << 16)) > 1
    except OSError:
        return False


def parameters(given: dict, **rules) -> list[tuple[str, str]]:
    """Check the parameters of a notebook: kind, choices and spelling.

    A rule is one of
        the default: text in quotes, a whole number, or a number; numbers are not negative, and 0 only where it is the
            default;
        a tuple of the choices, the default first; a range in it stands for its whole numbers, and a tuple of two ranges
            for a pair of them;
        a list of what may be chosen together;
        a function that gives such a rule from parameters that are checked before it.

    In the scoring rerun, where nobody can correct them, wrong parameters get their defaults, and a line says so.

    Args:
        given: the notebook's `globals()`.
        **rules: one for each parameter.

    Returns:
        The names and faults of the parameters that were replaced; empty outside the rerun.

    Raises:
        ValueError: names the parameters, their values and what is expected, outside the rerun.

    >>> parameters({"FLIP": "false"}, FLIP=(True, False))
    Traceback (most recent call last):
    ValueError: parameter FLIP = 'false': expected True or False, without quotes
    """
    wrong = {name: "is missing" for name in rules if name not in given}
    for name in sorted(rules.keys() - wrong.keys(), key=lambda name: callable(rules[name])):
        if callable(rules[name]):
            if wrong:
                continue
            rules[name] = rules[name]()
        expected = _expected(given[name], rules[name])
        if expected:
            wrong[name] = f"= {given[name]!r}: expected {expected}"
    for name in [name for name in given if name.isupper() and name not in rules]:
        for meant in difflib.get_close_matches(name, rules, 1, 0.8):
            wrong[name] = f"is unknown; did you mean {meant}?"
    root = None
    for data in dict.fromkeys(("" if "DATA" in wrong else given.get("DATA", ""), "")):
        with contextlib.suppress(FileNotFoundError):
            root = root or scans.find_root(data or None)
    rerun = mode(root) == "rerun"
    if rerun and "DATA" in rules.keys() - wrong.keys() and given["DATA"] and not Path(given["DATA"]).is_dir():
        wrong["DATA"] = f"= {given['DATA']!r}: no such folder; name the one that holds train.csv"
    if wrong and not rerun:
        raise ValueError("; ".join(f"parameter {name} {fault}" for name, fault in wrong.items()))
    for name in wrong.keys() & rules.keys():
        rule = rules[name]
        given[name] = () if isinstance(rule, list) else rule[0] if isinstance(rule, tuple) else rule
    for name, fault in wrong.items():
        print(f"parameter {name} {fault}; its default is used")
    return [(f"parameter {name}", fault) for name, fault in wrong.items()]


def _expected(value, rule) -> str:
    """Say what a rule expects; nothing where the value is right."""
    if isinstance(rule, list):
        known = isinstance(value, list | tuple) and all(type(item) is str and item in rule for item in value)
        if known and len(set(value)) == len(value):
            return ""
        return f"a list of any of {', '.join(map(repr, rule))}, each once, such as [{rule[0]!r}]"
    if isinstance(rule, tuple):
        if any(_fits(value, choice) for choice in rule):
            return ""
        texts = [
            _text(choice) for choice in rule if not any(isinstance(other, range) and choice in other for other in rule)
        ]
        unquoted = isinstance(value, str) and not any(isinstance(choice, str) for choice in rule)
        return f"{', '.join(texts[:-1])}{' or ' * (len(texts) > 1)}{texts[-1]}{', without quotes' * unquoted}"
    if isinstance(rule, str):
        return "" if isinstance(value, str) else "text in quotes"
    whole = isinstance(rule, int)
    number = type(value) is int or (type(value) is float and not whole and math.isfinite(value))
    if number and (value > 0 or (value == 0 and rule == 0)):
        return ""
    kind = "a whole number" if whole else "a number"
    return f"{kind} {'of 0 or more' if rule == 0 else 'above 0'}{', without quotes' * isinstance(value, str)}"


def _fits(value, choice) -> bool:
    """Compare with a choice, by type as well, as True == 1."""
    if isinstance(choice, range):
        return type(value) is int and value in choice
    if isinstance(choice, tuple):
        return isinstance(value, list | tuple) and len(value) == len(choice) and all(map(_fits, value, choice))
    return type(value) is type(choice) and value == choice


def _text(choice) -> str:
    """Write a choice; a range by its first and last number, and by its second where it has steps."""
    if isinstance(choice, tuple):
        return f"a pair such as {tuple(part[-1] for part in choice)}"
    if not isinstance(choice, range):
        return repr(choice)
    return f"{choice[0]} to {choice[-1]}" if choice.step == 1 else f"{choice[0]}, {choice[1]}, ..., {choice[-1]}"


def bundle() -> Path | None:
    """Find the data set that `make bundle` made among those attached on Kaggle, by its wheel; None without one.

    Of several, the one with the newest kit, and of those the last by name.
    """
    wheels = [wheel for folder in contest.attached("kitlib-*.whl") for wheel in folder.glob("kitlib-*.whl")]
    if not wheels:
        return None
    return max(wheels, key=lambda wheel: (Version(wheel.name.split("-")[1]), str(wheel))).parent


def run_folders(given: str = "", below: str = "") -> Path:
    """Return the folder for a notebook's run folders: `given`, else runs/ of the checkout, else runs/ here.

    On Kaggle it is always runs/ here: only what lies in /kaggle/working is kept.

    Args:
        given: the folder; a relative one is relative to the notebook's. Empty chooses.
        below: a folder below the one that is chosen.
    """
    return Path(given).expanduser() if given else _home() / "runs" / below


def submission_path(given: str = "") -> Path:
    """Return the file to hand in: `given`, else submission.csv here on Kaggle and in submissions/ of a checkout."""
    if given:
        path = Path(given).expanduser()
        return path / "submission.csv" if path.is_dir() else path
    return _home() / ("submission.csv" if on_kaggle() else "submissions/submission.csv")


def _home() -> Path:
    """Return the checkout that kitlib runs from; the working folder on Kaggle and without a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() and not on_kaggle() else Path()


def disk_left(folder: str | os.PathLike = ".") -> int:
    """Return the bytes that may still be written to a folder; on Kaggle a session may keep 20 GB."""
    folder = Path(folder).resolve()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
    if not on_kaggle():
        return free
    used = sum(path.stat().st_size for path in Path.cwd().rglob("*") if path.is_file())
    return max(0, min(free, KAGGLE_DISK - used))


def ends_at(hours: float = 0.0) -> float | None:
    """Return the deadline for the trainings of a notebook that starts now, in seconds like `time.time()`.

    Args:
        hours: from now; 0 is SESSION_HOURS on Kaggle and no limit, None, elsewhere.
    """
    hours = hours or (SESSION_HOURS if on_kaggle() else 0.0)
    return time.time() + 3600 * hours if hours else None


def versions() -> str:
    """Return two lines: the kit and its folder, Python and the packages that matter."""
    packages = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "opencv-python-headless", "opencv-python")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    folder = Path(kitlib.__file__).parent
    return f"kitlib {kitlib.__version__} from {folder}\nPython {platform.python_version()}, {', '.join(found)}"


def competition(path: str = "") -> Path:
    """Find the competition's folder and print which one it is.

    Args:
        path: the folder; empty looks where scans.find_root does.

    Raises:
        FileNotFoundError: lists where it looked, and gives the command that writes a synthetic competition.
    """
    root = scans.find_root(path or None)
    kind = "PHANTOM (synthetic, not data of patients)" if scans.is_phantom(root) else "competition data"
    print(f"{kind}: {root.resolve()}")
    return root
