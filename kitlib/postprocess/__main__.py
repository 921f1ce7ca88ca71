"""`python -m kitlib.postprocess`: a submission beside its baselines."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kitlib.postprocess.baselines import table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table: `python -m kitlib.postprocess data/phantom submissions/submission.csv`."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.postprocess", description=main.__doc__)
    parser.add_argument("root", type=Path, help="a synthetic competition, with truth.csv")
    parser.add_argument("submission", type=Path)
    given = parser.parse_args(arguments)
    print(table(given.root, given.submission).round(3).to_string())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
