"""Which tables of a root are measured."""

import shutil

import numpy as np
import pandas as pd
import pytest

from kitlib.data import scans
from phantom.likeness import measures, report


def test_tables_beside_the_pictures_change_no_figure(folder, coarse, tmp_path):
    plain = measures.measure(measures.gather(folder))
    root = shutil.copytree(folder, tmp_path / "p")
    train, test = scans.read(root), scans.read(root, "test")
    masks = pd.concat([scans.rows(train), pd.read_csv(root / "truth.csv", keep_default_na=False)])
    marked = set(masks.loc[masks["segmentation"] != "", "id"])
    index = pd.concat([train, test])[["id", "height", "width"]]
    index.assign(has_mask=index["id"].isin(marked)).to_csv(root / "slices.csv.gz", index=False)
    indexed = measures.measure(measures.gather(root))
    masks.to_csv(root / "masks.csv", index=False)
    apart = measures.measure(measures.gather(root))
    away = {"centroid shift between days, mm", report.GUESS}  # an index tells no spacing, and these scans no grey
    for name, value in plain.items():
        np.testing.assert_allclose(indexed[name], value, err_msg=name)
        if name not in away:
            np.testing.assert_allclose(apart[name], value, err_msg=name)
    assert np.isnan(apart[report.GUESS])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_tables_saved_by_other_programs_are_measured(folder, coarse, tmp_path, encoding):
    root = shutil.copytree(folder, tmp_path / "p")
    for name in ("train.csv", "truth.csv"):
        text = (root / name).read_text(encoding="utf-8").replace(",", ";")
        (root / name).write_text(text, encoding=encoding)
    assert len(measures.gather(root).tallies) == len(measures.gather(folder).tallies)


def test_tables_without_a_scan_are_refused_by_name(tmp_path):
    (tmp_path / "train.csv").write_text("id,class,segmentation\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{tmp_path}: .*no scan"):
        measures.gather(tmp_path)


def test_folder_without_rows_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        measures.gather(tmp_path)
