"""Imitate Kaggle: `python kaggle/check.py [RUN ...]`, or `make kaggle-check`.

From an environment on the versions of Kaggle's image, with package index and network off, the bundle is mounted as
Kaggle mounts it, and 03_inference runs as it would there:

    public    the mount points before 2026, an empty test folder, a sample without rows
    rerun     today's mount points, hidden cases; twice, since a repeated run has to write the same bytes
    foreign   a network trained on a phantom: refused in a saved version, left out of the rerun (of several networks)
    hostile   hidden cases with faults in them: files cut off, altered, missing, of a strange size, a broken network (of
              several), and wrong parameters
    roles     the rerun with the same networks as a gate and a segmenter, which look at the earlier days of the cases:
              both, the gate broken, the segmenter broken, a bundle without a gate, and a competition without train/
    ensemble  the rerun with that pair and untrained networks on coronal and sagittal pictures and on volumes

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

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kaggle")]

import bundle  # noqa: E402

import phantom  # noqa: E402
from kitlib import contest, files, inference, postprocess, runs, submission  # noqa: E402
from kitlib.data import earlier, folds, inputs, scans  # noqa: E402
from kitlib.inference import Faults, rescue  # noqa: E402
from kitlib.postprocess import intervals  # noqa: E402
from kitlib.runs import manifest  # noqa: E402
from kitlib.scoring import metric  # noqa: E402

ISOLATED = "KITLIB_CHECK_ISOLATED"
RUN_SCRIPT = (
    "import json, sys, papermill; papermill.execute_notebook(sys.argv[1], sys.argv[2], json.loads(sys.argv[4]), "
    "cwd=sys.argv[3], kernel_name='python3', progress_bar=False)"
)


def isolate() -> str:
    """Start this program again without a network, where the system permits it; return a line on what was done."""
    if os.environ.get(ISOLATED):
        _raise_loopback()
        return "none"
    for options in (["-n"], ["-rn"]):
        if (
            shutil.which("unshare")
            and not subprocess.run(["unshare", *options, "true"], capture_output=True).returncode
        ):
            os.environ[ISOLATED] = "1"
            sys.stdout.flush()
            os.execvp("unshare", ["unshare", *options, sys.executable, *sys.argv])
    return "blocked by dead proxies (this system permits no network namespace)"


def _raise_loopback() -> None:
    """Switch on 127.0.0.1 in a new network, which a notebook's kernel needs to be talked to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running


def make_environment(folder: Path) -> Path:
    """Make an environment with this one's packages and without the kit; return its Python."""
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


def make_pair(found: list[Path], folder: Path) -> list[Path]:
    """Copy the first and the last run as a gate and a segmenter, whose settings give each organ one run of slices.

    The bowels end near the line of the earlier day, where there is one.

    The gate's mean presence is neutral, so that also a network that has hardly learned finds such slices; 0.5 where its
    out-of-fold probabilities are missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    names = {"gate": found[0], "segmenter": found[-1]}
    for role, source in names.items():
        shutil.copytree(source, folder / role, ignore=shutil.ignore_patterns("oof", "presence", "settings.json"))
        record = runs.read(source).record
        runs.write_record(folder / role, record | {"recipe": record.get("recipe", {}) | {"role": role}})
    settings, gate = runs.choose_settings(found)[0], runs.read(found[0])
    curves = [intervals.presence(gate.probabilities(scan)) for scan in gate.scans] or [np.full((1, 3), 0.5)]
    neutral = np.concatenate(curves).mean(axis=0).clip(0.01, 0.99)
    offset = tuple(np.log(neutral / (1 - neutral)).tolist())
    settings = postprocess.Settings(settings.threshold, ends="interval", offset=offset, line_weight=1.0)
    (folder / "segmenter/settings.json").write_text(settings.to_json(), encoding="utf-8")
    return [folder / role for role in names]


def make_ensemble(pair: list[Path], folder: Path) -> list[Path]:
    """Add untrained segmenters to a gate and a segmenter: with a prior, coronal, sagittal, and for volumes."""
    from kitlib.models import build_segresnet, build_unet

    shutil.rmtree(folder, ignore_errors=True)
    record = runs.read(pair[-1]).record
    specs = {axis: inputs.InputSpec(32, 32, depth=3, axis=axis, length=32) for axis in "yx"}
    specs |= {"volume": inputs.InputSpec(32, 32, depth=8, volume=True)}
    specs |= {"prior": inputs.InputSpec(32, 32, depth=3, prior=True)}
    for name, spec in specs.items():
        build, options = (build_segresnet, {"init": 8}) if spec.volume else (build_unet, {"levels": 2, "base": 4})
        options |= {"prior": True} if spec.prior else {}
        (folder / name).mkdir(parents=True)
        build(spec.shape, **options).save(folder / name / "model.keras")
        (folder / name / "weight.json").write_text("0.1", encoding="utf-8")  # beside a trained one
        runs.write_record(folder / name, record | {"input_spec": json.loads(spec.to_json())})
    return [*pair, *(folder / name for name in specs)]


def mount(folder: Path, competition: Path, dataset: Path, new: bool) -> Path:
    """Lay out /kaggle/input as before 2026 (new=False) or as today; return the competition's folder in it."""
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / ("competitions" if new else ".") / contest.SLUG
    attached = folder / ("datasets/somebody" if new else ".") / bundle.SLUG
    shutil.copytree(competition, place)
    shutil.copytree(dataset, attached)
    return place


def execute(python: Path, notebook: Path, mounts: Path, working: Path, **parameters) -> subprocess.CompletedProcess:
    """Run a notebook in a working folder of its own, whatever comes of it."""
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    arguments = [notebook, working / "executed.ipynb", working, json.dumps(parameters)]
    command = [str(python), "-c", RUN_SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=kaggle_variables(mounts), capture_output=True, text=True, check=False)


def run_notebook(*given, **parameters) -> tuple[Path, float]:
    """Run a notebook that has to succeed; give the submission, and the seconds."""
    started = time.perf_counter()
    done, working = execute(*given, **parameters), given[-1]
    if done.returncode:
        raise SystemExit(f"the notebook failed in {working}:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
    return working / "submission.csv", time.perf_counter() - started


def printed(working: Path) -> str:
    """Return the text that an executed notebook printed."""
    notebook = json.loads((working / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join("".join(text) for text in texts)


def break_things(place: Path, dataset: Path) -> list[str]:
    """Break one thing of every kind; return a name that the list of faults has to hold for each."""
    per_scan: dict[Path, list[Path]] = {}
    for path in sorted((place / "test").rglob("*.png")):
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


def make_foreign(dataset: Path) -> list[Path]:
    """Turn the last run of a bundle into one that was trained on a phantom; return all its run folders."""
    folders = sorted(path.parent for path in (dataset / "runs").rglob("run.json"))
    record = runs.read(folders[-1]).record
    runs.write_record(folders[-1], record | {"data": record.get("data", {}) | {"kind": "phantom"}})
    manifest.write(dataset / "runs")
    return folders


def tiny_runs(root: Path, folder: Path) -> list[Path]:
    """Train two small networks for an epoch each, unless that was done before."""
    from kitlib import training

    slices = scans.read(root)
    spec = inputs.InputSpec(32, 32, depth=3)
    options = {"levels": 2, "base": 4, "window_stages": (0,)}
    recipe = training.Recipe(network_options=options, epochs=1)
    for fold in (0, 1):
        place = folder / f"fold{fold}"
        if not (place / "run.json").is_file():
            held_out = folds.by_case(slices, 2) == fold
            training.fit_fold(slices, place, held_out=held_out, spec=spec, recipe=recipe)
    # After one epoch no probability reaches 0.5: thresholds at the brightest tenth give masks to compare.
    run = runs.read(folder / "fold0")
    probabilities = np.concatenate([run.probabilities(name).reshape(-1, 3) for name in run.scans])
    levels = tuple(float(level) for level in np.quantile(probabilities, 0.9, axis=0))
    (folder / "settings.json").write_text(postprocess.Settings(threshold=levels).to_json(), encoding="utf-8")
    return [folder]


class Check:
    """The runs of 03_inference, one method each; each prints a line or fails.

    Args:
        out: folder for everything that is made here.
        python: interpreter of an environment as Kaggle has it.
    """

    def __init__(self, out: Path, python: Path):
        self.out, self.python, self.hidden = out, python, out / "hidden"
        self.dataset, self.notebook = out / "bundle/dataset", out / "bundle/kernels/03_inference/03_inference.ipynb"
        self.pair, self.whole = out / "bundle-pair/dataset", out / "bundle-ensemble/dataset"
        self.truth = files.read_csv(self.hidden / "truth.csv", ["id", "class", "segmentation"])
        self.slices = scans.read(self.hidden, "test")
        self.known = earlier.days(self.slices, scans.read(self.hidden))
        assert self.known, "no hidden scan has an earlier day; write the phantom with other numbers"

    def mount(self, competition: str, new: bool = True, dataset: Path | None = None) -> Path:
        """Mount the competition and a bundle; give the competition's folder."""
        return mount(self.out / "input", self.out / competition, dataset or self.dataset, new)

    def attached(self) -> Path:
        """The mounted bundle, today's folders."""
        return self.out / "input/datasets/somebody" / bundle.SLUG

    def run(self, name: str, **parameters) -> tuple[Path, float, str]:
        """Run the notebook; give the submission, the seconds and the printed text."""
        file, seconds = run_notebook(self.python, self.notebook, self.out / "input", self.out / name, **parameters)
        return file, seconds, printed(file.parent)

    def score(self, file: Path) -> float:
        """Score a submission that has to be valid."""
        problems = submission.check(file, self.slices, submission.read(self.out / "competition/sample_submission.csv"))
        assert not problems, problems
        return metric.score(self.truth, submission.read(file), self.slices).value

    def here(self, dataset: Path, **options) -> float:
        """Score what the networks of a bundle predict in this process; options of `inference.submit`."""
        local, faults = self.out / "local.csv", Faults()
        slices, sample = rescue.read(self.out / "competition", faults)
        chosen = runs.choose(dataset / "runs").folders
        settings, _ = runs.choose_settings(chosen)
        back = inference.looks_back([runs.read(folder) for folder in chosen], settings)
        known = rescue.read_known(self.out / "competition", slices, faults) if back else None
        options |= {"settings": settings, "known": known, "progress": False}
        inference.submit(chosen, slices, sample, local, faults, **options)
        return self.score(local)

    def public(self) -> None:
        """A saved version: it writes a header, and rehearses."""
        self.mount("public", new=False)
        file, seconds, text = self.run("working-public")
        content = file.read_text(encoding="utf-8")
        assert content == "id,class,predicted\n", content[:200]
        assert str(self.out / "environment") in text, "the kit was not installed from the bundle"
        assert "batch:" in text
        assert "no faults" in text
        print(f"public   {seconds:5.0f} s  header only, one training scan rehearsed, no faults", flush=True)

    def rerun(self) -> None:
        """The scoring rerun, twice: the score of the same networks here, and the same bytes."""
        expected, written = self.here(self.dataset), []
        for new in (True, False):
            self.mount("competition", new)
            file, seconds, text = self.run(f"working-rerun{len(written)}")
            assert "rerun:" in text
            assert "shed: nothing" in text
            score = self.score(file)
            assert score == expected, f"scored {score} in the rerun and {expected} here"
            written.append(file.read_bytes())
            folders = f"{'new' if new else 'old'} folders"
            print(f"rerun    {seconds:5.0f} s  {folders}, valid, score {score:.6f}, here {expected:.6f}", flush=True)
        assert written[0] == written[1], "a repeated run wrote another file"
        assert expected > 0, "the networks predict no masks, so equal scores prove nothing"

    def foreign(self) -> None:
        """A network that was trained on a phantom: refused in a saved version, left out in the rerun."""
        self.mount("public")
        *others, last = make_foreign(self.attached())
        working = self.out / "working-foreign"
        done = execute(self.python, self.notebook, self.out / "input", working)
        error = done.stderr.strip().splitlines()[-1]
        assert done.returncode, "a network trained on a phantom was accepted"
        assert last.name in error, error
        assert "was trained on phantom data" in error, error
        if others:
            self.mount("competition")
            make_foreign(self.attached())
            file, _, text = self.run("working-foreign")
            self.score(file)
            assert f"{last}: was trained on phantom data" in text, text
        print("foreign            refused in a saved version, left out in the rerun", flush=True)

    def hostile(self) -> None:
        """The rerun on broken files, a broken network and wrong parameters: valid, and every fault is listed."""
        place = self.mount("competition")
        wrong = {"BATCH": "16", "FLIP": "false", "RUNS": "/kaggle/input/before/runs", "RUN": "misspelt"}
        wanted = [*break_things(place, self.attached()), *(f"parameter {name}" for name in wrong)]
        file, seconds, text = self.run("working-hostile", **wrong)
        score, report = self.score(file), (file.parent / "faults.csv").read_text(encoding="utf-8")
        missing = [name for name in wanted if name not in report]
        assert not missing, f"not reported: {missing}\n{text}"
        print(
            f"hostile  {seconds:5.0f} s  valid, score {score:.6f}, {report.count(chr(10)) - 1} faults listed",
            flush=True,
        )

    def roles(self) -> None:
        """A gate and a segmenter; then one broken, no gate, and no training set: valid, and what happened is listed."""
        gate, segmenter = "the gates also draw the contours", "the segmenters also decide on which slices an organ is"
        for case, broken, words in (
            ("both roles", "", ""),
            ("gate broken", "gate", segmenter),
            ("segmenter broken", "segmenter", gate),
            ("gate missing", "gate", segmenter),
            ("train/ missing", "", "no scan has an earlier day"),
        ):
            place = self.mount("competition", dataset=self.pair)
            model = self.attached() / "runs" / (broken or "gate") / "model.keras"
            if case == "gate missing":
                shutil.rmtree(model.parent)
                manifest.write(self.attached() / "runs")
            elif case == "train/ missing":
                shutil.rmtree(place / "train")
                (place / "train.csv").unlink()
            elif broken:
                model.write_bytes(model.read_bytes()[:1000])
            file, seconds, text = self.run("working-roles")
            score, report = self.score(file), file.parent / "faults.csv"
            listed = report.read_text(encoding="utf-8") if report.is_file() else ""
            assert words in listed, f"{case}: {words!r} is not listed\n{text}"
            assert (str(model) in listed) == case.endswith("broken"), listed
            if not words:
                assert "no faults" in text, text
                assert f"{len(self.known)} of {self.slices['scan'].nunique()} test scans have an earlier day" in text
                expected = self.here(self.pair)
                assert score == expected, f"scored {score} in the rerun and {expected} here"
            count = f"{listed.count(chr(10)) - 1} faults listed" if listed else "no faults"
            print(f"roles    {seconds:5.0f} s  {case}: valid, score {score:.6f}, {count}", flush=True)

    def ensemble(self) -> None:
        """A gate, segmenters along three axes, volumes, and all flips: valid, with the score of this machine."""
        self.mount("competition", dataset=self.whole)
        file, seconds, text = self.run("working-ensemble", FLIP=True)
        score, expected = self.score(file), self.here(self.whole, flip=True)
        assert "no faults" in text, text
        assert score == expected, f"scored {score} in the rerun and {expected} here"
        assert expected > 0, "the networks predict no masks, so equal scores prove nothing"
        count = len(runs.choose(self.whole / "runs").folders)
        print(f"ensemble {seconds:5.0f} s  {count} networks: valid, score {score:.6f}, no faults", flush=True)


def main() -> int:
    """Run the check and print what each run gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders to bundle (default: train two tiny ones)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/kaggle-check", help="folder for the executed notebooks"
    )
    given = parser.parse_args()
    out = given.out.resolve()
    if not os.environ.get(ISOLATED):  # everything that needs a network: building a wheel does
        if not (out / "hidden/train.csv").is_file():
            phantom.write(out / "hidden", cases=5, slices=12, sizes=[(96, 80), (61, 75)])
        marks = ("truth.csv", "phantom.json", "faults.csv")  # without them it is a competition
        for name, left_out in (("competition", marks), ("public", (*marks, "test"))):
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(out / "hidden", out / name, ignore=shutil.ignore_patterns(*left_out))
        (out / "public/sample_submission.csv").write_text("id,class,predicted\n", encoding="utf-8")
        shutil.rmtree(out / "bundle", ignore_errors=True)
        foreign = [run for folder in given.runs for run in runs.find(folder) if run.foreign(bundle.COMPETITION)]
        if foreign:
            text = f"{foreign[0].folder} was trained on {foreign[0].kind} data, and Kaggle's rerun leaves it out"
            parser.error(f"{text}; name a run on the competition's data, or none: then two tiny ones are trained")
        try:
            chosen = given.runs or tiny_runs(out / "competition", out / "runs")
            bundle.build(chosen, "somebody", out / "bundle")
            found = [run.folder for folder in chosen for run in runs.find(folder)]
            pair = make_pair(found, out / "pair")
            bundle.build(pair, "somebody", out / "bundle-pair")
            bundle.build(make_ensemble(pair, out / "ensemble"), "somebody", out / "bundle-ensemble")
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
    network = isolate()
    print(f"Python {sys.version.split()[0]}, {runs.surroundings()['versions']}\nnetwork: {network}", flush=True)
    shutil.rmtree(out / "environment", ignore_errors=True)
    check = Check(out, make_environment(out / "environment"))
    for run in (check.public, check.rerun, check.foreign, check.hostile, check.roles, check.ensemble):
        run()
    slices = check.slices
    print(f"passed: {len(contest.ORGANS) * len(slices)} rows, {slices['scan'].nunique()} scans; pages in {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
