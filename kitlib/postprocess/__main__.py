"""Score a submission beside the baselines: `python -m kitlib.postprocess ROOT SUBMISSION`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kitlib.postprocess import baselines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 after an error."""
    parser = argparse.ArgumentParser("python -m kitlib.postprocess", description=__doc__.split(":")[0])
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of a synthetic competition, with truth.csv")
    parser.add_argument("submission", type=Path, metavar="SUBMISSION", help="the submission.csv to score")
    options = parser.parse_args(arguments)
    try:
        print(baselines.table(options.root, options.submission).round(3).to_string())
    except (OSError, ValueError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
