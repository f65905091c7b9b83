"""The parts of Whisper exported for a GPU, by tensors that are on one and have no memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KERNELS = ("cached_attention", "audio_attention", "row_product")

pytestmark = pytest.mark.slow


def exported(repository: Path, checkpoint: Path, dtype: str, scheme: str, folder: Path) -> Any:
    program = [sys.executable, "-m", "tests.support.exported_for_cuda"]
    done = subprocess.run(
        [*program, str(checkpoint), dtype, scheme, str(folder)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(
    scope="module",
    params=[("float16", "float"), ("bfloat16", "dynamic-int8")],
    ids=lambda kind: "-".join(kind),
)
def parts(
    request: pytest.FixtureRequest,
    repository: Path,
    tiny_whisper: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    dtype, scheme = request.param
    folder = tmp_path_factory.mktemp("exported")
    found = exported(repository, tiny_whisper, dtype, scheme, folder)
    return {"dtype": dtype, "scheme": scheme, "parts": found}


def test_all_is_on_the_gpu_and_nothing_asks_the_host(parts: Any) -> None:
    for name, part in parts["parts"].items():
        assert part["devices"] == ["cuda:0"], name
        assert not part["held"], name  # no tensor's values are in the code
        asking = (".item", "_local_scalar_dense", "cond", "nonzero", "_to_cpu")
        assert not [each for each in part["operators"] if any(a in each for a in asking)], name


def test_one_layer_is_compiled_for_all(parts: Any) -> None:
    found = parts["parts"]
    layered = {name for name, part in found.items() if part["layers"] > 1}
    names = {name for name in found if name.endswith("_layer")}
    assert layered == names >= {"encoder_layer", "cross_layer", "prompt_layer", "step_1_layer"}
    for name in layered:
        assert all(".layers.0." in weight for weight in found[name]["weights"]), name


def test_a_layer_of_a_step_is_six_products_and_two_attentions(parts: Any) -> None:
    """Norms, biases, GELUs and residuals are in the products' kernels."""
    for rows in (1, 5):
        called = parts["parts"][f"step_{rows}_layer"]["operators"]
        counts = {f"exporter.{each}_triton.default": 1 for each in KERNELS[:2]}
        assert called == {**counts, "exporter.row_product_triton.default": 6}
        last = parts["parts"][f"step_{rows}_after"]["operators"]
        assert last["exporter.row_product_triton.default"] == 1
        assert not [each for each in last if "linear" in each or "layer_norm" in each]


def test_prompts_and_the_encoder_have_torchs_operators(parts: Any) -> None:
    for name in ("encoder_layer", "cross_layer", "prompt_layer", "prompt_after"):
        called = parts["parts"][name]["operators"]
        assert not [each for each in called if each.startswith("exporter.")], name
        assert called["aten.linear.default"] >= 1, name
        # Its kernel of int8 weights on a GPU is slow.
        assert not [each for each in called if "_weight_int8pack_mm" in each], name


def test_weights_have_the_types_of_the_plan(parts: Any) -> None:
    dtype, scheme = parts["dtype"], parts["scheme"]
    weights = parts["parts"]["step_1_layer"]["weights"]
    joined = "model.decoder.layers.0.self_attn.qkv_proj"
    code = dtype if scheme == "float" else "int8"
    assert weights[f"{joined}.weight"][0] == code
    assert (f"{joined}.scale" in weights) == (scheme != "float")
    others = {kind for kind, *_ in weights.values()} - {"int8"}
    assert others == ({dtype} if scheme == "float" else {dtype, "float32"})
    narrow = any("key_scale" in name for name in parts["parts"]["step_1_layer"]["inputs"])
    assert narrow == (scheme != "float")


def test_inductor_adds_no_kernel_to_ours(repository: Path, tiny_whisper: Path) -> None:
    """In the code that it generates for a layer of a step, which is not run here."""
    program = [sys.executable, "-m", "benchmarks.cuda.count_kernels", str(tiny_whisper)]
    done = subprocess.run(
        program,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["part"]: row for row in json.loads(done.stdout)["parts"]}
    for rows in (1, 5):
        layer = found[f"step_{rows}_layer"]
        assert layer["kernels"] <= 9  # six products, two attentions, and what combines one
        assert layer["without_ours"] >= 2 * layer["kernels"]
        assert found[f"step_{rows}_before"]["kernels"] == 1
