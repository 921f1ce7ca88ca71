"""Text files are UTF-8 on every machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kitlib", "phantom", "notebooks", "kaggle", "benchmarks", "docs", "tests")
SCRIPTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def unsaid(source: str) -> list[int]:
    """The lines that open a text file without naming its encoding."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or {"encoding", None} & {keyword.arg for keyword in call.keywords}:
            continue
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if method else getattr(call.func, "id", "")
        if method and len(call.args) == {"read_text": 0, "write_text": 1}.get(name):
            lines.append(call.lineno)
        elif name == "open":
            modes = call.args[0 if method else 1 :] + [word.value for word in call.keywords if word.arg == "mode"]
            texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
            of_a_path = not method or bool(texts) or not call.args  # Image.open(file) opens no text
            if of_a_path and not any("b" in text for text in texts):
                lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_are_opened_as_utf_8(path):
    assert not unsaid(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", ["open('a')", "path.open('w')", "path.read_text()", "path.write_text('x')"])
def test_an_encoding_left_out_is_found(line):
    assert unsaid(line) == [1]


@pytest.mark.parametrize("line", ["open('a', 'rb')", "path.open(mode='wb')", "path.read_text(encoding='utf-8')"])
def test_bytes_and_named_encodings_pass(line):
    assert not unsaid(line)
