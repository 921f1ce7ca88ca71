"""Imitate Kaggle: `python kaggle/check.py [RUN ...]`, or `make kaggle-check`.

From an environment on the versions of Kaggle's image, with package index and network off, the bundle is mounted as
Kaggle mounts it, and 03_inference runs as it would there:

    public    the folders of before 2026, an empty test folder, a sample without rows
    rerun     today's folders, hidden cases; twice, since a repeated run has to write the same bytes
    hostile   hidden cases with faults in them: files cut off, altered, missing, of a strange size, and a broken network
              (where there are several)

Each run must end with a file that submission.check accepts, and the rerun with the score of the same networks here.
"""

import argparse
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kaggle")]

import bundle  # noqa: E402

import phantom
from kitlib import contest, inference, postprocess, runs, submission
from kitlib.data import folds, inputs, scans
from kitlib.inference import rescue
from kitlib.inference.faults import Faults  # noqa: E402
from kitlib.scoring import metric  # noqa: E402

ISOLATED = "KITLIB_CHECK_ISOLATED"
RUN_SCRIPT = (
    "import sys, papermill; papermill.execute_notebook(sys.argv[1], sys.argv[2], {}, cwd=sys.argv[3], "
    "kernel_name='python3', progress_bar=False)"
)


def isolate() -> str:
    """Start this program again without a network, where the system permits it; say what was done."""
    if os.environ.get(ISOLATED):
        _raise_loopback()
        return "a network of its own, with nothing in it"
    for options in (["-n"], ["-rn"]):
        if (
            shutil.which("unshare")
            and not subprocess.run(["unshare", *options, "true"], capture_output=True).returncode
        ):
            os.environ[ISOLATED] = "1"
            sys.stdout.flush()
            os.execvp("unshare", ["unshare", *options, sys.executable, *sys.argv])
    return "proxies that lead nowhere (this system does not permit a network of its own)"


def _raise_loopback() -> None:
    """Switch on 127.0.0.1 in a new network, which a notebook's kernel needs to be talked to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running


def make_environment(folder: Path) -> Path:
    """Make an environment that sees this one's packages and none of its kit; give its Python."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "image.pth").write_text(packages + "\n", encoding="utf-8")
    return folder / "bin/python"


def kaggle_variables(mounts: Path) -> dict[str, str]:
    """The variables of a saved version on Kaggle, with index and proxies that answer nothing."""
    kept = {
        key: value for key, value in os.environ.items() if not key.upper().startswith(("PIP_", "KITLIB_", "PYTHON"))
    }
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    kaggle = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KITLIB_KAGGLE_INPUT": str(mounts)}
    pip = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return kept | dead | kaggle | pip | {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONNOUSERSITE": "1"}


def mount(folder: Path, competition: Path, dataset: Path, new: bool) -> Path:
    """Lay out /kaggle/input as it was (new=False) or is; give the competition's place in it."""
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / ("competitions" if new else ".") / contest.SLUG
    attached = folder / ("datasets/somebody" if new else ".") / bundle.SLUG
    shutil.copytree(competition, place)
    shutil.copytree(dataset, attached)
    return place


def run_notebook(python: Path, notebook: Path, mounts: Path, working: Path) -> tuple[Path, float]:
    """Run a notebook in a working folder of its own; give the submission, and the seconds."""
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    started = time.perf_counter()
    command = [str(python), "-c", RUN_SCRIPT, str(notebook), str(working / "executed.ipynb"), str(working)]
    done = subprocess.run(command, env=kaggle_variables(mounts), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{notebook.stem} failed in {working}:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
    return working / "submission.csv", time.perf_counter() - started


def printed(working: Path) -> str:
    """All that an executed notebook printed."""
    notebook = json.loads((working / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(text) for text in texts)


def break_things(place: Path, dataset: Path) -> list[str]:
    """Break one thing of every kind; give what each report line has to hold."""
    pictures = sorted((place / "test").rglob("*.png"))
    per_scan: dict[Path, list[Path]] = {}
    for path in pictures:
        per_scan.setdefault(path.parent, []).append(path)
    first, second, third, *_ = per_scan.values()
    first[2].write_bytes(first[2].read_bytes()[:-300])
    changed = bytearray(first[4].read_bytes())
    changed[len(changed) // 2] ^= 0xFF
    first[4].write_bytes(bytes(changed))
    first[6].write_bytes(b"")
    first[8].unlink()
    small = cv2.resize(inputs.read_picture(second[1]), (50, 40))
    cv2.imwrite(str(second[1].with_name("slice_0002_50_40_1.50_1.50.png")), small)
    second[1].unlink()
    second[3].rename(second[3].with_name("slice_4_copy.png"))
    for path in third[1:]:
        path.unlink()
    models = sorted((dataset / "runs").rglob("model.keras"))
    for model in models[1:][-1:]:  # the last; an only one stays, since a bundle without any network is an error
        model.write_bytes(model.read_bytes()[:1000])
    names = [first[2].name, first[4].name, first[6].name, f"_slice_{8 + 1:04d}", "40x50", "slice_4_copy.png"]
    return [*names, *(model.parent.name for model in models[1:][-1:]), third[0].parent.parent.name]


def tiny_runs(root: Path, folder: Path) -> list[Path]:
    """Train two small networks for an epoch each, unless that was done before."""
    from kitlib import training

    slices = scans.read(root)
    spec = inputs.InputSpec(32, 32, depth=3)
    options = {"levels": 2, "base": 4, "window_stages": (0,)}
    for fold in (0, 1):
        place = folder / f"fold{fold}"
        if not (place / "run.json").is_file():
            held_out = folds.by_case(slices, 2) == fold
            training.fit_fold(slices, place, held_out=held_out, spec=spec, network_options=options, epochs=1)
    # After one epoch nothing reaches a half: thresholds that let the brightest tenth through make masks to compare.
    run = runs.read(folder / "fold0")
    probabilities = np.concatenate([run.probabilities(name).reshape(-1, 3) for name in run.scans])
    levels = tuple(float(level) for level in np.quantile(probabilities, 0.9, axis=0))
    (folder / "settings.json").write_text(postprocess.Settings(threshold=levels).to_json(), encoding="utf-8")
    return [folder]


def main() -> int:
    """Run the check and print what each run gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders to bundle; two tiny ones are trained without")
    parser.add_argument("--out", type=Path, default=ROOT / "build/kaggle-check")
    given = parser.parse_args()
    out = given.out.resolve()
    hidden = out / "hidden"
    if not (hidden / "train.csv").is_file():
        phantom.write(hidden, cases=5, slices=12, sizes=[(96, 80), (61, 75)])
    if not os.environ.get(ISOLATED):  # anew each time, and with a network still, which building a wheel needs
        chosen = given.runs or tiny_runs(hidden, out / "runs")
        bundle.build(chosen, "somebody", out / "bundle")
    network = isolate()
    print(f"Python {sys.version.split()[0]}, {runs.surroundings()['versions']}\nnetwork: {network}", flush=True)

    shutil.rmtree(out / "environment", ignore_errors=True)
    python = make_environment(out / "environment")
    dataset, notebook = out / "bundle/dataset", out / "bundle/kernels/03_inference/03_inference.ipynb"
    truth = pd.read_csv(hidden / "truth.csv", dtype=str, keep_default_na=False)
    whole, public, competition = scans.read(hidden, "test"), out / "public", out / "competition"
    for folder in (public, competition):
        shutil.rmtree(folder, ignore_errors=True)
    keep = shutil.ignore_patterns("truth.csv", "phantom.json", "faults.csv")
    shutil.copytree(hidden, competition, ignore=keep)
    shutil.copytree(hidden, public, ignore=shutil.ignore_patterns("truth.csv", "phantom.json", "faults.csv", "test"))
    (public / "sample_submission.csv").write_text("id,class,predicted\n", encoding="utf-8")

    place = mount(out / "input", public, dataset, new=False)
    file, seconds = run_notebook(python, notebook, out / "input", out / "working-public")
    assert file.read_text(encoding="utf-8") == "id,class,predicted\n", file.read_text(encoding="utf-8")[:200]
    text = printed(file.parent)
    assert str(out / "environment") in text, "the kit did not come from the bundle"
    assert "batch:" in text
    assert "no faults met" in text
    print(f"public   {seconds:5.0f} s  header only, one training scan rehearsed, no faults", flush=True)

    local = out / "local.csv"
    slices, sample = rescue.read(competition, Faults())
    chosen = runs.choose(dataset / "runs").folders
    inference.submit(chosen, slices, sample, local, flip=True, progress=False, faults=Faults())
    expected = metric.score(truth, submission.read(local), whole).value
    written = []
    for new in (True, False):
        place = mount(out / "input", competition, dataset, new)
        file, seconds = run_notebook(python, notebook, out / "input", out / f"working-rerun{len(written)}")
        order = submission.read(place / "sample_submission.csv")
        problems = submission.check(file, whole, order)
        assert not problems, problems
        text = printed(file.parent)
        assert "rerun:" in text
        assert "shed: nothing" in text
        score = metric.score(truth, submission.read(file), whole).value
        assert score == expected, f"scored {score} in the rerun and {expected} here"
        written.append(file.read_bytes())
        folders = "new" if new else "old"
        print(
            f"rerun    {seconds:5.0f} s  {folders} folders, valid, score {score:.6f}, here {expected:.6f}", flush=True
        )
    assert written[0] == written[1], "a repeated run wrote another file"
    assert expected > 0, "these networks draw nothing, so that equal scores say nothing"

    place = mount(out / "input", competition, dataset, new=True)
    wanted = break_things(place, out / "input/datasets/somebody" / bundle.SLUG)
    file, seconds = run_notebook(python, notebook, out / "input", out / "working-hostile")
    problems = submission.check(file, whole, submission.read(competition / "sample_submission.csv"))
    assert not problems, problems
    text = printed(file.parent)
    report = (file.parent / "faults.csv").read_text(encoding="utf-8")
    missing = [name for name in wanted if name not in report]
    assert not missing, f"not reported: {missing}\n{text}"
    score = metric.score(truth, submission.read(file), whole).value
    print(f"hostile  {seconds:5.0f} s  valid, score {score:.6f}, {report.count(chr(10)) - 1} faults listed", flush=True)
    print(f"passed: {len(contest.ORGANS) * len(whole)} rows, {whole['scan'].nunique()} scans; pages in {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
