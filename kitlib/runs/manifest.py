"""Check sums of the files in a folder, so that a copy that went wrong is known by the name of the file.

`make bundle` writes one beside the run folders it takes along; who reads them asks it before trusting a file.
"""

import hashlib
import json
import os
from pathlib import Path

from kitlib.runs import folder

NAME = "manifest.json"


def write(root: str | os.PathLike) -> dict[str, str]:
    """Write the SHA-256 of every file below a folder into its manifest.json.

    Returns:
        The sums by path, relative to the folder, with forward slashes.
    """
    root = Path(root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != NAME)
    sums = {path.relative_to(root).as_posix(): _sum(path) for path in files}
    folder.write_text(root / NAME, json.dumps(sums, indent=1))
    return sums


def check(root: str | os.PathLike) -> dict[Path, str]:
    """Compare the files below a folder with its manifest; a folder without one has no problems.

    Returns:
        A sentence for each file that is missing, unreadable or not what it was, by its path; a manifest that cannot be
        read is one of them.
    """
    root = Path(root)
    listing = root / NAME
    if not listing.is_file():
        return {}
    try:
        sums = dict(json.loads(listing.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        return {listing: f"is no table of check sums: {error}"}
    problems = {}
    for name, wanted in sums.items():
        path = root / name
        try:
            found = _sum(path)
        except (OSError, ValueError):
            problems[path] = "is missing or cannot be read; copy the folder again"
            continue
        if found != wanted:
            problems[path] = "is not the file that was packed: its check sum differs; copy the folder again"
    return problems


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
