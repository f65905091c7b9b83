"""The aoti target on a model of one small graph: what it compiles, and what it refuses to open."""

import hashlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._inductor import config as inductor

from exporter.artifact.manifest import File, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import BuildError, IntegrityError, MachineError, RecipeError, exhausted
from exporter.families.graph import Graph
from exporter.formats import pt2
from exporter.formats.tensor_io import safetensors_infos
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.float import Scheme as Float
from exporter.system import hardware
from exporter.targets.aoti import target as aoti
from exporter.targets.aoti.package import Package, read_spec
from exporter.targets.base import Job
from tests.support.plans import FLOAT, INT8, plan_for

pytestmark = pytest.mark.skipif(
    not hardware.describe().isa.startswith(("x86-64-v3", "x86-64-v4")),
    reason="aoti compiles for x86-64-v3 and up",
)
TIED = {"head.weight": "table.weight"}
VOCABULARY, WIDTH, PLACES, WINDOW, PLACE = 40, 64, 12, 6, 5


class Model(nn.Module):
    """Everything a speech model has: a table, a convolution, linears, a head tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.table.weight


class Step(nn.Module):
    """A window of features, one token, and a cache that is written in place."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features, ids, position, cache = inputs
        m = self.model
        dtype = m.norm.weight.dtype
        kernel, bias = m.conv.weight.to(dtype), m.conv.bias.to(dtype)
        window = nn.functional.conv1d(features.to(dtype), kernel, bias, padding=1).transpose(1, 2)
        source = m.key(window) + m.value(window)
        hidden = m.table(ids).to(m.norm.weight.dtype)
        cache.index_copy_(1, position, m.value(hidden))
        hidden = m.norm(hidden + source.mean(1, keepdim=True) + cache.sum(1, keepdim=True))
        return (m.head(hidden).float(),)


class Family:
    """The part of a family that the target asks for."""

    TIED = TIED
    HEAD = "head"

    def architecture(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    def skeleton(self, _: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
        with torch.device("meta"):
            return Model().to(dtype).eval().requires_grad_(False)

    def graphs(self, model: Any, cache: str) -> list[Graph]:
        assert cache == "static"

        def meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        inputs = {
            "input_features": meta((2, WIDTH, WINDOW), torch.float32),
            "input_ids": meta((2, 1), torch.int64),
            "position": meta((1,), torch.int64),
            "cache": meta((2, PLACES, WIDTH), model.norm.weight.dtype),
        }
        dynamic = {name: {0: "batch"} for name in inputs if name != "position"}
        outputs = {"logits": ("batch", 1, VOCABULARY)}
        return [Graph("step", Step(model), inputs, dynamic, outputs, mutated=("cache",))]

    def assemble(self, _: Path, functions: Mapping[str, Any], cache_dtype: torch.dtype) -> Any:
        return functions["step"], cache_dtype


@dataclass(frozen=True)
class Built:
    """A built folder, what it needs, and the float32 model it came from."""

    folder: Path
    needs: Requirements
    original: Model

    def manifest(self, folder: Path) -> Any:
        """The part of a folder's manifest that loading reads."""
        files = []
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            files.append(File(path=path.name, size_bytes=len(data), sha256=sha256))
        versions = {"torch": torch.__version__}
        return SimpleNamespace(needs=self.needs, versions=versions, threads=None, files=files)

    def load(self, folder: Path | None = None) -> Any:
        folder = folder or self.folder
        return aoti.load(folder, self.manifest(folder), Family(), 1)


def build(
    folder: Path, stored: torch.dtype, scheme: QuantizationScheme = INT8, **options: Any
) -> Built:
    """Write a checkpoint of random weights, and compile it, keeping a record of the commands."""
    torch.manual_seed(0)
    original = Model().to(stored).float().eval().requires_grad_(False)
    state = {name: t.to(stored) for name, t in original.state_dict().items() if name not in TIED}
    weights = folder / "model.safetensors"
    save_file(state, weights)
    infos = safetensors_infos(weights)
    artifact = folder / "artifact"
    artifact.mkdir()
    job: Any = Job(
        checkpoint=Checkpoint("here", None, folder, {}, infos),
        family=Family(),  # type: ignore[arg-type]
        options=aoti.Options(**options),
        plan=plan_for(original, scheme, {"conv": FLOAT}, head="head"),
        folder=artifact,
        progress=lambda _what, _done: None,
        fresh=True,  # or there would be no commands
    )
    with inductor.patch({"cpp.cxx": (None, str(recording_compiler(folder)))}):
        return Built(artifact, aoti.build(job).needs, original)


def recording_compiler(folder: Path) -> Path:
    """The compiler, writing down what it was asked for."""
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/commands\nexec {inductor.cpp.cxx[1]} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The defaults on this machine, from a float16 checkpoint."""
    return build(tmp_path_factory.mktemp("aoti"), torch.float16)


def inputs_of(batch: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {
        "input_features": torch.randn(batch, WIDTH, WINDOW, generator=generator),
        "input_ids": torch.randint(VOCABULARY, (batch, 1), generator=generator),
        "position": torch.tensor([PLACE]),
        "cache": torch.randn(batch, PLACES, WIDTH, generator=generator).to(dtype),
    }


def agree(built: Built, dtype: torch.dtype, tolerance: float) -> None:
    """The package's logits and cache are the original's, for batches unlike the traced one."""
    run, cache_dtype = built.load()
    assert cache_dtype == dtype
    for batch in (1, 2, 3, 5, 8):
        given, expected = inputs_of(batch, dtype=dtype), inputs_of(batch)
        untouched = given["cache"].clone()
        logits = run(given)["logits"]
        (wanted,) = Step(built.original)(*expected.values())
        assert logits.shape == (batch, 1, VOCABULARY)
        assert logits.dtype == torch.float32
        assert (logits - wanted).abs().max() < tolerance * wanted.abs().max()
        written = given["cache"][:, PLACE].float()
        assert (written - expected["cache"][:, PLACE]).abs().max() < tolerance * 4
        untouched[:, PLACE] = given["cache"][:, PLACE]
        assert torch.equal(given["cache"], untouched)


def test_the_compiled_graph_is_the_original_within_int8(built: Built) -> None:
    agree(built, torch.float32, 0.02)


def test_bfloat16_for_a_lesser_machine_widens_its_int8_weights(tmp_path: Path) -> None:
    lesser = build(tmp_path, torch.float32, march="x86-64-v3", dtype={"step": "bfloat16"})
    assert set(lesser.needs.cpu_features) == hardware.level_features("x86-64-v3")
    agree(lesser, torch.bfloat16, 0.05)


def test_one_scale_a_tensor_serves_every_row(tmp_path: Path) -> None:
    agree(build(tmp_path, torch.float32, DynamicInt8(per_channel=False)), torch.float32, 0.02)
    weights = load_file(tmp_path / "artifact" / "weights.safetensors")
    assert weights["key.scale"].shape == (WIDTH,)
    assert len(weights["key.scale"].unique()) == 1


def test_needs_are_the_level_and_what_int8_products_take(built: Built) -> None:
    here = hardware.describe()
    extra = {"avx512_vnni", "avx512_bf16"} if here.isa == "x86-64-v4" else set()
    assert set(built.needs.cpu_features) == hardware.level_features(here.isa) | (
        extra & here.features
    )


def test_only_instructions_of_the_level_are_compiled_in(built: Built) -> None:
    level = hardware.describe().isa
    commands = (built.folder.parent / "commands").read_text(encoding="utf-8").splitlines()
    assert sum(".cpp" in command for command in commands) >= 2
    for flags in map(str.split, commands):
        assert {flag for flag in flags if flag.startswith("-march")} <= {f"-march={level}"}
        beyond = {flag for flag in flags if re.match("-m(amx|avx512(bf16|vnni|fp16))", flag)}
        needed = {f"-m{name.replace('_', '')}" for name in built.needs.cpu_features}
        # Our own kernels may use what the manifest names beyond the level; Inductor's code may not.
        assert beyond <= (needed if any("aoti/kernels" in flag for flag in flags) else set())


def test_a_package_is_lean_and_names_no_folder(built: Built) -> None:
    path = built.folder / "step.pt2"
    assert path.stat().st_size < 350_000
    assert (built.folder / "weights.safetensors").stat().st_size < 1.3 * ideal_bytes(built.original)
    data = path.read_bytes()
    for folder in (built.folder.parent, Path.home(), Path(torch.__file__).parent):
        assert str(folder).encode() not in data


def ideal_bytes(model: Model) -> int:
    """Linear weights in int8 with their scales, tables and kernels in 16 bits, the rest in 32."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    int8 = sum(m.weight.numel() + 4 * m.out_features for m in linears)
    others = [p for p in model.parameters() if not any(p is m.weight for m in linears)]
    wide = sum(p.numel() * (2 if p.ndim > 1 else 4) for p in others)
    return int8 + wide + 2 * model.table.weight.numel()


FRESH = """
import json, sys, torch
from pathlib import Path
from exporter.artifact.manifest import Requirements
from tests.targets.test_aoti import Built, inputs_of
folder, needs = Path(sys.argv[1]), tuple(json.loads(sys.argv[2]))
run, _ = Built(folder, Requirements(cpu_features=needs), None).load()
foreign = {"onnx", "onnx_ir", "onnxruntime", "onnxscript", "optimum"} & sys.modules.keys()
assert not foreign, foreign
print(run(inputs_of(3))["logits"].double().sum().item())
"""


def test_a_fresh_process_without_a_compiler_loads_it(built: Built, repository: Path) -> None:
    empty = built.folder.parent / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, built.folder, json.dumps(built.needs.cpu_features)],
        env={**os.environ, "PATH": str(empty), "CXX": "", "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run, _ = built.load()
    here = run(inputs_of(3))["logits"].double().sum().item()
    assert float(done.stdout.split()[-1]) == pytest.approx(here, rel=1e-5)


def test_inputs_that_do_not_fit_are_refused(built: Built) -> None:
    run, _ = built.load()
    good = inputs_of(2)
    wrong: dict[str, dict[str, Any]] = {
        "takes": {name: good[name] for name in ("input_ids", "cache")},
        "input_features": {**good, "input_features": good["input_features"][:, :, :-1]},
        "input_ids": {**good, "input_ids": good["input_ids"][:1]},
        "cache": {**good, "cache": good["cache"].double()},
    }
    for word, inputs in wrong.items():
        with pytest.raises(ValueError, match=word):
            run(inputs)
    assert run({**good, "input_features": good["input_features"].double()}, ["logits"])


def without(feature: str) -> hardware.Machine:
    here = hardware.describe()
    return replace(here, features=here.features - {feature})


def test_a_machine_without_a_feature_is_told_so(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    for feature in built.needs.cpu_features:
        lesser = without(feature)
        monkeypatch.setattr(hardware, "describe", lambda lesser=lesser: lesser)
        with pytest.raises(MachineError, match=feature):
            built.load()


def test_another_torch_makes_no_difference(built: Built) -> None:
    assert not built.needs.packages
    manifest = built.manifest(built.folder)
    manifest.versions = {"torch": "2.99.0"}
    run, _ = aoti.load(built.folder, manifest, Family(), 1)
    assert torch.equal(run(inputs_of(2))["logits"], built.load()[0](inputs_of(2))["logits"])


def test_another_torch_is_told_so_where_a_package_calls_it(built: Built) -> None:
    needs = built.needs.model_copy(update={"packages": ("torch",)})
    manifest = SimpleNamespace(needs=needs, versions={"torch": "2.99.0"})
    with pytest.raises(MachineError, match=r"torch 2\.99"):
        aoti.load(built.folder, manifest, Family(), 1)  # type: ignore[arg-type]


Members = list[tuple[zipfile.ZipInfo, bytes]]


def add(name: str) -> Callable[[Members], Members]:
    return lambda members: [*members, (zipfile.ZipInfo(name), b"x")]


def deflate(members: Members) -> Members:
    for info, _ in members:
        info.compress_type = zipfile.ZIP_DEFLATED
    return members


TAMPERED: dict[str, Callable[[Members], Members]] = {
    "escaping": add("step/data/aotinductor/model/../../../../../evil"),
    "absolute": add("/tmp/evil"),
    "another-library": add("step/data/aotinductor/model/other.so"),
    "a-weight": add("step/data/weights/weight_0"),
    "another-folder": add("other/archive_format"),
    "twice": lambda members: [*members, members[-1]],
    "missing": lambda members: members[1:],
    "compressed": deflate,
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_members_are_refused_unopened(
    case: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(built.folder / "step.pt2") as package:
        members = [(info, package.read(info)) for info in package.infolist()]
    with zipfile.ZipFile(tmp_path / "step.pt2", "w") as package:
        for info, data in TAMPERED[case](members):
            package.writestr(info, data)
    monkeypatch.setattr(torch._C, "_aoti", None)
    with pytest.raises(IntegrityError, match=r"step\.pt2 has"):
        built.load(tmp_path)


def test_what_is_no_package_is_refused(built: Built, tmp_path: Path) -> None:
    whole = (built.folder / "step.pt2").read_bytes()
    for data in (b"", b"not a zip", whole[: len(whole) // 2]):
        (tmp_path / "step.pt2").write_bytes(data)
        with pytest.raises(IntegrityError, match=r"step\.pt2"):
            built.load(tmp_path)


def rewrite(path: Path, other: bytes) -> None:
    path.write_bytes(other)


def put_beside(path: Path, other: bytes) -> None:
    beside = path.with_name("other")
    beside.write_bytes(other)
    beside.replace(path)


def link(path: Path, other: bytes) -> None:
    beside = path.with_name("other")
    beside.write_bytes(other)
    path.unlink()
    path.symlink_to(beside)


EXCHANGES = [rewrite, put_beside, link]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_package_that_is_exchanged_after_its_check_is_not_opened(
    exchange: Callable[[Path, bytes], None],
    built: Built,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "artifact"))
    checked = built.manifest(folder)
    exchange(folder / "step.pt2", (built.folder / "step.pt2").read_bytes() + b"evil")
    monkeypatch.setattr(torch._C, "_aoti", None)
    with pytest.raises(IntegrityError, match=r"step\.pt2 (was changed|is a link)"):
        aoti.load(folder, checked, Family(), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_was_checked_is_what_is_loaded(
    exchange: Callable[[Path, bytes], None],
    built: Built,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "artifact"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    opened = []

    def read_and_exchange(path: Path) -> Any:
        state = path.parent.stat()
        opened.append((stat.S_IMODE(state.st_mode), state.st_uid))
        exchange(folder / "step.pt2", b"evil")
        return read_spec(path)

    monkeypatch.setattr(aoti, "read_spec", read_and_exchange)
    run, _ = built.load(folder)
    assert run(inputs_of(2))["logits"].isfinite().all()
    assert opened == [(0o700, os.getuid())]
    assert not list(tmp_path.glob("exporter-step-*"))


def test_a_full_disk_is_told_as_such(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch unpacks packages in TMPDIR, and its error tells no reason."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with zipfile.ZipFile(built.folder / "step.pt2") as package:
        size = package.getinfo(f"step/{pt2.LIBRARY}").file_size
    packed = shutil.copyfile(built.folder / "step.pt2", tmp_path / "step.pt2")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises((RuntimeError, OSError)) as caught:
            Package(packed, read_spec(packed), load_file(built.folder / "weights.safetensors"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert exhausted(caught.value)


def check(scheme: QuantizationScheme = INT8, **options: Any) -> None:
    family: Any = Family()
    nothing: Any = None  # options are held against the model and this machine
    model = family.skeleton({})
    plan = plan_for(model, scheme, {"conv": FLOAT}, head="head")
    aoti.check(aoti.Options(**options), plan, model, nothing, family)


def test_options_that_fit_nothing_are_refused() -> None:
    check(FLOAT, dtype={"step": "bfloat16"}, onednn={"step": False})
    with pytest.raises(RecipeError, match="encoder"):
        check(onednn={"encoder": True})
    with pytest.raises(RecipeError, match="key: aoti has no `float` with a `dtype` of its own"):
        check(Float(dtype="float16"))
    for wrong in ({"march": "native"}, {"march": "x86-64-v3", "vnni": True}, {"threads": 0}):
        with pytest.raises(ValidationError):
            aoti.Options(**wrong)
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(MachineError, match="no-such-compiler"),
    ):
        check()


def test_a_compiler_that_fails_is_a_failed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.recording_compiler", lambda _: "false")
    with pytest.raises(BuildError, match="could not compile"):
        build(tmp_path, torch.float32)
    assert not list((tmp_path / "artifact").iterdir())
