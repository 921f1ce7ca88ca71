"""Pictures: the palette for every kind of eye, and what each picture shows."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from docs import draw
from kitlib.contest import ORGANS
from kitlib.data import scans as data_scans
from kitlib.eda import areas, intensities
from kitlib.figures import eda, scans, style

# Machado, Oliveira and Fernandes 2009, severity 1: what is left of linear RGB for three kinds of colour blindness.
EYES = {
    "usual": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color) -> np.ndarray:
    """Linear RGB of an sRGB colour."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB."""
    share = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    bent = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * bent[1] - 16, 500 * (bent[0] - bent[1]), 200 * (bent[1] - bent[2])])


def apart(colors, eye) -> float:
    """Smallest CIELAB distance of any two colours, as this eye sees them."""
    seen = [lab(np.array(EYES[eye]) @ linear(color)) for color in colors]
    return min(np.linalg.norm(one - other) for one, other in combinations(seen, 2))


@pytest.fixture(scope="module")
def measured(slices):
    return areas.measure(slices)


def one_scan(slices, measured):
    """The scan with most mask pixels."""
    name = measured.groupby("scan")["large_bowel_px"].sum().idxmax()
    return slices[slices["scan"] == name].reset_index(drop=True)


def drawn_axes(figure: Figure) -> list[Axes]:
    """The axes that are visible."""
    return [axis for axis in figure.axes if axis.axison or axis.images]


def assert_full(figure: Figure) -> None:
    """Every visible axis shows something."""
    assert isinstance(figure, Figure)
    for axis in drawn_axes(figure):
        assert axis.has_data() or axis.texts or axis.collections, axis


@pytest.mark.parametrize("eye", EYES)
def test_organs_look_different_to_every_eye(eye):
    assert apart(style.COLORS.values(), eye) > 30


def test_red_and_green_would_not_look_different_to_every_eye():
    assert apart(["#d62728", "#7f7f2a"], "no green cones") < 30


@pytest.mark.parametrize("organ", ORGANS)
def test_contours_stand_out_on_dark_slices_and_white_paper(organ):
    luminance = linear(style.COLORS[organ]) @ TO_XYZ[1]
    assert (luminance + 0.05) / 0.05 > 3
    assert 1.05 / (luminance + 0.05) > 1.9


@pytest.mark.parametrize(
    "picture",
    [
        eda.organs_per_slice,
        eda.cooccurrence,
        eda.bells,
        eda.overlap_areas,
        eda.areas_along,
        eda.stop_lines,
    ],
    ids=lambda picture: picture.__name__,
)
def test_pictures_of_tables_have_no_empty_panel(picture, measured, tmp_path):
    figure = picture(measured)
    assert_full(figure)
    assert style.save(figure, tmp_path / "picture.png").stat().st_size < 200_000


def test_pictures_of_scans_have_no_empty_panel(slices, measured):
    one = one_scan(slices, measured)
    case = int(one["case"].iloc[0])
    for figure in (
        scans.typical_masks(slices, 2),
        scans.overlapping_masks(slices, 2),
        scans.contact_sheet(one, columns=3, rows=2),
        scans.planes(one),
        scans.days(slices, case),
        eda.case_over_days(measured, case),
        eda.intensities(intensities.sample(slices, 3)),
    ):
        assert_full(figure)


def test_bells_name_the_peaks_of_the_table(measured):
    titles = [axis.get_title("left") for axis in eda.bells(measured).axes]
    assert len(titles) == len(ORGANS)
    for title in titles:
        organ = title.split(":")[0].replace(" ", "_")
        counts = measured.loc[measured[f"{organ}_px"] > 0, "slice"].value_counts()
        assert f"({counts.max()} masks)" in title


def test_cooccurrence_writes_every_count(measured):
    texts = {text.get_text() for text in eda.cooccurrence(measured).axes[0].texts}
    both = ((measured["large_bowel_px"] > 0) & (measured["small_bowel_px"] > 0)).sum()
    assert f"{both:,}" in texts


def test_planes_keep_millimetres_and_put_the_head_up(slices, measured):
    one = one_scan(slices, measured)
    axial, coronal, sagittal = scans.planes(one).axes
    for axis in (axial, coronal, sagittal):
        assert axis.get_aspect() == 1
    assert coronal.get_xlim() == axial.get_xlim()
    assert coronal.get_ylim() == sagittal.get_ylim() == (len(one) * 3.0, 0.0)
    assert axial.get_ylim()[0] == sagittal.get_xlim()[1]
    assert axial.figure.get_suptitle().startswith(one["scan"].iloc[0])
    assert axial.figure._suptitle.get_color() == style.INK
    letters = [[text.get_text() for text in axis.texts[:4]] for axis in (axial, coronal, sagittal)]
    assert letters == [list("RLAP"), list("RLHF"), list("APHF")]


def test_a_contour_lies_on_its_mask():
    mask = np.zeros((20, 30, 3), bool)
    mask[5:9, 10:21, 1] = True
    axis = style.canvas(2)[1][0, 0]
    style.overlay(axis, np.zeros((20, 30)), mask)
    (contour,) = [drawn for drawn in axis.collections if len(drawn.get_paths())]
    left, top, right, bottom = contour.get_paths()[0].get_extents().extents
    assert (left, right, top, bottom) == pytest.approx((9.5, 20.5, 4.5, 8.5))
    assert to_rgb(contour.get_edgecolor()[0][:3]) == pytest.approx(to_rgb(style.COLORS["small_bowel"]))


def test_masks_decode_in_the_order_of_the_organs(slices, measured):
    one = one_scan(slices, measured)
    counts = data_scans.masks(one).sum(axis=(0, 1, 2))
    rows = measured[measured["scan"] == one["scan"].iloc[0]]
    assert counts.tolist() == [rows[f"{organ}_px"].sum() for organ in ORGANS]


def test_the_look_leaves_the_notebook_as_it_was(measured):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    eda.bells(measured)
    assert dict(plt.rcParams) == before
    assert not plt.get_fignums()


def test_saved_pictures_keep_the_organ_colours(tmp_path):
    figure, axes = style.canvas(2)
    axes[0, 0].imshow(np.random.default_rng(0).random((90, 400)), cmap="gray")
    style.organ_legend(figure)
    with Image.open(style.save(figure, tmp_path / "a.png")) as picture:
        pixels = np.array(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for color in style.COLORS.values():
        wanted = np.array(to_rgb(color)) * 255
        assert np.abs(pixels - wanted).sum(axis=1).min() < 12


def test_readme_pictures_are_small_and_refuse_data_of_patients(competition, tmp_path):
    paths = draw.draw(competition, tmp_path / "pictures")
    assert len(paths) == 6
    assert all(path.stat().st_size < 200_000 for path in paths)
    (tmp_path / "train.csv").write_text("id,class,segmentation\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a phantom"):
        draw.draw(tmp_path, tmp_path / "pictures")


def test_data_without_overlaps_get_a_sentence(slices):
    none = slices.assign(small_bowel="", stomach="")
    (axis,) = scans.overlapping_masks(none).axes
    assert "No two masks" in axis.texts[0].get_text()


def test_a_case_with_a_single_scan_is_drawn(slices, measured):
    scans_of = slices.groupby("case")["scan"].nunique()
    case = int(scans_of.idxmin())
    assert_full(eda.case_over_days(measured, case))


def test_only_a_page_of_synthetic_slices_is_photographed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html></html>", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.html does not say that its slices are synthetic"):
        draw.photograph(page, tmp_path / "viewer.png")
    assert not (tmp_path / "viewer.png").exists()
