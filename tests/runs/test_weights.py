import numpy as np
import pytest

from kitlib import runs


def test_weights_are_stored_for_each_network_and_read_by_its_run(tmp_path):
    found = []
    for name, folds in (("slices", 2), ("volumes", 3)):
        for fold in range(folds):
            runs.write_record(tmp_path / name / f"fold{fold}", {})
            runs.write_probabilities(tmp_path / name / f"fold{fold}", f"case{fold}_day0", np.zeros((1, 1, 1, 3)))
        found.append(runs.HeldOut([runs.read(tmp_path / name / f"fold{fold}") for fold in range(folds)]))
    assert found[0].runs[0].weight == 1
    with pytest.raises(ValueError, match=r"volumes has the weight 0\.0; leave it out"):
        runs.write_weights(found, (1.0, 0.0))
    assert found[0].runs[0].weight == 1
    runs.write_weights(found, (0.7, 0.3))
    assert [run.weight for run in found[0].runs] == [0.35, 0.35]
    assert [run.weight for run in found[1].runs] == pytest.approx([0.1, 0.1, 0.1])
    (tmp_path / "slices" / "fold1" / "weight.json").write_text("-1", encoding="utf-8")
    assert found[0].runs[0].weight == 0.35
    with pytest.raises(ValueError, match=r"weight\.json holds '-1'; expected a positive number"):
        _ = found[0].runs[1].weight
