"""The score viewer: what the page holds, and what it does in a real browser."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kitlib import postprocess, rle
from kitlib.contest import ORGANS
from kitlib.data import scans
from kitlib.figures import __main__ as command
from kitlib.figures import viewer
from kitlib.postprocess import intervals, rescoring
from kitlib.scoring import host, ledger
from phantom import standin

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def prediction(slices):
    """Rows of a stand-in for a network."""
    return rescoring.rows(standin.StandIn(slices, 48, 48), slices, postprocess.DEFAULT)


@pytest.fixture(scope="module")
def points(slices, prediction):
    return ledger.measure(scans.rows(slices), prediction, slices)


@pytest.fixture(scope="module")
def path(slices, prediction, points, tmp_path_factory):
    """The page of all training scans, with a presence of its own for each slice."""
    presence = standin.StandIn(slices, 48, 48)
    target = tmp_path_factory.mktemp("viewer") / "a folder" / "page.html"
    options = {"points": points, "presence": lambda scan: intervals.presence(presence(scan)), "name": "a <b> & c"}
    return viewer.write(target, scans.rows(slices), prediction, slices, **options)


def blocks(path) -> dict:
    """The JSON in a page, by the id of its element."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(data) for name, data in found}


def masks_of(rows, slices, scan) -> np.ndarray:
    return scans.masks(scans.with_masks(slices[slices["scan"] == scan], rows))


def test_scans_are_ranked_by_lost_points_which_sum_to_the_loss(path, slices, points):
    page = blocks(path)["page"]
    lost = [scan["lost"] for scan in page["scans"]]
    assert lost == sorted(lost, reverse=True)
    assert sum(lost) == pytest.approx(1 - page["score"])
    assert sum(sum(values) for _, values in page["points"]) == pytest.approx(1 - points.score)
    sums = [sum(values) for _, values in page["points"]]
    assert sums == sorted(sums, reverse=True)
    found = {(ledger.CLASSES[e], organ): v for e, row in page["points"] for organ, v in zip(ORGANS, row, strict=True)}
    for row in points.table.itertuples():
        assert found.pop((row.error, row.organ)) == pytest.approx(row.points)
    assert not any(found.values())
    assert {scan["name"] for scan in page["scans"]} == set(slices["scan"])


def test_each_scan_holds_its_masks_errors_and_pictures(path, slices, prediction):
    data = blocks(path)
    for number, ranked in enumerate(data["page"]["scans"]):
        scan, rows = data[f"scan-{number}"], slices[slices["scan"] == ranked["name"]]
        assert scan["name"] == ranked["name"]
        assert scan["numbers"] == rows["slice"].tolist()
        assert len(scan["images"]) == len(rows)
        truth, masks = masks_of(scans.rows(slices), slices, scan["name"]), masks_of(prediction, slices, scan["name"])
        for z, k in np.ndindex(len(rows), len(ORGANS)):
            wrong = [rle.decode(text, truth.shape[1:3]) for text in scan["errors"][z][k].values()]
            wrong = np.sum(wrong, axis=0) if wrong else np.zeros(truth.shape[1:3], int)
            np.testing.assert_array_equal(wrong, truth[z, ..., k] ^ masks[z, ..., k])
        for k in range(len(ORGANS)):
            assert scan["organs"][k]["lost"] >= -1e-9
            if scan["organs"][k]["pair"]:
                pair = host.farthest(truth[..., k], masks[..., k])
                assert scan["organs"][k]["pair"]["voxels"] == [list(pair.source), list(pair.target)]
                assert scan["organs"][k]["distance"] == pytest.approx(pair.distance)


def test_only_the_worst_scans_are_kept(slices, prediction, points, tmp_path):
    page = viewer.write(tmp_path / "p.html", scans.rows(slices), prediction, slices, points=points, most=2)
    data = blocks(page)
    assert sorted(data) == ["page", "scan-0", "scan-1"]
    assert data["page"]["all"] == slices["scan"].nunique()


def test_pictures_of_the_competition_are_marked_as_private(path, slices, prediction, points, tmp_path):
    assert "synthetic" in blocks(path)["page"]["notice"]
    root = tmp_path / "real"
    moved = slices.assign(path=[str(root / "train" / "/".join(p.split("/")[-4:])) for p in slices["path"]])
    for old, new in zip(slices["path"], moved["path"], strict=True):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(old, new)
    page = viewer.write(tmp_path / "p.html", scans.rows(slices), prediction, moved, points=points, most=1)
    assert "rules forbid to share" in blocks(page)["page"]["notice"]


def test_a_perfect_prediction_has_a_page_too(slices, tmp_path):
    rows = scans.rows(slices)
    data = blocks(viewer.write(tmp_path / "p.html", rows, rows, slices, most=1))
    assert data["page"]["score"] == pytest.approx(1)
    assert data["page"]["points"] == []


def test_command_writes_the_page_of_a_run_and_names_what_is_missing(
    competition, slices, tmp_path, finished_run, capsys
):
    scan = slices["scan"].iloc[0]
    finished_run(tmp_path / "run", scan, int((slices["scan"] == scan).sum()), 0.5)
    assert command.main([str(tmp_path / "run"), str(competition), "--viewer"]) == 0
    page = tmp_path / "run" / "figures" / "viewer.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert [one["name"] for one in blocks(page)["page"]["scans"]] == [scan]
    shutil.rmtree(tmp_path / "run" / "oof")
    assert command.main([str(tmp_path / "run"), str(competition), "--viewer"]) == 2
    assert "has no scan of this data" in capsys.readouterr().err


def test_command_writes_the_page_of_a_submission(competition, tmp_path, capsys):
    truth = pd.read_csv(competition / "truth.csv", keep_default_na=False, encoding="utf-8")
    file = tmp_path / "submission.csv"
    truth.rename(columns={"segmentation": "predicted"}).to_csv(file, index=False, encoding="utf-8")
    assert command.main([str(file), str(competition), "--viewer", "--scans", "1"]) == 0
    assert blocks(tmp_path / "submission-viewer.html")["page"]["score"] == pytest.approx(1)
    assert command.main([str(file), str(competition), "--viewer", "--truth", str(tmp_path / "no.csv")]) == 2
    assert "no.csv does not exist; name the masks" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, path):
    """Open the page from disk and wait for all pictures; errors in it fail the test."""
    contexts, errors = [], []

    def open_page(file=path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-state=complete]", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def wait_until(page, condition: str) -> None:
    """Wait for a condition; the page's own policy forbids Playwright's `wait_for_function`."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise TimeoutError(condition)


def shown(page, name="axial") -> str:
    """The picture of a plane, after the next frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(f"document.getElementById('{name}').toDataURL()")


def test_page_opens_from_disk_and_asks_for_nothing(opened, path, slices):
    page = opened()
    assert [url for url in page.requests if not url.startswith("data:")] == [path.as_uri()]
    assert "a <b> & c: host score" in page.inner_text("#summary")
    assert page.locator("#scans button").count() == slices["scan"].nunique()
    assert page.evaluate("+document.documentElement.dataset.milliseconds") < 10_000
    assert page.evaluate("state.scan.grey.some((value) => value > 100)")


def test_slices_are_walked_by_keys_wheel_slider_and_swipe(opened):
    page = opened()
    last = page.evaluate("state.scan.shape[0]") - 1
    steps = [("Home", 0), ("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("ArrowUp", 0), ("ArrowUp", 0)]
    for key, expected in [*steps, ("End", last), ("PageUp", max(0, last - 10)), ("PageDown", last), ("Home", 0)]:
        page.keyboard.press(key)
        assert page.evaluate("state.z") == expected, key
        assert page.input_value("#slice") == str(expected)
    first = shown(page)
    page.hover("#axial")
    scrolled = page.evaluate("window.scrollY")
    page.mouse.wheel(0, 100)
    wait_until(page, "state.z === 1")
    assert shown(page) != first
    assert page.evaluate("window.scrollY") == scrolled
    page.focus("#slice")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.z") == 2
    page.evaluate("""() => {
        const send = (type, clientX) => $("axial").dispatchEvent(
            new PointerEvent(type, { clientX, clientY: 50, pointerType: "touch", bubbles: true }));
        send("pointerdown", 50); send("pointermove", 82); send("pointerup", 82);
    }""")
    assert page.evaluate("state.z") == 5


def test_outlines_errors_and_organs_can_be_switched(opened):
    page = opened()
    pictures = [shown(page)]
    for key in "tpez":
        page.keyboard.press(key)
        pictures.append(shown(page))
    assert len(set(pictures)) == 5
    assert [page.is_checked(f"#{name}") for name in ("truth", "prediction", "errors", "zoom")] == [
        False,
        False,
        False,
        True,
    ]
    page.check("#truth")
    with_all = shown(page)
    page.select_option("#organ", "2")
    assert shown(page) != with_all
    assert "large bowel" not in page.inner_text("#here")


def test_errors_are_filled_at_the_start_and_in_the_legend_while_they_are(opened):
    page = opened()
    assert page.is_checked("#errors")
    assert page.inner_text("#legend-errors").split() == ["missed", "predicted", "too", "much"]
    page.keyboard.press("e")
    assert not page.is_visible("#legend-errors")


def test_letters_are_heard_from_every_control_and_arrows_belong_to_it(opened):
    page = opened()
    for number, control in enumerate(["#organ", "#error", "#truth", "#slice", "#next-error"]):
        page.focus(control)
        page.keyboard.press("z")
        assert page.is_checked("#zoom") == (number % 2 == 0), control
    page.focus("#organ")
    z = page.evaluate("state.z")
    page.keyboard.press("ArrowDown")
    assert (page.input_value("#organ"), page.evaluate("state.z")) == ("0", z)
    page.keyboard.press("Home")
    page.focus("#slice")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("state.z") == 1
    page.evaluate("document.body.append(document.createElement('textarea'))")
    page.focus("textarea")
    page.keyboard.type("z")
    assert page.input_value("textarea") == "z"
    assert page.is_checked("#zoom")


def test_number_of_the_slice_stands_once_unless_slices_are_missing(opened, slices):
    page = opened()
    for index in range(page.locator("#scans button").count()):
        page.locator("#scans button").nth(index).click()
        wait_until(page, f"state.index === {index}")
        numbers = slices.loc[slices["scan"] == page.evaluate("state.scan.name"), "slice"].tolist()
        for z in (0, len(numbers) - 1):
            page.evaluate(f"goTo({z})")
            place = f"{z + 1} of {len(numbers)}"
            assert page.inner_text("#number") == (place if numbers[z] == z + 1 else f"{numbers[z]} ({place})")


def test_worst_slice_honours_both_filters(opened, slices, prediction):
    page = opened()
    name = page.evaluate("state.scan.name")
    truth, masks = masks_of(scans.rows(slices), slices, name), masks_of(prediction, slices, name)
    errors = ledger.errors(truth, masks)
    pixels = np.maximum((truth.sum((1, 2)) + masks.sum((1, 2))), 1)
    assert page.inner_text("#worst-slice") == "Worst slice W"
    assert page.inner_text("#next-error") == "Next slice with an error N"
    for organ in ["", "0", "1", "2"]:
        page.select_option("#organ", organ)
        for kind in [0, *np.unique(errors[errors > 0]).tolist()]:
            page.select_option("#error", str(kind or ""))
            counts = ((errors == kind) if kind else errors > 0).sum((1, 2))
            columns = [int(organ)] if organ else [0, 1, 2]
            costs = (counts / pixels)[:, columns].sum(axis=1) + 1e-6 * counts[:, columns].sum(axis=1)
            assert page.is_disabled("#worst-slice") == (not costs.any())
            page.keyboard.press("Home")
            page.keyboard.press("w")
            if costs.any():
                assert costs[page.evaluate("state.z")] == pytest.approx(costs.max())
    assert page.inner_text("#worst-slice") == "Worst slice for this error W"
    assert page.inner_text("#next-error") == "Next slice with this error N"


def test_voxels_are_drawn_on_their_own_slices_only_and_explained(opened):
    page = opened()
    assert page.inner_text("#legend-marks") == ""
    for name in ("truth", "prediction", "errors"):
        page.uncheck(f"#{name}")
    plain = []
    for z in range(page.evaluate("state.scan.shape[0]")):
        page.evaluate(f"goTo({z})")
        plain.append(shown(page))
    page.keyboard.press("v")
    places = [place for place, _, _ in page.evaluate("state.marks")]
    numbers = page.evaluate("state.marks.map(([z]) => state.scan.numbers[z])")
    legend = page.inner_text("#legend-marks")
    assert re.findall(r"slice (\d+)", legend) == [str(number) for number in numbers]
    assert "farthest voxel of" in legend
    for z, before in enumerate(plain):
        page.evaluate(f"goTo({z})")
        assert (shown(page) != before) == (z in places), z


def test_errors_of_all_scans_name_the_organ_and_set_the_filter(opened, points):
    page = opened()
    rows = page.locator("#ledger tbody tr")
    wide = points.table.pivot_table("points", "error", "organ", "sum", fill_value=0.0)
    for text in rows.all_inner_texts():
        error, cost, most = (part.strip() for part in text.split("\t"))
        assert cost == f"{wide.loc[error].sum():.4f}"
        assert most.split()[-1] == f"{wide.loc[error].max():.4f}"
        assert wide.loc[error, "_".join(most.split()[:-1])] == pytest.approx(wide.loc[error].max())
    for number in range(rows.count()):
        button = rows.nth(number).locator("button")
        button.click()
        assert page.input_value("#error") == button.get_attribute("data-error")
        assert button.get_attribute("aria-pressed") == "true"
        absent = "not in this scan" in page.inner_text("#error option:checked")
        assert absent == (page.evaluate("state.scan.counts[state.z]") == 0)
        assert absent == ("is not in this scan" in page.inner_text("#here"))


def test_words_explain_the_score_and_the_distance(opened):
    page = opened()
    assert "(our estimate of the leaderboard's score; higher is better)" in page.inner_text("#summary")
    assert "Distance (Hausdorff, 0 to 1, lower is better)" in page.inner_text("#distances caption")


def test_on_a_phone_the_filters_are_folded_and_the_picture_is_on_the_first_screen(opened):
    page = opened(viewport={"width": 390, "height": 844})
    assert not page.is_visible("#organ")
    box = page.locator("#axial").bounding_box()
    assert box["y"] < 844 * 0.6
    for name in page.locator("figcaption .name").all():
        assert name.bounding_box()["height"] < 30
    page.locator("#filters summary").click()
    page.select_option("#organ", "2")
    assert page.inner_text("#filters summary") == "Show and filter (organ: stomach; error: all)"
    page.set_viewport_size({"width": 1000, "height": 844})
    assert page.is_visible("#organ")
    assert not page.is_visible("#filters summary")


def test_worst_voxel_is_that_of_the_score(opened, slices, prediction):
    page = opened()
    name = page.evaluate("state.scan.name")
    truth, masks = masks_of(scans.rows(slices), slices, name), masks_of(prediction, slices, name)
    pairs = [
        host.farthest(truth[..., k], masks[..., k]) for k in range(3) if truth[..., k].any() and masks[..., k].any()
    ]
    worst = max(pairs, key=lambda pair: pair.distance)
    page.keyboard.press("v")
    assert page.evaluate("[state.z, state.y, state.x]") == list(worst.source)
    number = slices.loc[slices["scan"] == name, "slice"].iloc[worst.source[0]]
    assert page.inner_text("#number").startswith(f"{number} ")
    page.locator("#distances button[data-end='1']").first.click()
    first = next(k for k in range(3) if truth[..., k].any() and masks[..., k].any())
    expected = host.farthest(truth[..., first], masks[..., first]).target
    assert page.evaluate("[state.z, state.y, state.x]") == list(expected)


def test_errors_of_a_class_are_filtered_and_visited(opened, slices, prediction):
    page = opened()
    button = page.locator("#classes button").first
    kind = int(button.get_attribute("data-error"))
    button.click()
    name = page.evaluate("state.scan.name")
    errors = ledger.errors(masks_of(scans.rows(slices), slices, name), masks_of(prediction, slices, name))
    counts = (errors == kind).sum(axis=(1, 2, 3))
    assert page.is_checked("#errors")
    assert page.evaluate("state.scan.counts") == counts.tolist()
    assert counts[page.evaluate("state.z")] > 0
    row = page.locator("#classes tbody tr").first.inner_text().split("\t")
    assert row[0] == ledger.CLASSES[kind]
    assert row[2:] == [f"{counts.sum():,}", str((counts > 0).sum())]


def test_another_scan_opens_with_its_own_slices(opened):
    page = opened()
    page.keyboard.press(".")
    wait_until(page, "state.index === 1 && document.documentElement.dataset.state === 'complete'")
    assert page.get_attribute("#scans li:nth-child(2) button", "aria-current") == "true"
    page.locator("#scans button").first.click()
    wait_until(page, "state.index === 0")
    page.click("#coronal", position={"x": 20, "y": 10})
    assert page.evaluate("state.z") < page.evaluate("state.scan.shape[0]") / 2
    page.click("#curves", position={"x": 2, "y": 20})
    assert page.evaluate("state.z") == 0


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1300, "dark")])
def test_page_fits_its_window_and_passes_the_accessibility_checks(opened, width, scheme):
    page = opened(viewport={"width": 1000, "height": 800}, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratio = page.evaluate("$('axial').clientWidth / $('axial').clientHeight")
    assert ratio == pytest.approx(page.evaluate("state.scan.shape[2] / state.scan.shape[1]"), rel=0.02)
    axe = importlib.util.find_spec("axe_playwright_python")
    if axe is None:
        pytest.skip("axe-playwright-python, which holds axe-core, is not installed")
    page.evaluate(Path(axe.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((results) => results.violations)")
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in violations] == []
