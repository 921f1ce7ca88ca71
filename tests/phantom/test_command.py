"""The command `python -m phantom`."""

import numpy as np
import pytest

from phantom import __main__ as command
from phantom import files


def test_command_line_writes_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, "render", lambda scan: (np.zeros((1, 5, 5), np.uint16), np.zeros((1, 5, 5, 3), bool)))
    assert command.main([str(tmp_path / "p"), "--cases", "2", "--days", "1", "--processes", "1"]) == 0
    assert "not data of patients" in capsys.readouterr().out
    assert command.main([str(tmp_path), "--cases", "2"]) == 2
    assert "not a phantom" in capsys.readouterr().err
    assert command.main([str(tmp_path / "q"), "--faults", "-1"]) == 2
    assert "faults=-1" in capsys.readouterr().err
    assert command.main([str(tmp_path / "nosuch"), "--report"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_several_folders_are_for_the_report_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "2 folders" in capsys.readouterr().err
