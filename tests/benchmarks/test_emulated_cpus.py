"""Lesser machines: who is limited how, that the limits arrive, and the table."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import emulated_cpus
from benchmarks.emulated_cpus import LEVELS, key, table, tables, variants
from benchmarks.peers.rounds import Bench, Setting, answered, write_recipe
from benchmarks.peers.systems import CONVERSIONS, RIVALS
from exporter import recipe
from exporter.targets.aoti import target as aoti

SETTING = Setting(tokens=8, threads=1, batch=1, beams=1)


def test_every_rival_with_a_switch_is_limited_at_every_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emulated_cpus, "describe", lambda: _with_isa("x86-64-v4"))
    found = variants()
    assert list(found)[:6] == [key(name, "native") for name in emulated_cpus.MEASURED]
    assert [found[key("aoti", level)].conversion for level in LEVELS] == [
        "aoti",
        "aoti-avx512",
        "aoti-avx2",
    ]
    assert all(rival.conversion in CONVERSIONS for rival in found.values())
    assert found[key("faster-whisper", "avx512")].variables["CT2_FORCE_CPU_ISA"] == "AVX512"
    assert found[key("torch-int8", "avx2")].variables["ATEN_CPU_CAPABILITY"] == "avx2"
    assert found[key("openvino-f32", "avx2")].variables["OV_CPU_MAX_ISA"] == "AVX2"
    assert key("onnx-int8", "avx2") not in found
    assert replace(found[key("torch-int8", "avx2")], variables={}) == RIVALS["torch-int8"]
    monkeypatch.setattr(emulated_cpus, "describe", lambda: _with_isa("x86-64-v3"))
    assert {name.split()[1] for name in variants()} == {"native", "avx2"}


def _with_isa(isa: str) -> Any:
    return type("Described", (), {"isa": isa})


@pytest.mark.parametrize(
    ("level", "expected"),
    [("avx512", ("x86-64-v4", False, False)), ("avx2", ("x86-64-v3", False, False))],
)
def test_artifacts_are_built_for_their_level(
    level: str, expected: tuple[str, bool, bool], tiny_whisper: Path, tmp_path: Path
) -> None:
    words = CONVERSIONS[LEVELS[level].conversion].command.split()
    overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    path = write_recipe(tmp_path / "recipe.yaml", tiny_whisper)
    options = recipe.read(path, overrides).options(0, aoti.Options)
    assert (options.march, options.vnni, options.bf16) == expected
    assert not options.onednn


def test_a_process_is_given_its_switches(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SETTING, 1, 1 << 40, 60, None)
    program = "import json, os; print('a word'); print(json.dumps(dict(os.environ)))"
    given = LEVELS["avx2"].variables
    told = answered(bench, [sys.executable, "-c", program], given)
    assert {name: told[name] for name in given} == given
    assert told["OMP_NUM_THREADS"] == "1"


def test_torch_keeps_to_its_switch(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SETTING, 1, 1 << 40, 60, None)
    program = (
        "import json, torch; print(json.dumps({'is': torch.backends.cpu.get_cpu_capability()}))"
    )
    told = answered(bench, [sys.executable, "-c", program], LEVELS["avx2"].variables)
    assert told == {"is": "AVX2"}


def canned() -> dict[str, Any]:
    """One shape, where one rival fails at one level."""

    def row(seconds: float) -> dict[str, Any]:
        return {"seconds": {"median": seconds, "min": seconds / 2, "max": 2 * seconds}}

    rivals = {
        key("aoti", "native"): row(0.1),
        key("aoti", "avx512"): row(0.2),
        key("aoti", "avx2"): row(0.4),
        key("torch-int8", "avx2"): row(0.3),
        key("onnx-int8", "native"): row(0.15),
        key("faster-whisper", "native"): row(0.5),
        key("faster-whisper", "avx512"): {"failed": "no such thing"},
        key("openvino-f32", "native"): row(0.2),
        key("openvino-f32", "avx2"): row(0.5),
    }
    setting = {"tokens": 64, "threads": 2, "batch": 1, "beams": 1}
    machine = {"cpu": "a processor", "cores": 2, "memory_bytes": 24e9, "features": ["avx2"]}
    entry = {"shape": "tiny", **setting, "parameters": 39_000_000, "rivals": rivals}
    return {"machine": machine, "entries": [entry]}


def test_the_table_has_a_row_for_each_rival_and_the_ratios() -> None:
    head, _, *rows = table(canned()["entries"][0]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows]
    assert head.count("|") == len(LEVELS) + 2
    assert cells[0][1:] == [
        "0.100 (0.050 to 0.200)",
        "0.200 (0.100 to 0.400)",
        "0.400 (0.200 to 0.800)",
    ]
    assert [row[2:] for row in cells if row[0] == "onnx-int8"] == [["no switch", "no switch"]]
    assert [row[2] for row in cells if row[0] == "faster-whisper int8"] == ["cannot: no such thing"]
    assert cells[-1][1:] == ["0.50", "", "0.80"]
    assert tables(canned()).endswith("2 cores of a processor (avx2), 24.0 GB of memory.")


def test_without_checkpoints_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lesser_machines.json"
    empty = CliRunner().invoke(emulated_cpus.main, ["--results", str(path)])
    assert empty.exit_code == 2
    assert "holds no figures" in empty.output
    path.write_text(json.dumps(canned()))
    arguments = ["--results", str(path)]
    told = CliRunner().invoke(emulated_cpus.main, arguments, catch_exceptions=False)
    assert told.stdout.strip() == tables(canned())
