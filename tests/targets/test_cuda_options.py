"""aoti for a GPU: its options, and what a machine without one, or without a tool, is told."""

import importlib.machinery
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError
from torch._inductor import config as inductor

from exporter.__main__ import main
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import MachineError
from exporter.families import FAMILIES
from exporter.system import accelerators
from exporter.targets import facts_of
from exporter.targets.aoti import target as aoti
from exporter.targets.aoti.cuda import toolchain
from exporter.targets.aoti.cuda.target import gpu_needs
from exporter.targets.aoti.cuda.toolchain import require_toolchain
from exporter.targets.aoti.options import ROWS, Options
from tests.support.libcuda import H100, L4, Card, make_driver
from tests.support.plans import FLOAT, plan_for

RECIPE = """\
name: tiny
checkpoint: {}
targets:
  - {{kind: aoti, name: aoti-cuda, device: cuda{}}}
decoding: {{language: en}}
"""


def test_defaults_are_float16_and_a_step_for_beams_and_batches() -> None:
    options = Options.model_validate({"device": "cuda"})
    told = options.model_dump(mode="json")
    assert told == {"device": "cuda", "dtype": "float16", "rows": list(ROWS)}
    assert Options.model_validate(told) == options


def test_what_is_told_of_the_cpu_is_what_it_was() -> None:
    names = ["device", "dtype", "march", "vnni", "bf16", "onednn", "threads"]
    assert [*Options().model_dump(mode="json")] == names
    kept = Options().model_dump(mode="json", exclude={"dtype", "onednn"})
    assert [*kept] == [name for name in names if name not in ("dtype", "onednn")]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rows": [1]}, "`rows` goes with `device: cuda`"),
        ({"dtype": "float16"}, "`dtype: float16` is not for `device: cpu`"),
        ({"dtype": {"encoder": "float16"}}, "`dtype: float16` is not for `device: cpu`"),
        ({"device": "cuda", "dtype": "float32"}, "float16, bfloat16"),
        ({"device": "cuda", "dtype": "auto"}, "float16, bfloat16"),
        ({"device": "cuda", "dtype": {"encoder": "float16"}}, "one for all graphs"),
        ({"device": "cuda", "rows": [1, 1]}, "twice"),
        ({"device": "cuda", "rows": []}, "at least 1"),
        ({"device": "cuda", "rows": [0]}, "greater than or equal to 1"),
        *(
            ({"device": "cuda", name: value}, f"`{name}` goes with `device: cpu`")
            for name, value in {
                "march": "x86-64-v3",
                "vnni": False,
                "bf16": False,
                "onednn": False,
                "threads": 1,
            }.items()
        ),
    ],
)
def test_options_of_another_device_are_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Options.model_validate(wrong)


def refusal(
    folder: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str], more: str = ""
) -> tuple[int, str]:
    """The exit code of a build, and what it says."""
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(checkpoint, more))
    return main(["build", str(path), "--output", str(folder / "out")]), capfd.readouterr().err


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        ("weight-int4", "no `weight-int4`"),
        ("{scheme: weight-int8, symmetric: false}", "no `weight-int8` with zero points"),
        ("{scheme: float, dtype: float32}", "weights have the target's `dtype`"),
    ],
)
def test_schemes_without_a_module_are_refused_at_the_target(
    scheme: str, told: str, tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = f", quantization: {{default: {scheme}}}"
    code, said = refusal(tmp_path, tiny_whisper, capfd, more)
    assert code == 2
    assert said.startswith(f"error: {tmp_path / 'tiny.yaml'}:4:5: targets.0: model.")
    assert told in said


def test_a_machine_without_a_card_is_told_before_anything_is_read(
    tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = refusal(tmp_path, tiny_whisper, capfd)
    assert code == 6
    assert "building aoti with `device: cuda` needs an NVIDIA GPU" in said
    assert "libcuda.so.1 is missing" in said
    assert not (tmp_path / "out").exists()
    assert main(["build", str(tmp_path / "tiny.yaml"), "--dry-run"]) == 0
    assert "no: building aoti" in capfd.readouterr().out


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that has all that is looked for."""
    with_cards(tmp_path, monkeypatch, [H100])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with_triton(monkeypatch)
    include = tmp_path / "toolkit/include"
    (include / "crt").mkdir(parents=True)
    for header in ("cuda.h", "cuda_runtime_api.h", "crt/host_defines.h"):
        (include / header).touch()
    monkeypatch.setenv("CUDA_HOME", str(include.parent))
    return monkeypatch


def with_cards(folder: Path, monkeypatch: pytest.MonkeyPatch, cards: Sequence[Card]) -> None:
    library = make_driver(folder / f"driver-{len(cards)}-{cards[0][0][:9]}", cards)
    monkeypatch.setattr(accelerators, "LIBCUDA", str(library))


def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("triton")
    module.__spec__ = importlib.machinery.ModuleSpec("triton", None)
    monkeypatch.setitem(sys.modules, "triton", module)


def test_a_machine_that_has_all_is_accepted(whole: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = require_toolchain()
    assert found.card.name == H100[0]
    assert (found.cuda, found.home) == ("13.0", tmp_path / "toolkit")


def test_torch_without_cuda_is_refused(whole: pytest.MonkeyPatch) -> None:
    whole.setattr(torch.version, "cuda", None)
    with pytest.raises(MachineError, match=r"torch built for CUDA.*\n.*--index-url"):
        require_toolchain()


def test_a_machine_without_triton_is_told_to_install_it(whole: pytest.MonkeyPatch) -> None:
    whole.setitem(sys.modules, "triton", None)
    with pytest.raises(MachineError, match=r"Triton.*\n.*pip install triton"):
        require_toolchain()


def test_a_machine_without_a_compiler_is_told_to_install_one(whole: pytest.MonkeyPatch) -> None:
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(MachineError, match=r"no-such-compiler.*\n.*apt install g\+\+"),
    ):
        require_toolchain()


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_a_folder_without_headers_is_named(
    name: str, whole: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole.delenv("CUDA_HOME")
    whole.setenv(name, str(tmp_path / "nothing"))
    told = rf"cuda\.h, cuda_runtime_api\.h, crt/host_defines\.h.*{tmp_path}/nothing/include.*\n.*CUDA_HOME.*nvidia-"
    with pytest.raises(MachineError, match=told):
        require_toolchain()


def test_headers_of_nvidias_wheels_serve_too(whole: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole.delenv("CUDA_HOME")
    (tmp_path / "site/nvidia").mkdir(parents=True)
    (tmp_path / "toolkit").rename(tmp_path / "site/nvidia/cu13")
    whole.syspath_prepend(str(tmp_path / "site"))
    whole.delitem(sys.modules, "nvidia", raising=False)
    whole.setattr(toolchain, "_USUAL", tmp_path / "nothing")
    with inductor.patch({"cpp.cxx": (None, shutil.which("g++"))}):
        whole.setenv("PATH", str(tmp_path))  # no nvcc
        assert require_toolchain().home == tmp_path / "site/nvidia/cu13"


def test_a_card_that_the_toolkit_has_left_behind_is_refused(
    whole: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_cards(tmp_path, whole, [("Tesla V100-SXM2-16GB", (7, 0), 80, 16_000_000_000)])
    with pytest.raises(MachineError, match=r"7\.5 or later.*V100"):
        require_toolchain()


@pytest.mark.parametrize(("card", "match"), [(H100, "exact"), (L4, "major")])
def test_needs_are_those_of_machine_code(card: Card, match: str) -> None:
    needs = gpu_needs(accelerators.Card(*card), "13.0", 1)
    assert (needs.match, needs.capability) == (match, ".".join(map(str, card[1])))


def test_the_plan_counts_weights_once_and_caches_by_rows(tiny_whisper: Path) -> None:
    family, checkpoint = FAMILIES["whisper"], open_checkpoint(str(tiny_whisper))
    model = family.skeleton(checkpoint.config)
    plan = plan_for(model, FLOAT)
    sizes = []
    for rows in ([1], [1, 2], [1, 3]):
        options = Options.model_validate({"device": "cuda", "rows": rows})
        given = options, plan, model, checkpoint, family
        files = aoti.layout(*given)
        steps = {name for name in files if name.startswith("step_")}
        assert len(steps) == 3 * len(rows)
        stored = 2 * sum(info.elements for info in checkpoint.tensors.values())
        assert stored <= files["weights.safetensors"] < 1.1 * stored + 20_000
        sizes.append(aoti.device_memory_bytes(*given))
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] > 0
    assert aoti.num_trials(options, plan, model, checkpoint, family) == 0


def test_costs_for_a_card_are_told() -> None:
    assert {"cpu", "cuda"} == set(facts_of("aoti").COSTS)
