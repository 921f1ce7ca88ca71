"""Convert an encoder's weight file to .npz for a bundle: `python -m kitlib.models lite0 [FOLDER]`."""

import argparse
from pathlib import Path

from kitlib.models import encoders, weights


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kitlib.models", description=__doc__.splitlines()[0])
    short = {name.rpartition("-")[2]: name for name in encoders.NAMES if name.endswith("lite0")}
    parser.add_argument(
        "encoder", choices=[*short, *encoders.NAMES], help="name of the encoder; encoders.find locates its weight file"
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("encoders"), help="folder to write (default: encoders)"
    )
    options = parser.parse_args()
    name = short.get(options.encoder, options.encoder)
    source = encoders.find(name)
    target = weights.write(options.folder.expanduser() / f"{name}.npz", encoders.arrays(name, source))
    print(f"{source}\n{target}, {target.stat().st_size / 1e6:.1f} MB, SHA-256 {weights.digest(target)}")


if __name__ == "__main__":
    main()
