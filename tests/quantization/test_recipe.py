"""`quantization` in a recipe: what it means for each target, and every mistake at its line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import recipe
from exporter.build import pipeline as builder
from exporter.build.resolve import Planned, resolve
from exporter.cli import main
from exporter.errors import RecipeError
from exporter.formats.safetensors_header import read_header
from exporter.recognition.load import load
from exporter.system.progress import silent

RECIPE = """\
name: tiny
checkpoint: {checkpoint}
{quantization}
targets:
  - {{kind: onnx-int8, preset: avx2}}
  - {{kind: torch-int8{target}}}
decoding: {{language: en, task: transcribe}}
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tiny_whisper: Path) -> Write:
    """Write a recipe with a `quantization` line, and another for the second target."""

    def call(quantization: str = "", target: str = "") -> Path:
        path = tmp_path / "tiny.yaml"
        told = {"quantization": quantization, "target": target}
        path.write_text(RECIPE.format(checkpoint=tiny_whisper, **told))
        return path

    return call


def planned(path: Path, *overrides: str) -> list[Planned]:
    return resolve(recipe.read(path, overrides), path.parent / "out", None, (), silent)


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        planned(path, *overrides)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value).removeprefix(f"{path}:")


def schemes(one: Planned) -> dict[str, str]:
    return {name: str(scheme) for name, scheme in one.plan.modules.items()}


def test_all_targets_share_the_plan_unless_one_has_its_own(write: Write) -> None:
    shared = "quantization: {modules: {lm_head: float, '*.fc2': {scheme: dynamic-int8, bits: 7}}}"
    onnx, torch = planned(write(shared))
    assert onnx.plan == torch.plan
    assert schemes(onnx)["proj_out"] == "float"
    assert schemes(onnx)["model.encoder.layers.0.fc2"] == "dynamic-int8, bits 7"
    assert schemes(onnx)["model.encoder.layers.0.fc1"] == "dynamic-int8"
    onnx, torch = planned(write(shared, ", quantization: {default: float}"))
    assert set(schemes(torch).values()) == {"float"}, "nothing of the shared plan is left"
    assert schemes(onnx)["proj_out"] == "float"


def test_nothing_said_is_dynamic_int8_of_every_linear_module(write: Write) -> None:
    for quantization in ("", "quantization: {}", "quantization: {default: dynamic-int8}"):
        for one in planned(write(quantization)):
            assert set(schemes(one).values()) == {"dynamic-int8"}
            assert "proj_out" in one.plan.modules


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ("{default: dynamic-int}", "3:25: quantization.default: unknown scheme 'dynamic-int': "),
        ("{default: dynamic-int}", "did you mean dynamic-int8?"),
        ("{default: int3}", "unknown scheme 'int3': known: float, dynamic-int8"),
        ("{modules: {'*.fc2': flaot}}", "3:35: quantization.modules.*.fc2: unknown scheme 'flaot'"),
        ("{default: {scheme: dynamic-int8, bit: 7}}", "3:48: quantization.default.bit: unknown"),
        ("{default: {scheme: dynamic-int8, bit: 7}}", "key; did you mean `bits`?"),
        ("{default: {scheme: dynamic-int8, bits: 4}}", "quantization.default.bits: expected 7 or"),
        ("{default: {scheme: weight-int4, group_size: 48}}", "3:59: quantization.default.group_"),
        ("{default: {scheme: weight-int4, group_size: 48}}", "expected 32, 64 or 128"),
        ("{default: {scheme: weight-int8, bits: 4}}", "3:47: quantization.default.bits: unknown"),
        ("{default: weight-int3}", "unknown scheme 'weight-int3': did you mean weight-int8?"),
        ("{default: {scheme: float, dtype: int8}}", "expected 'float32', 'float16' or 'bfloat16'"),
        ("{modules: {'*.fc3': float}}", "3:26: quantization.modules.*.fc3: '*.fc3' matches no"),
        ("{modules: {'*.fc3': float}}", "the nearest is model.encoder.layers.0.fc"),
        ("{modules: {'*': float, '*.fc2': float}}", "3:38: quantization.modules.*.fc2: earlier"),
    ],
)
def test_a_mistake_is_told_at_its_line(write: Write, quantization: str, message: str) -> None:
    assert message in refusal(write(f"quantization: {quantization}"))


def test_a_pattern_without_quotes_is_no_alias(write: Write) -> None:
    message = refusal(write("quantization: {modules: {*.fc2: float}}"))
    assert message.startswith("3:26: anchors (&) and aliases (*) are not allowed")
    assert "in quotes" in message


def test_a_targets_own_mistake_is_told_there(write: Write) -> None:
    own = ", quantization: {modules: {nothing: float}}"
    assert refusal(write(target=own)).startswith(
        "6:49: targets.1.quantization.modules.nothing: 'nothing' matches no module"
    )
    override = "targets.1.quantization.default=int9"
    assert "--set targets.1.quantization.default: unknown scheme" in refusal(write(), override)


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        ("onnx-int8", "exclude: ['*.fc2']", '{modules: {"*.fc2": float}}'),
        ("onnx-int8", "include_lm_head: false", "{modules: {lm_head: float}}"),
        (
            "onnx-int8",
            "per_channel: false",
            "{default: {scheme: dynamic-int8, per_channel: false}}",
        ),
        ("onnx-int8", "reduce_range: true", "{default: {scheme: dynamic-int8, bits: 7}}"),
        ("onnx-int8", "dtype: float32", "{default: float}"),
        ("onnx-int8", "dtype: bfloat16", "{default: {scheme: float, dtype: bfloat16}}"),
        (
            "onnx-int8",
            "dtype: {encoder: float16, decoder: int8}",
            '{modules: {"*encoder.*": {scheme: float, dtype: float16}}}',
        ),
        ("torch-int8", "exclude: ['*.fc2']", '{modules: {"*.fc2": float}}'),
        (
            "torch-int8",
            "modules: ['*.fc1', '*.fc2']",
            '{default: float, modules: {"*.fc1": dynamic-int8, "*.fc2": dynamic-int8}}',
        ),
        (
            "torch-int8",
            "per_channel: false, modules: ['*.fc1'], exclude: ['*.0.fc1']",
            '{default: float, modules: {"*.0.fc1": float, '
            '"*.fc1": {scheme: dynamic-int8, per_channel: false}}}',
        ),
        ("aoti", "int8: false", "{default: float}"),
        ("aoti", "int8: {decoder: false}", '{modules: {"*decoder.*": float, lm_head: float}}'),
        ("aoti", "exclude: ['*.fc2'], include_lm_head: false", None),
    ],
)
def test_an_option_of_before_is_refused_with_the_line_to_write(
    write: Write, kind: str, options: str, line: str | None
) -> None:
    """And the line is accepted in its place."""
    line = line or '{modules: {lm_head: float, "*.fc2": float}}'
    path, target = write(), f"targets.1={{kind: {kind}, name: second, {options}}}"
    message = refusal(path, target)
    assert message.startswith("--set targets.1: ")
    assert f"now written `quantization: {line}`" in message
    settled = recipe.read(path, [f"targets.1={{kind: {kind}, name: second, quantization: {line}}}"])
    assert settled.targets[1].options == {}
    planned(path, f"quantization={line}")


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("onnx-int8", "dtype: int8"),
        ("onnx-int8", "exclude: []"),
        ("onnx-int8", "per_channel: true"),
        ("torch-int8", "modules: ['*']"),
        ("aoti", "int8: auto, dtype: auto"),
        ("aoti", "include_lm_head: true"),
    ],
)
def test_an_option_of_before_that_said_the_default_is_to_be_left_out(
    write: Write, kind: str, option: str
) -> None:
    name = option.partition(":")[0]
    message = refusal(write(), f"targets.1={{kind: {kind}, name: second, {option}}}")
    assert f"`{name}` is gone: leave it out" in message


def test_a_line_of_before_is_cited(write: Write) -> None:
    message = refusal(write(target=", exclude: ['*.fc2']"))
    assert message.startswith("6:33: targets.1.exclude: `exclude` is now written ")


def test_a_plan_is_part_of_what_an_artifact_is_made_from(write: Write) -> None:
    """However it is written."""
    keys = [
        planned(write(quantization))[1].key("weights")
        for quantization in (
            "",
            "quantization: {default: dynamic-int8}",
            "quantization: {modules: {lm_head: float}}",
            "quantization: {modules: {proj_out: float}}",
        )
    ]
    assert keys[0] == keys[1] != keys[2] == keys[3]


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def dry_run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(path: Path, *arguments: str) -> tuple[str, str]:
        assert main(["build", str(path), "--dry-run", *arguments]) == 0
        return capfd.readouterr()

    return call


PLAN = (
    "quantization: {modules: {'model.encoder.layers.0.self_attn.*_proj': float, "
    "'*.fc2': {scheme: dynamic-int8, bits: 7, per_channel: false}}}"
)


def test_a_dry_run_shows_a_shared_plan_once(write: Write, dry_run: Run) -> None:
    out, err = dry_run(write(PLAN))
    assert err == ""
    lines = out.splitlines()
    start = lines.index("quantization of onnx-int8, torch-int8; bytes of weights:")
    assert out.count("quantization of") == 1
    end = next(n for n, line in enumerate(lines) if line.startswith("A tied weight,"))
    table = lines[start + 1 : end]
    assert table[0].split() == ["pattern", "scheme", "modules", "before", "after"]
    text = " ".join(table)
    assert "(every other)" in text
    assert "dynamic-int8, bits 7," in text
    (fc2,) = (line.split() for line in table if line.lstrip().startswith("*.fc2"))
    assert fc2[-5:] == ["4", "131", "kB", "32.8", "kB"]


def test_plans_that_differ_are_shown_apart(write: Write, dry_run: Run) -> None:
    out, _ = dry_run(write("", ", name: plain, quantization: {default: float}"))
    assert "quantization of onnx-int8; bytes" in out
    assert "quantization of plain; bytes" in out


def test_a_dry_run_gives_the_plan_as_data(write: Write, dry_run: Run) -> None:
    rows = json.loads(dry_run(write(PLAN), "--json")[0])["plan"]
    assert rows[0]["quantization"] == rows[1]["quantization"]
    first, second, default = rows[0]["quantization"]
    assert first["pattern"] == "model.encoder.layers.0.self_attn.*_proj"
    assert (first["scheme"], first["modules"]) == ("float", 4)
    assert first["bytes_before"] == first["bytes_after"] == 4 * 4 * 64 * 64
    assert second["parameters"] == {"bits": 7, "per_channel": False}
    assert second["bytes_after"] == 4 * (64 * 128 + 4)
    assert (default["pattern"], default["tied"]) == (None, ["proj_out"])


@pytest.mark.usefixtures("steps_here")
def test_an_artifact_is_built_by_the_plan_and_tells_it(write: Write) -> None:
    narrow_fc2 = "'*.fc2': {scheme: float, dtype: float16}"
    path = write(f"quantization: {{modules: {{lm_head: float, {narrow_fc2}}}}}")
    wanted, output = recipe.read(path), path.parent / "out"
    where: dict[str, Any] = {"output": output, "targets": ["torch-int8"], "progress": silent}
    (built,) = builder.build(wanted, **where)
    int8, narrow, plain = built.manifest.quantization
    assert (int8.scheme, int8.parameters) == ("dynamic-int8", {"bits": 8, "per_channel": True})
    assert (plain.scheme, plain.parameters, plain.modules) == ("float", {}, ("proj_out",))
    assert narrow.parameters == {"dtype": "float16"}
    assert {name.rpartition(".")[2] for name in narrow.modules} == {"fc2"}
    stored = read_header(built.path / "model.safetensors")
    assert stored["model.encoder.layers.0.fc1.weight"].dtype == "I8"
    assert stored["model.encoder.layers.0.fc2.weight"].dtype == "F16"
    assert "proj_out.weight" not in stored
    assert load(built.path, threads=1).manifest == built.manifest
    (again,) = builder.build(recipe.read(path), **where)
    assert again.reused
    with pytest.raises(RecipeError, match="--force"):
        builder.build(recipe.read(path, ["quantization={}"]), **where)
