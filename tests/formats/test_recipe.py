"""Recipes: what is read, how each mistake is told, and that nothing hostile is built."""

import contextlib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from exporter.errors import RecipeError
from exporter.recipe import Decoding, Gate, Recipe, TargetSpec, read

BAD = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
GOOD = """\
# kept as it is
name: speech
checkpoint: ../model
targets:
  - kind: onnx-int8
    preset: avx2
    exclude: [lm_head]
  - {kind: onnx-int8, name: small}
decoding: {language: no, num_beams: 3}
"""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bits: int = 8


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["avx512", "avx2"] = "avx512"
    exclude: tuple[str, ...] = ()
    int8: Inner = Inner()


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaints(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(path, overrides)
    return str(caught.value).splitlines()


@pytest.fixture
def good(tmp_path: Path) -> Recipe:
    return read(write(tmp_path, GOOD))


def test_a_recipe_is_read_with_its_defaults(good: Recipe) -> None:
    assert good.name == "speech"
    assert good.checkpoint == "../model"
    assert good.targets[0] == TargetSpec(kind="onnx-int8", preset="avx2", exclude=["lm_head"])
    assert [target.name for target in good.targets] == ["onnx-int8", "small"]
    assert good.targets[1].options == {}
    assert good.decoding == Decoding(language="no", num_beams=3)  # YAML 1.2: Norwegian, not false
    assert good.gate == Gate()
    assert good.data is None
    assert good.text == GOOD
    assert len(good.sha256) == 64


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_each_mistake_is_told_at_its_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    told = complaints(path)
    assert len(told) == len(expected) <= 3
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(f"{path}:{start}".replace("::", ":"))


def test_a_missing_recipe(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert complaints(path) == [f"{path}: cannot read the recipe: No such file or directory"]
    assert complaints(tmp_path) == [f"{tmp_path}: cannot read the recipe: Is a directory"]


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"name: \xff\n", "not UTF-8 text (byte 6)"),
        (b"name: \x00\n", "unacceptable character"),
        (b"#" * (256 * 1024 + 1), "larger than 262144 bytes: not a recipe"),
        (b"[" * 100_000, "nested more than 20 levels deep"),
        (b"name: " + b"9" * 5000, "digits"),
        (b"name: 2026-13-45", "put it in quotes"),
        (b"%YAML 1.3\n---\nname: x", "version minor part can only be 2 or 1"),
    ],
)
def test_hostile_bytes_are_refused_quickly(tmp_path: Path, raw: bytes, part: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(raw)
    (line,) = complaints(path)
    assert part in line


def test_overrides_keep_the_order_of_patterns(tmp_path: Path) -> None:
    """The first pattern that matches a module counts, in the recipe that is sealed too."""
    path = tmp_path / "recipe.yaml"
    patterns = {"*.z": "float", "*.b.*": "float", "*": "dynamic-int8"}
    lines = "".join(f"    '{key}': {value}\n" for key, value in patterns.items())
    path.write_text(
        "name: a\ncheckpoint: b\ntargets: [{kind: torch-int8}]\n"
        f"quantization:\n  modules:\n{lines}"
    )
    sealed = tmp_path / "sealed.yaml"
    sealed.write_text(read(path, ["name=c"]).text)
    again = read(sealed).quantization
    assert again is not None
    assert list(again.modules) == list(patterns)


def test_overrides_reach_lists_and_make_mappings(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    sets = ["targets.0.preset=avx512", "gate.min_clips=7", "decoding.language=", "name=other"]
    recipe = read(path, sets)
    assert recipe.targets[0].options["preset"] == "avx512"
    assert recipe.gate.min_clips == 7
    assert recipe.decoding.language is None
    assert recipe.overrides == tuple(sets)
    assert recipe.text != GOOD
    again = read(write(tmp_path, recipe.text))
    assert again.model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("decoding.num_beam=5", "--set decoding.num_beam: unknown key; did you mean `num_beams`?"),
        ("gate={min_clips: x}", "--set gate: min_clips: expected a whole number, got the text 'x'"),
        ("targets.2.preset=x", "--set targets.2.preset: `targets` has items 0 to 1"),
        ("name.x=1", "--set name.x: `name` is neither a mapping nor a list"),
        ("name", "--set name: write KEY=VALUE, like --set decoding.num_beams=5"),
        ("a..b=1", "--set a..b=1: write KEY=VALUE, like --set decoding.num_beams=5"),
        ("name=!x y", "--set name:1:1: tags are not allowed: remove !x"),
        ("name=[", "--set name:1:2: "),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, told: str) -> None:
    (line,) = complaints(write(tmp_path, GOOD), override)
    assert line.startswith(told)


def test_target_options_are_checked_at_their_lines(tmp_path: Path) -> None:
    recipe = read(write(tmp_path, GOOD))
    assert recipe.options(0, Options) == Options(preset="avx2", exclude=("lm_head",))
    assert recipe.options(1, Options) == Options()

    text = GOOD.replace("preset: avx2", "preset: avx3\n    int8: {bit: 4}\n    prset: avx2")
    recipe = read(write(tmp_path, text))
    with pytest.raises(RecipeError) as caught:
        recipe.options(0, Options)
    place = recipe.path
    assert str(caught.value).splitlines() == [
        f"{place}:6:13: targets.0.preset: expected 'avx512' or 'avx2', got the text 'avx3'; "
        "did you mean 'avx2'?",
        f"{place}:7:12: targets.0.int8.bit: unknown key; did you mean `bits`?",
        f"{place}:8:5: targets.0.prset: unknown key; did you mean `preset`?",
    ]


def test_an_error_of_a_higher_floor_cites_the_line(good: Recipe) -> None:
    error = good.error(("targets", 1, "kind"), "unknown target")
    assert str(error) == f"{good.path}:8:12: targets.1.kind: unknown target"
    absent = good.error(("gate", "min_clips"), "too few")
    assert str(absent) == f"{good.path}:2:1: gate.min_clips: too few"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
keys = st.sampled_from(sorted(Recipe.model_fields))


@given(values=st.dictionaries(keys, plain))
def test_any_data_is_a_recipe_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    from ruamel.yaml import YAML

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    YAML(typ="safe", pure=True).dump(values, path)
    _read_or_refuse(path)


@given(raw=st.binary(max_size=200) | st.text("[]{}:,-&*!|>'\"#%@` \nab0", max_size=60))
def test_any_bytes_are_a_recipe_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    _read_or_refuse(path)


def _read_or_refuse(path: Path) -> None:
    with contextlib.suppress(RecipeError):
        read(path)
