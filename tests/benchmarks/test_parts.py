"""Where the time goes: kinds of kernels, a real profile of a real artifact, and its tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.peers.rounds import write_audio
from benchmarks.profiling import run
from benchmarks.profiling.kernel_kinds import (
    ATTENTION,
    AUDIO,
    CONVOLUTIONS,
    HEAD,
    LOOPS,
    ORDER,
    OWN,
    PACKING,
    PRODUCTS,
    kinds,
)
from benchmarks.profiling.results import table, tables
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.system.hardware import describe

TOKENS = 8


def test_kernels_are_told_apart_by_name_and_place() -> None:
    encoder = {
        "aoti_torch_cpu_convolution": CONVOLUTIONS,
        "aoti_torch_cpu_int8_conv": CONVOLUTIONS,
        "graph_0_cpp_fused__to_copy_gelu_1": LOOPS,
        "aoti_torch_cpu_int8_linear": PRODUCTS,
        "graph_0_cpp_fused_attention_mul_3": LOOPS,
        "aoti_torch_cpu_attention": ATTENTION,
        "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu": ATTENTION,
        "aoti_torch_cpu_addmm_out": PRODUCTS,
        "aoti_torch_cpu__int_mm_out": PRODUCTS,
        "graph_0_cpp_fused_add_int8_linear_native_layer_norm_9": LOOPS,
        "graph_0_cpp_fused___rshift____to_copy_bitwise_and_cat_clamp_min_15": PACKING,
        "graph_0_cpp_fused_stack_16": PACKING,
        "aoti_torch_cpu_cat": PACKING,
    }
    assert kinds("encoder", list(encoder)) == list(encoder.values())
    decoder = [
        ("aoti_torch_cpu_int8_linear", PRODUCTS),
        ("aoti_torch_cpu_step_attention", OWN),
        ("aoti_torch_cpu_window_attention", AUDIO),
        ("graph_1_cpp_fused_add_cat_5", LOOPS),
        ("aoti_torch_cpu_int8_linear", HEAD),
        ("graph_1_cpp_fused_add_native_layer_norm_6", LOOPS),
    ]
    assert kinds("decoder", [name for name, _ in decoder]) == [kind for _, kind in decoder]


@pytest.fixture(scope="module")
def profile(
    tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str]:
    """The figures of a toy artifact, and what was printed."""
    work = tmp_path_factory.mktemp("parts")
    arguments = [str(tiny_whisper), "--work", str(work), "--results", str(work / "parts.json")]
    arguments += ["--tokens", str(TOKENS), "--threads", "1", "--runs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_audio", lambda bench: write_audio(replace(bench, window_s=4)))
        patch.setattr(run, "DISTURBED", 1.0)
        done = CliRunner().invoke(run.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (entry,) = json.loads((work / "parts.json").read_bytes())["entries"]
    return entry, done.stdout


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.skipif(not describe().isa.startswith(("x86-64-v3", "x86-64-v4")), reason="aoti")
def test_every_kernel_of_a_real_artifact_is_seen(profile: tuple[dict[str, Any], str]) -> None:
    entry, printed = profile
    told = entry["parts"]
    calls = {
        graph: {
            kind: sum(row["calls"] for row in rows if row["kind"] == kind)
            for kind in {row["kind"] for row in rows}
        }
        for graph, rows in told["kernels"].items()
    }
    layers = 2
    assert calls["encoder"][PRODUCTS] == 6 * layers + 2 * layers
    assert calls["encoder"][ATTENTION] == layers
    assert calls["encoder"][CONVOLUTIONS] == 2
    assert calls["encoder"][PACKING] > 0
    assert calls["decoder"][PRODUCTS] == 8 * layers * TOKENS
    assert calls["decoder"][HEAD] == TOKENS
    assert calls["decoder"][OWN] == calls["decoder"][AUDIO] == layers * TOKENS
    assert all(row["seconds"] > 0 for rows in told["kernels"].values() for row in rows)
    assert told["graphs_s"].keys() == {"encoder", "decoder"}
    assert len(told["whole_s"]) == len(told["profiled_s"]) == 2
    assert f"- {HEAD}, {TOKENS} calls" in printed


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.skipif(not describe().isa.startswith(("x86-64-v3", "x86-64-v4")), reason="aoti")
def test_the_bytes_of_a_token_are_counted(
    profile: tuple[dict[str, Any], str], tiny_whisper: Path
) -> None:
    """Counted by hand for two layers of width 64 in float32, and a window of 200 positions."""
    config = open_checkpoint(str(tiny_whisper)).config
    tokens, wide, layers = config["vocab_size"], config["decoder_ffn_dim"], 2
    codes = layers * (6 * 64 * 64 + 2 * 64 * wide) + 64 * tokens
    scales = layers * (6 * 64 + wide + 64) + tokens
    biases = layers * (5 * 64 + wide + 64)
    norms = 2 * 64 * (3 * layers + 1)
    rows = 64  # of positions; the tokens' table is the head's
    read = profile[0]["parts"]["token"]["bytes"]
    assert read["weights"] == codes + 4 * (scales + biases + norms + rows)
    assert read["audio"] == 2 * layers * 200 * (64 + 2 * 4)
    prompt = 4
    filled = prompt + TOKENS / 2  # on average, each token's own position included
    assert read["own"] == 2 * layers * 64 * 2 * filled


def canned() -> dict[str, Any]:
    """One shape's figures, with round numbers."""

    def row(kind: str, calls: int, seconds: float) -> dict[str, Any]:
        return {"name": "kernel", "kind": kind, "calls": calls, "seconds": seconds}

    told = {
        "whole_s": [0.1, 0.12, 0.11],
        "profiled_s": [0.13],
        "around_s": {"before": 0.002, "between": 0.004, "after": 0.001},
        "graphs_s": {"encoder": 0.06, "decoder": 0.043},
        "kernels": {
            "encoder": [row(PRODUCTS, 7, 0.03), row(LOOPS, 2, 0.01), row(PRODUCTS, 1, 0.018)],
            "decoder": [row(HEAD, 64, 0.02), row(PRODUCTS, 64, 0.02)],
        },
        "token": {"seconds": 0.001, "bytes": {"weights": 30e6, "audio": 9e6, "own": 1e6}},
        "memory_read_bytes_per_s": 50e9,
    }
    setting = {"tokens": 64, "threads": 2, "batch": 1, "beams": 1}
    machine = {"cpu": "a processor", "cores": 2, "memory_bytes": 24e9, "features": ["avx2"]}
    entry = {"shape": "tiny", **setting, "parameters": 39_000_000, "parts": told}
    return {"machine": machine, "entries": [entry]}


def test_the_table_tells_parts_and_what_they_add_up_to() -> None:
    lines = table(canned()["entries"][0]["parts"]).splitlines()
    assert lines[2:] == [
        "| log-mel features and prompt | 2.0 | 2% |",
        "| **encoder** | 60.0 | 55% |",
        f"| - {PRODUCTS}, 8 calls | 48.0 | 44% |",
        f"| - {LOOPS}, 2 calls | 10.0 | 9% |",
        "| - between its kernels | 2.0 | 2% |",
        "| **decoder** | 43.0 | 39% |",
        f"| - {PRODUCTS}, 64 calls | 20.0 | 18% |",
        f"| - {HEAD}, 64 calls | 20.0 | 18% |",
        "| - between its kernels | 3.0 | 3% |",
        "| choosing tokens | 4.0 | 4% |",
        "| tokens to text | 1.0 | 1% |",
        "| **whole** | **110.0** |  |",
    ]
    text = tables(canned())
    assert "add up to 105.0 ms, 95% of the whole; under the profiler that takes 130.0 ms" in text
    assert "A token reads 40.0 MB" in text
    assert "in 1.00 ms: 40.0 GB/s, where the machine read 50.0 GB/s: 1.25 times" in text
    assert text.endswith("2 cores of a processor (avx2), 24.0 GB of memory.")


def test_every_kind_has_its_row() -> None:
    assert set(ORDER) == {PRODUCTS, HEAD, ATTENTION, AUDIO, OWN, CONVOLUTIONS, LOOPS, PACKING}


def test_without_checkpoints_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "parts.json"
    empty = CliRunner().invoke(run.main, ["--results", str(path)])
    assert empty.exit_code == 2
    assert "holds no figures" in empty.output
    path.write_text(json.dumps(canned()))
    told = CliRunner().invoke(run.main, ["--results", str(path)], catch_exceptions=False)
    assert told.stdout.strip() == tables(canned())
