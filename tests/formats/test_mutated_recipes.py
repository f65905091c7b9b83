"""Thousands of recipes with something wrong: each is valid, or a mistake told at its place."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.errors import RecipeError
from exporter.recipe import read
from exporter.targets import TARGETS

RECIPE = """\
name: my-whisper-int8
checkpoint: org/my-whisper@main
targets:
  - kind: onnx-int8
    quantization: {modules: {"*encoder.*": float}}
  - {kind: aoti, threads: 2, quantization: {modules: {"*.fc2": float}}}
decoding: {language: en, num_beams: 5}
gate: {min_clips: 50}
"""
PIECES = [
    *("!!python/object/apply:os.system [x]", "!x ", "&a ", "*a", "<<: ", "? ", "- ", ": ", "# "),
    *("null", "~", "true", "no", "0", "-1", "1e400", ".nan", "0x" + "f" * 99, "9" * 99, "1_0"),
    *("2026-01-01", "2026-13-45", "12:30:00", "[", "]", "{", "}", "[[[[", "{}", "[]", '"', "'"),
    *(">\n", "|\n", "---\n", "...\n", "%YAML 1.1\n", "\t", "\n", "\r\n", "\0", "\x1b", "\u2028"),
    *(
        "\ufeff",
        "\u043e",
        '"\\ud800"',
        '"\\0"',
        "..",
        "/",
        "\\",
        "a" * 200,
        "kind: ",
        "@",
        "`",
        "''",
    ),
]
TOLD = re.compile(r"any\.yaml:\d+:\d+: \S.*")


def mutated(text: str, source: random.Random) -> str:
    """Change a few places: characters, pieces, words and lines."""
    for _ in range(source.choice([1, 1, 1, 2, 3])):
        how, at = source.randrange(8), source.randrange(len(text) + 1)
        lines = text.splitlines(keepends=True) or [""]
        line = source.randrange(len(lines))
        words = re.findall(r"[\w.-]+", text) or ["x"]
        if how == 0:
            text = text[:at] + text[at + source.randrange(1, 4) :]
        elif how == 1:
            text = text[:at] + source.choice(PIECES) + text[at:]
        elif how == 2:
            text = text.replace(source.choice(words), source.choice(PIECES), 1)
        elif how == 3:
            text = text.replace(source.choice(words), source.choice(words), 1)
        elif how == 4:
            del lines[line]
            text = "".join(lines)
        elif how == 5:
            lines.insert(source.randrange(len(lines) + 1), lines[line])
            text = "".join(lines)
        elif how == 6:
            lines[line] = " " * source.randrange(5) + lines[line].lstrip(" ")
            text = "".join(lines)
        else:
            word = source.choice(words)
            text = text.replace(word, word[::-1], 1)
    return text


def mistakes(path: Path) -> list[str]:
    """Every line of the first error, of the recipe itself or of a target's options."""
    try:
        recipe = read(path)
        for index, target in enumerate(recipe.targets):
            if target.kind in TARGETS:
                recipe.options(index, TARGETS[target.kind].Options)
    except RecipeError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.sweep)])
def test_a_recipe_is_valid_or_its_mistake_has_a_place(
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    source, path = random.Random(count), Path("any.yaml")
    valid, seconds = 0, []
    for _ in range(count):
        text = mutated(RECIPE, source)
        path.write_text(text, encoding="utf-8", newline="")
        start = time.perf_counter()
        told = mistakes(path)
        seconds.append(time.perf_counter() - start)
        valid += not told
        assert len(told) <= 3, text
        for line in told:
            assert TOLD.fullmatch(line), f"{line!r} of {text!r}"
            assert line.isprintable(), repr(line)
    assert count / 20 < valid < count / 2
    record_property("promise", "P17")
    record_property("cases", count)
    p99 = sorted(seconds)[count * 99 // 100]
    record_property("measured", f"{count - valid} mistakes reported, p99 {1000 * p99:.0f} ms")
