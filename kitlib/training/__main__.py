"""`python -m kitlib.training`: train on a folder, score the validation scans, write their submission."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from kitlib import inference, postprocess, runs, submission
from kitlib.data import axes, boxes, earlier, folds, inputs, scans
from kitlib.models import encoders
from kitlib.models.unet import NO_ATTENTION
from kitlib.training import devices, fit, jobs, presets, recipes

CHANGES = ("epochs", "batch_size", "seed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on a folder in the official layout and score the validation scans."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.folds_of and not given.folds:
        parser.error("--folds-of needs --folds, the number of folds of that cross-validation")
    if given.submission and given.role == "segmenter":
        parser.error(
            "--submission: a segmenter alone finds organs on every slice; combine it with a gate in 03_inference"
        )
    folder = given.resume or given.runs / datetime.now().strftime("%Y%m%d-%H%M%S")
    if given.submission and given.submission.is_dir():
        given.submission /= "submission.csv"
    try:
        for place in (folder, given.submission.parent if given.submission else folder, given.packed or folder):
            if not (place / "run.json").is_file():  # a finished run is only read
                _writable(place)
        machine = devices.use(devices.detect(given.cards, given.share_batch))
        print(machine)
        root = scans.find_root(given.root)
        slices = scans.read(root)
        print(f"run folder {folder}", flush=True)
        found = _train(slices, folder, given, machine)
    except (ValueError, RuntimeError, OSError) as error:  # a wrong argument, a folder in use, data that are not there
        parser.exit(2, f"{parser.prog}: {error}\n")
    if given.submission:
        _submit(found, slices, given.submission)
    for run in found:
        if not given.no_figures:  # in a process of its own: Matplotlib is for notebooks and commands alone
            subprocess.run([sys.executable, "-m", "kitlib.figures", run.folder, root], check=False)
        score = run.score()
        given_by = f", with the {score['evaluated_with']}" if "evaluated_with" in score else ""
        print(
            f"{run.folder}: {run.state}, host score {score['score']:.4f}, Dice {score['dice']:.4f}, "
            f"Hausdorff {score['hausdorff']:.4f}{given_by}"
        )
    if len(found) < (given.folds or 1) or any(run.state == "stopped" for run in found):
        print(f"out of time; to continue, run the same command with --resume {folder}")
    return 0


def _train(slices: pd.DataFrame, folder: Path, given: argparse.Namespace, machine: devices.Devices) -> list[runs.Run]:
    """Train one network, or one per fold."""
    preset = given.preset or ("encoder" if given.encoder else "paper")
    recipe = presets.choose(preset, given.encoder, machine.accelerators)
    if given.role != "both":
        recipe = recipes.with_role(recipe, given.role)
    recipe = replace(recipe, **{name: getattr(given, name) for name in CHANGES if getattr(given, name) is not None})
    if given.plain:
        recipe = replace(recipe, network_options=recipe.network_options | NO_ATTENTION)
    recipe = recipes.along(recipe, given.axis)
    encoder = recipe.network_options.get("encoder")
    size = given.size or presets.grid(preset, machine.accelerators, given.role)
    volumes, sides = preset in presets.VOLUMES, presets.sides(preset, given.encoder)
    name = encoder or ("SegResNet" if volumes else "U-Net")
    if not set(size) <= set(sides):
        raise ValueError(f"--size {size[0]}x{size[1]}: {name} needs multiples of {sides.step}, such as 256x384")
    box = boxes.box_for(slices) if given.box or (given.box is None and (encoder or volumes)) else None
    spec = presets.spec(preset, size, box, given.axis, axes.length_for(slices, sides.step))
    same = {
        "spec": replace(spec, prior=given.prior),
        "recipe": recipe,
        "pretrained": given.weights or encoder,
        "packed": given.packed,
        "devices": machine,
        "deadline": None if given.time_limit is None else time.time() + given.time_limit,
    }
    held_out = None if given.folds else _held_out(slices, given.held_out)
    more = ", masks of the earlier day" * given.prior + f", along {given.axis}" * (given.axis != "z")
    print(f"{name}, {size[0]} x {size[1]} pixels, {f'box_mm={box}' if box else 'whole slices'}{more}")
    print(runs.check_disk(folder, _stored(slices, folder, given, held_out, machine), same["spec"]))
    if given.packed and not list(given.packed.glob("*.npy")):
        print(runs.check_disk(given.packed, len(slices), same["spec"]))
    if given.folds:
        return jobs.cross_validate(slices, folder, count=given.folds, folds_of=given.folds_of, **same)
    return [fit.fit_fold(slices, folder, held_out=held_out, **same)]


def _stored(slices: pd.DataFrame, folder: Path, given: argparse.Namespace, held_out: pd.Series | None, machine) -> int:
    """Count the slices that trainings will leave on the disk, as `runs.check_disk` counts them."""
    if held_out is not None:
        return 0 if runs.finished(folder) else int(held_out.sum())
    left = sum(not runs.finished(folder / f"fold{fold}") for fold in range(given.folds))
    packed = len(slices) * (jobs.trainings_at_once(machine, left) > 1 and not given.packed)
    return len(slices) * left // given.folds + packed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kitlib.training",
        description=main.__doc__,
        epilog="If training is interrupted, run the same command again with --resume and the run folder that was "
        "printed: it continues after the last finished epoch.",
    )
    parser.add_argument("root", nargs="?", metavar="DATA", help="folder of the competition (default: search for it)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--held-out",
        metavar="SCAN",
        help="a scan, such as case16_day0: validate on all days of its case; or later-days: a split like the "
        "hidden test set, with 44.5 %% of the real slices (default: fold 0 of five)",
    )
    which.add_argument("--folds", type=_folds, help="train a cross-validation with this many folds")
    parser.add_argument(
        "--preset", choices=presets.PRESETS, help="recipe (default: encoder with --encoder, else paper)"
    )
    parser.add_argument(
        "--encoder", choices=encoders.NAMES, default="", help="pretrained encoder of the U-Net (default: by machine)"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE|RUN",
        help="weight file of the encoder, or run folder, to start from (default: the encoder's, searched for)",
    )
    parser.add_argument(
        "--role",
        choices=runs.ROLES,
        default="both",
        help="train a gate, which finds the slices of each organ, or a segmenter, which draws its contours and is "
        "scored with the presence of the truth (default: one network for both)",
    )
    parser.add_argument(
        "--folds-of", type=Path, metavar="FOLDER", help="with --folds: a cross-validation that has the same folds"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for new run folders (default: runs)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="run folder to resume or to create")
    parser.add_argument("--time-limit", type=_seconds, metavar="SECONDS", help="time limit; --resume continues")
    parser.add_argument("--epochs", type=_count, help="maximum number of epochs")
    parser.add_argument("--batch-size", type=_count, help="slices (or volumes) per step")
    parser.add_argument("--seed", type=_seed, help="seed of all random numbers")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="SIDE|HEIGHTxWIDTH",
        help="the network's input in pixels (default: 128; with an encoder 256x384 on a GPU, for a gate 192x288, and "
        "128x192 on a CPU; for volumes 192x288)",
    )
    parser.add_argument(
        "--box",
        action=argparse.BooleanOptionalAction,
        help="crop slices to the box in mm around all masks (default: with an encoder or volumes)",
    )
    parser.add_argument(
        "--prior",
        action="store_true",
        help="also show the network the masks of the case's earlier day, where there is one",
    )
    parser.add_argument(
        "--axis",
        choices=inputs.AXES,
        default="z",
        help="along which the network's pictures follow each other: y for coronal ones, x for sagittal ones (default: "
        "z, the slices)",
    )
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help="keep packed scans there instead of in memory")
    parser.add_argument("--plain", action="store_true", help="train without the attention layers")
    parser.add_argument(
        "--cards", type=_cards, default=0, help="number of GPUs, 0 for all; with --folds one fold per GPU"
    )
    parser.add_argument("--share-batch", action="store_true", help="split each batch between the GPUs instead")
    parser.add_argument("--no-figures", action="store_true", help="do not draw curves and predictions")
    parser.add_argument("--submission", type=Path, help="file for the validation scans' masks, as a submission")
    return parser


def _writable(folder: Path) -> None:
    """Raise OSError, before anything is trained, for a folder that cannot be made or written to."""
    try:
        made = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=made):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}); name another folder") from None


def _count(text: str, least: int = 1, most: int | None = None) -> int:
    """Read a whole number in a range."""
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        expected = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {expected}")
    return int(text)


def _cards(text: str) -> int:
    """Read a whole number from 0 up."""
    return _count(text, 0)


def _folds(text: str) -> int:
    """Read a number of folds."""
    return _count(text, 2)


def _size(text: str) -> tuple[int, int]:
    """Read one or two sides of the grid."""
    height, by, width = text.partition("x")
    return tuple(_count(side, 1, presets.MOST_PIXELS) for side in (height, width if by else height))


def _seed(text: str) -> int:
    """Read a seed."""
    return _count(text, 0, recipes.LARGEST_SEED)


def _seconds(text: str) -> float:
    """Read a positive number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _submit(found: Sequence[runs.Run], slices: pd.DataFrame, path: Path) -> None:
    """Write the masks of the validation scans, each predicted by the run that held it out, and check the file."""
    lines, held_out = [], []
    for run in found:
        val = slices[slices["scan"].isin(run.record["folds"]["held_out"])].reset_index(drop=True)
        known = earlier.trusted(slices) if inference.looks_back([run], run.settings) else None
        for scan, probabilities, presence, line in inference.predict(
            [run.folder], val, inference.Faults(), known=known
        ):
            masks = postprocess.masks(probabilities, run.settings, presence, line)
            lines.append(submission.encode(val[val["scan"] == scan], masks))
        held_out.append(val)
    val = pd.concat(held_out, ignore_index=True)
    submission.write(path, pd.concat(lines), submission.expected_rows(val))
    print(f"{path}: {'; '.join(what for _, what in submission.check(path, val)) or 'no problems'}")


def _held_out(slices: pd.DataFrame, named: str | None) -> pd.Series:
    """Mark the slices to validate on: of a scan, all days of its case, since days of one case look alike."""
    if not named:
        return folds.by_case(slices) == 0
    if named == "later-days":
        return folds.later_days(slices)
    if named not in set(slices["scan"]):
        listed = ", ".join(sorted(slices["scan"].unique())[:8])
        raise ValueError(f"--held-out {named} is not a scan of the data; choose later-days or a scan, such as {listed}")
    return slices["case"] == slices.loc[slices["scan"] == named, "case"].iloc[0]


if __name__ == "__main__":
    raise SystemExit(main())
