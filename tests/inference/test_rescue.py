"""Broken test sets: by hand, by the hundred, and with the process killed while it writes."""

import json
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import phantom
from kitlib import contest, inference, postprocess, runs, submission
from kitlib.data import earlier, inputs, scans
from kitlib.inference import networks, rescue
from kitlib.inference.faults import Faults
from kitlib.runs import manifest

SPEC = inputs.InputSpec(16, 16, depth=3)


def standin(images):
    """A network of no weights: bright pixels are organs."""
    middle = images[..., images.shape[-1] // 2]
    return np.stack([np.clip(middle * share, 0, 1) for share in (1, 0.8, 0.6)], axis=-1)


PLAIN = postprocess.Settings()  # the habits' islands are larger than organs on these small slices

MEMBER = networks.Member("standin", SPEC, standin)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A test split of scans of 47 x 61 pixels, three slices each, as Kaggle lays it out in the rerun."""
    root = tmp_path_factory.mktemp("pristine") / "phantom"
    phantom.write(root, cases=4, slices=3, sizes=[(47, 61)])
    for name in ("train", "train.csv", "truth.csv"):
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    return root


@pytest.fixture
def root(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "test_set"))


def pictures(root):
    return sorted((root / "test").rglob("*.png"))


def submit(root, target, strict, members=(MEMBER,)):
    """Go all the way; give the faults, the slices and the rows asked for."""
    faults = Faults(strict=strict)
    slices, sample = rescue.read(root, faults)
    inference.submit(list(members), slices, sample, target, settings=PLAIN, faults=faults, progress=False)
    return faults, slices, sample


def whole(pristine, target):
    """What the untouched test set gives: its rows, and its table of slices."""
    _, slices, sample = submit(pristine, target, strict=True)
    return submission.read(target), slices, sample


@pytest.fixture
def trained(tmp_path):
    """A training set of three scans of 20 x 24 pixels: days 0 and 5 of case 7, and day 0 of case 8."""
    root, lines = tmp_path / "trained", []
    for scan in ("case7_day0", "case7_day5", "case8_day0"):
        folder = root / "train" / scan.split("_")[0] / scan / "scans"
        folder.mkdir(parents=True)
        for number in (1, 2, 3):
            image = np.random.default_rng(number).integers(0, 999, (20, 24), np.uint16)
            cv2.imwrite(str(folder / f"slice_{number:04d}_24_20_1.50_1.50.png"), image)
            lines += [(f"{scan}_slice_{number:04d}", organ, "1 9" * (number > 1)) for organ in contest.ORGANS]
    pd.DataFrame(lines, columns=["id", "class", "segmentation"]).to_csv(root / "train.csv", index=False)
    return root


LATER = pd.DataFrame({"case": [8, 9], "day": [4, 0], "scan": ["case8_day4", "case9_day0"]})


def test_known_are_the_training_scans_of_the_test_cases_without_the_suspects(trained):
    faults = Faults()
    assert set(rescue.read_known(trained, LATER, faults)["scan"]) == {"case8_day0"}
    known = rescue.read_known(trained, LATER.assign(case=7), faults)
    assert set(known["scan"]) == {"case7_day5"}  # the hosts exclude case7_day0
    assert known["large_bowel"].tolist() == ["", "1 9", "1 9"]
    assert not len(rescue.read_known(trained, LATER.iloc[:0], faults))


def spoil_train(root, how):
    """Break a training set; return a word of the fault that is listed, or None where none is."""
    if how == "no folder":
        shutil.rmtree(root)
        return "train.csv"
    if how == "no images":
        shutil.rmtree(root / "train")
        return "has no images"
    if how == "no table":
        (root / "train.csv").unlink()
        return "train.csv"
    if how == "no csv":
        (root / "train.csv").write_bytes(b"\xff\xfe\x00nonsense")
        return "train.csv"
    if how == "one image less":
        next((root / "train/case8/case8_day0/scans").iterdir()).unlink()
        return "1 problems in the training set"
    (root / "train.csv").write_text("id,class,segmentation\n", encoding="utf-8")
    return "has no row in train.csv"


@pytest.mark.parametrize("how", ["no folder", "no images", "no table", "no csv", "one image less", "no rows"])
def test_a_broken_training_set_is_listed_and_costs_no_scan(trained, how):
    word = spoil_train(trained, how)
    faults = Faults(strict=False)
    known = rescue.read_known(trained, LATER, faults)
    assert len(faults) == 1
    assert word in str(faults)
    assert earlier.days(LATER, known) == ({"case8_day4": "case8_day0"} if how == "one image less" else {})
    with pytest.raises((ValueError, OSError)):
        rescue.read_known(trained, LATER, Faults())


def test_untouched_test_set_meets_no_fault(pristine, tmp_path):
    rows, slices, sample = whole(pristine, tmp_path / "a.csv")
    faults, *_ = submit(pristine, tmp_path / "b.csv", strict=False)
    assert len(faults) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert submission.check(tmp_path / "a.csv", slices, sample) == []
    assert (rows["predicted"] != "").any()


def test_public_competition_gives_a_header(pristine, tmp_path):
    (tmp_path / "sample_submission.csv").write_text("id,class,predicted\n", encoding="utf-8")
    faults, slices, _ = submit(tmp_path, tmp_path / "submission.csv", strict=True)
    assert (tmp_path / "submission.csv").read_text(encoding="utf-8") == "id,class,predicted\n"
    assert (len(faults), len(slices)) == (0, 0)


def test_a_broken_slice_is_filled_and_the_others_scans_stay(pristine, root, tmp_path):
    wanted, slices, sample = whole(pristine, tmp_path / "a.csv")
    path = pictures(root)[1]
    path.write_bytes(path.read_bytes()[:-200])
    faults, *_ = submit(root, tmp_path / "b.csv", strict=False)
    found = submission.read(tmp_path / "b.csv")
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    same = (found == wanted).all(axis=1)
    scan = path.parent.parent.name
    assert same[~found["id"].str.startswith(scan)].all()
    assert str(path) in str(faults)
    assert "Truncated" in str(faults)


def test_a_missing_slice_is_filled_and_a_missing_scan_stays_empty(pristine, root, tmp_path):
    _, slices, sample = whole(pristine, tmp_path / "a.csv")
    gone = pictures(root)[1]
    gone.unlink()
    other = next(folder for folder in sorted((root / "test").glob("case*/*")) if folder != gone.parent.parent)
    shutil.rmtree(other / "scans")
    faults, *_ = submit(root, tmp_path / "b.csv", strict=False)
    found = submission.read(tmp_path / "b.csv")
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    assert (found.loc[found["id"].str.startswith(other.name), "predicted"] == "").all()
    filled = found["id"].str.startswith(f"{gone.parent.parent.name}_slice_0002")
    assert (found.loc[filled, "predicted"] != "").any()
    assert "left empty" in str(faults)
    assert "filled" in str(faults)


def test_a_test_folder_that_is_missing_leaves_all_rows_empty(root, tmp_path):
    shutil.rmtree(root / "test")
    faults, slices, sample = submit(root, tmp_path / "b.csv", strict=False)
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    assert (submission.read(tmp_path / "b.csv")["predicted"] == "").all()
    assert len(faults) == sample["id"].str.rsplit("_slice_", n=1).str[0].nunique()


def test_a_folder_that_cannot_be_read_costs_its_own_scan(root, tmp_path, monkeypatch):
    shut, scandir = pictures(root)[0].parent, os.scandir

    def refuse(folder):
        if Path(folder) == shut:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(scans.os, "scandir", refuse)
    faults, slices, sample = submit(root, tmp_path / "b.csv", strict=False)
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    assert shut.parent.name not in set(slices["scan"])
    assert len(slices)
    assert f"{shut}: cannot be read: Permission denied" in str(faults)
    with pytest.raises(ValueError, match="cannot be read"):
        submit(root, tmp_path / "c.csv", strict=True)


def test_a_slice_of_another_size_gets_masks_of_its_own_size(root, tmp_path):
    path = pictures(root)[1]
    picture = cv2.resize(inputs.read_picture(path), (50, 40))
    path.unlink()
    cv2.imwrite(str(path.with_name("slice_0002_50_40_1.50_1.50.png")), picture)
    faults, slices, sample = submit(root, tmp_path / "b.csv", strict=False)
    assert set(zip(slices["height"], slices["width"], strict=True)) >= {(40, 50)}
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    rows = submission.read(tmp_path / "b.csv")
    assert (rows.loc[rows["id"] == slices.loc[slices["height"] == 40, "id"].item(), "predicted"] != "").any()
    assert "40x50" in str(faults)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 5000 * 1024),
        ({"memory.max": "max", "memory.current": "7", "memory.stat": "active_file 1\ninactive_file 2"}, 5000 * 1024),
        ({"memory.max": "9000", "memory.current": "7000", "memory.stat": "active_file 1\ninactive_file 2"}, 2003),
        ({"memory.max": "9000", "memory.current": "9900", "memory.stat": "active_file 1\ninactive_file 2"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "9000",
                "memory/memory.usage_in_bytes": "4000",
                "memory/memory.stat": "active_file 0\ntotal_active_file 1\ntotal_inactive_file 2",
            },
            5003,
        ),
    ],
    ids=["no container", "no limit", "version 2", "used up", "version 1"],
)
def test_memory_left_is_the_smaller_of_system_and_container(tmp_path, files, left):
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\nHugePages_Total: 0"} | {
        f"sys/fs/cgroup/{name}": text for name, text in files.items()
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    assert rescue.memory_left(tmp_path) == left
    assert rescue.memory_left(tmp_path / "elsewhere") is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory when asked")
def test_freed_memory_between_used_blocks_goes_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytearray(b"x" * 2**16) for _ in range(3200)]
    kept = blocks[::40]  # without them the C library gives all back by itself
    del blocks
    before = resident()
    rescue.return_memory()
    assert before - resident() > 150 * 2**20
    assert len(kept) == 80


def test_a_name_that_lies_about_the_size_is_believed(root, tmp_path):
    path = pictures(root)[1]
    cv2.imwrite(str(path), cv2.resize(inputs.read_picture(path), (50, 40)))
    faults, slices, sample = submit(root, tmp_path / "b.csv", strict=False)
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    assert "its name says" in str(faults)


def test_a_scan_of_one_slice_and_one_of_a_single_grey_are_predicted(root, tmp_path):
    first, *others = pictures(root)[:3]
    for path in others:
        path.unlink()
    cv2.imwrite(str(pictures(root)[1]), np.full((47, 61), 7, np.uint16))
    sample = pd.read_csv(root / "sample_submission.csv", keep_default_na=False)
    kept = ~sample["id"].isin([f"{first.parent.parent.name}_slice_000{number}" for number in (2, 3)])
    sample[kept].to_csv(root / "sample_submission.csv", index=False)
    _, slices, sample = submit(root, tmp_path / "b.csv", strict=True)
    assert slices.groupby("scan").size().min() == 1
    assert submission.check(tmp_path / "b.csv", slices, sample) == []


def test_eight_bit_and_coloured_pictures_are_faults(root, tmp_path):
    first, second, *_ = pictures(root)
    cv2.imwrite(str(first), np.full((47, 61), 7, np.uint8))
    cv2.imwrite(str(second), np.full((47, 61, 3), 7, np.uint8))
    faults, slices, sample = submit(root, tmp_path / "b.csv", strict=False)
    assert submission.check(tmp_path / "b.csv", slices, sample) == []
    assert str(faults).count("16-bit grey") == 2


def test_sample_without_rows_or_file_takes_the_order_of_the_files(root, tmp_path):
    expected = submission.expected_rows(scans.read(root, "test"))
    for text in (None, "", "id,class,predicted\n"):
        (root / "sample_submission.csv").unlink()
        if text is not None:
            (root / "sample_submission.csv").write_text(text, encoding="utf-8")
        faults, _, sample = submit(root, tmp_path / "b.csv", strict=False)
        pd.testing.assert_frame_equal(sample, expected)
        assert len(faults) > 0
        with pytest.raises((ValueError, OSError), match=r"sample_submission\.csv"):
            submit(root, tmp_path / "c.csv", strict=True)
        (root / "sample_submission.csv").write_text("", encoding="utf-8")


def corruptions(root, rng):
    """Change one thing at a time, in every way a copy goes wrong; give what was touched and how to undo it."""
    while True:
        kind = rng.choice(["flip", "flip", "cut", "name", "row", "row", "cut csv"])
        path = rng.choice(pictures(root)) if kind in ("flip", "cut", "name") else root / "sample_submission.csv"
        data, moved = path.read_bytes(), path
        if kind == "name":
            characters = list(path.name)
            characters[rng.randrange(len(characters))] = rng.choice("0123456789_xs.")
            moved = path.with_name("".join(characters))
            if moved.exists():
                continue
            path.rename(moved)
        elif "cut" in kind:
            path.write_bytes(data[: rng.randrange(len(data))])
        else:
            changed = bytearray(data)
            for _ in range(rng.choice([1, 1, 5])):
                changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
            path.write_bytes(bytes(changed))
        yield kind, path, moved
        moved.unlink()
        path.write_bytes(data)


def test_two_hundred_corrupted_test_sets_all_end_valid_and_are_all_reported(pristine, root, tmp_path):
    wanted, true_slices, true_sample = whole(pristine, tmp_path / "a.csv")
    original, rng, tried = submission.read(root / "sample_submission.csv"), random.Random(0), 0
    target = tmp_path / "submission.csv"
    changes = corruptions(root, rng)
    while tried < 200:
        kind, path, moved = next(changes)
        in_csv = path.suffix == ".csv"
        if in_csv and same_rows(path, original):
            continue  # another sign for the end of a line, or half of the last one: nothing was lost
        tried += 1
        faults, slices, sample = submit(root, target, strict=False)
        what = f"change {tried} ({kind}) of {moved}"
        assert len(faults) > 0, f"{what}: nothing reported"
        order = sample if in_csv else true_sample
        sizes = slices if kind in ("row", "cut csv", "name") else true_slices
        assert submission.check(target, sizes, order) == [], what
        assert (submission.read(target)["predicted"] != "").any(), what
        with pytest.raises((ValueError, OSError)) as raised:
            submit(root, tmp_path / "strict.csv", strict=True)
        named = [path.name, moved.name, f"{path.parent.parent.name}_slice_{path.name[6:10]}"]
        assert any(name in str(raised.value) for name in named), f"{what}: {raised.value}"
    assert submission.read(tmp_path / "a.csv").equals(wanted)


def same_rows(path, original):
    """Tell whether a csv still says the same."""
    try:
        return submission.read(path).equals(original)
    except (OSError, ValueError):
        return False


def test_forty_corrupted_run_folders_cost_one_network(root, tmp_path, monkeypatch):
    folder, rng = tmp_path / "runs", random.Random(1)
    for name in ("a", "b"):
        runs.write_record(folder / name, {"parameters": {}, "input_spec": json.loads(SPEC.to_json())})
        (folder / name / "model.keras").write_bytes(rng.randbytes(500))
        (folder / name / "settings.json").write_text("{}", encoding="utf-8")
    manifest.write(folder)
    monkeypatch.setattr(networks, "load", lambda folder: None)
    monkeypatch.setattr(networks, "Engine", type("Engine", (), {"__init__": lambda *_: None}))
    monkeypatch.setattr(networks.Engine, "__call__", lambda self, images: standin(images), raising=False)
    for number in range(40):
        path = folder / "a" / ("run.json", "model.keras", "settings.json")[number % 3]
        data = path.read_bytes()
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        path.write_bytes(bytes(changed) if number % 2 else data[: rng.randrange(len(data))])
        if path.read_bytes() != data:
            faults = Faults(strict=False)
            choice = runs.choose(folder)
            assert [run.name for run in choice.folders] == (["a", "b"] if path.name == "settings.json" else ["b"])
            assert path in dict(choice.problems)
            slices, sample = rescue.read(root, faults)
            inference.submit(choice.folders, slices, sample, tmp_path / "b.csv", faults=faults, progress=False)
            assert submission.check(tmp_path / "b.csv", slices, sample) == []
        path.write_bytes(data)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.inference.test_rescue import MEMBER, PLAIN, standin
from kitlib.inference import networks as ensemble
from kitlib import inference
from kitlib.inference import rescue
from kitlib import submission
from kitlib.inference.faults import Faults

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
slices, sample = rescue.read(root, Faults())

def child(target, moment):
    calls = 0
    def step(work):
        def stepped(*given, **named):
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            result = work(*given, **named)
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return stepped
    import pandas as pd
    os.replace, pd.DataFrame.to_csv = step(os.replace), step(pd.DataFrame.to_csv)
    run = step(standin)
    member = ensemble.Member("standin", MEMBER.spec, run)
    inference.submit([member], slices, sample, target, settings=PLAIN, progress=False, faults=Faults())

killed = 0
for moment in range(1, 60):
    target = folder / f"{moment}.csv"
    pid = os.fork()
    if not pid:
        child(target, moment)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status):
        break
    killed += 1
    if moment > 3:  # before that, there is no file yet
        problems = submission.check(target, slices, sample)
        assert not problems, (moment, problems)
print(killed, (submission.read(target)["predicted"] != "").any())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killing_the_process_at_any_step_leaves_a_valid_file(pristine, tmp_path):
    command = [sys.executable, "-c", KILLED, str(pristine), str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed, predicted = done.stdout.split()
    assert int(killed) > 15
    assert predicted == "True"


def test_drafts_of_a_killed_process_are_swept_away(pristine, tmp_path):
    draft = tmp_path / ".submission.csv.12345.part"
    draft.write_text("half a li", encoding="utf-8")
    submit(pristine, tmp_path / "submission.csv", strict=True)
    assert not draft.exists()
