"""Check sums of the files in a folder, which find the damaged files of a copy.

`make bundle` writes one beside the run folders that it packs; `selection.choose` compares it before it trusts a file.
"""

import hashlib
import json
import os
from pathlib import Path

from kitlib.files import replacing

NAME = "manifest.json"


def write(root: str | os.PathLike) -> dict[str, str]:
    """Write the SHA-256 of every file below a folder into its manifest.json.

    Returns:
        The sums by path, relative to the folder, with forward slashes.
    """
    root = Path(root)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.name != NAME)
    sums = {path.relative_to(root).as_posix(): _sum(path) for path in paths}
    with replacing(root / NAME) as file:
        file.write(json.dumps(sums, indent=1))
    return sums


def files(root: str | os.PathLike) -> list[Path]:
    """List the files that a folder's manifest names; none where it has no manifest, or one that cannot be read."""
    try:
        return [Path(root) / name for name in _read(Path(root))]
    except (OSError, ValueError, AttributeError):
        return []


def check(root: str | os.PathLike) -> dict[Path, str]:
    """Compare the files below a folder with its manifest; a folder without one has no problems.

    Returns:
        A sentence for each file that is missing, unreadable or changed, by its path; a manifest that cannot be read is
        one of them.
    """
    root = Path(root)
    if not (root / NAME).is_file():
        return {}
    try:
        sums = _read(root)
    except (OSError, ValueError, AttributeError) as error:
        return {root / NAME: f"is not a table of check sums ({error}); copy the folder again"}
    problems = {}
    for name, wanted in sums.items():
        path = root / name
        try:
            found = _sum(path)
        except (OSError, ValueError):
            problems[path] = "is missing or cannot be read; copy the folder again"
            continue
        if found != wanted:
            problems[path] = "was changed since it was packed: its check sum differs; copy the folder again"
    return problems


def _read(root: Path) -> dict[str, str]:
    return dict(json.loads((root / NAME).read_text(encoding="utf-8")).items())


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
