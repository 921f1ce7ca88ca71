"""`python -m phantom ROOT`: write a synthetic competition, or report how similar a folder is to the real data."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from phantom.files import write
from phantom.likeness import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m phantom", description="Write a synthetic competition.")
    parser.add_argument("root", type=Path, nargs="+", help="folder to write (with --report: folders to measure)")
    parser.add_argument("--cases", type=int, default=8, help="number of cases, hidden ones included (default: 8)")
    parser.add_argument("--days", type=int, help="scans per case (default: 2 or 3)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument(
        "--faults", type=int, default=0, help="training scans with a bad annotation, listed in faults.csv"
    )
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="worker processes")
    parser.add_argument(
        "--report", action="store_true", help="print a table of measurements of the folders instead of writing"
    )
    options = parser.parse_args(arguments)
    if len(options.root) > 1 and not options.report:
        parser.error(f"got {len(options.root)} folders to write; several folders need --report")
    root = options.root[0]
    try:
        if options.report:
            several, progress = len(options.root) > 1, sys.stderr.isatty()
            print(report.side_by_side(options.root, progress) if several else report.as_text(root, progress))
            return 0
        write(
            root,
            options.cases,
            options.seed,
            days=options.days,
            faults=options.faults,
            processes=options.processes,
            progress=True,
        )
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{root}: a synthetic competition, not data of patients; truth.csv holds the masks of its test part")
    return 0


if __name__ == "__main__":
    sys.exit(main())
