"""What every target promises, asked of each one in the registry, and of one that is a single file.

Building and reloading through the commands, with what is then heard, is in `tests.build`.
"""

import inspect
import json
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exporter.artifact import store
from exporter.artifact.manifest import Requirements
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.cli import main
from exporter.errors import MachineError
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan
from exporter.recipe import Decoding
from exporter.recognition.load import load
from exporter.system import accelerators
from exporter.system.hardware import describe
from exporter.system.progress import silent
from exporter.targets import TARGETS, facts_of
from exporter.targets.base import Job, Target
from exporter.targets.cost import Cost
from tests.support import exact, sealed
from tests.support.plans import FLOAT, plan_for

ONE_FILE = "float32"
KINDS = [*TARGETS, ONE_FILE]
ON_CPU = [*(kind for kind in TARGETS if "cpu" in facts_of(kind).COSTS), ONE_FILE]
MEMBERS = [name for name in vars(Target) if name[0] != "_" and name not in ("Options", "SCHEMES")]
RECIPE = "name: tiny\ncheckpoint: {}\ntargets:\n  - {{kind: {}, device: {}}}\n"
FRESH = """
import sys
from exporter.system.hardware import describe
from exporter.targets import TARGETS, facts_of
for kind in TARGETS:
    facts = facts_of(kind)
    facts.machine_offer(describe()), [*facts.COSTS]
heavy = {"torch", "transformers", "onnx", "onnxruntime", "onnx_ir", "optimum", "safetensors"}
print(*sorted(heavy & sys.modules.keys()))
"""


@pytest.fixture(autouse=True)
def one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """One registry line adds a target."""
    monkeypatch.setitem(TARGETS._paths, ONE_FILE, "tests.support.float_target")


@pytest.fixture(scope="module")
def checkpoint(tiny_whisper: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_whisper))


def options_of(kind: str) -> Any:
    return TARGETS[kind].Options.model_validate({})


def plan_of(kind: str, model: nn.Module) -> QuantizationPlan:
    """A plan whose schemes the target has."""
    default = exact.SCHEME if exact.SCHEME.name in TARGETS[kind].SCHEMES else FLOAT
    return plan_for(model, default)


def test_facts_load_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_each_has_every_member_of_the_protocol(kind: str) -> None:
    for name in MEMBERS:
        expected = [p for p in inspect.signature(getattr(Target, name)).parameters if p != "self"]
        given = inspect.signature(getattr(TARGETS[kind], name)).parameters
        assert [parameter.lstrip("_") for parameter in given] == expected, name


@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_told_for_every_device_that_may_be_asked_for(kind: str) -> None:
    costs = facts_of(kind).COSTS
    assert costs.keys() <= set(accelerators.DEVICES)
    assert TARGETS[kind].Options.model_fields["device"].default in costs
    assert all(isinstance(cost, Cost) for cost in costs.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_that_are_told_are_those_of_the_options(kind: str) -> None:
    offer = facts_of(kind).machine_offer(describe())
    assert offer.says
    assert offer.defaults is not None
    assert offer.defaults.items() <= TARGETS[kind].Options().model_dump().items()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_reads_shapes_alone(kind: str, checkpoint: Checkpoint) -> None:
    family, target = FAMILIES["whisper"], TARGETS[kind]
    model, options = family.skeleton(checkpoint.config), options_of(kind)
    before = {name: (type(module), id(module)) for name, module in model.named_modules()}
    plan = plan_of(kind, model)
    target.check(options, plan, model, checkpoint, family)
    files = target.layout(options, plan, model, checkpoint, family)
    assert target.num_trials(options, plan, model, checkpoint, family) == 0
    assert all(size > 0 for size in files.values())
    assert not any(PurePosixPath(path).is_absolute() or ".." in path for path in files)
    assert {name: (type(module), id(module)) for name, module in model.named_modules()} == before


def refused_device(
    kind: str, device: str, checkpoint: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> str:
    """What a build says, with exit code 2, of the place where a recipe names a device."""
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(checkpoint, kind, device))
    assert main(["build", str(path), "--dry-run"]) == 2
    place = f"error: {path}:4:{len(f'  - {{kind: {kind}, device: ') + 1}: targets.0.device: "
    told = capfd.readouterr().err
    assert told.startswith(place)
    return told.removeprefix(place).rstrip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_a_kind_is_not_built_for_is_refused_at_its_line(
    kind: str, tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    costs = facts_of(kind).COSTS
    for device in [each for each in accelerators.DEVICES if each not in costs]:
        told = refused_device(kind, device, tiny_whisper, tmp_path, capfd)
        assert told.startswith(f"{kind} is built for {', '.join(costs)}; ")
        for other in TARGETS:
            assert (f"kind: {other}" in told) == (device in facts_of(other).COSTS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_device_is_refused_with_the_known_ones(
    kind: str, tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = refused_device(kind, "tpu", tiny_whisper, tmp_path, capfd)
    assert told == "unknown device 'tpu'; known devices: cpu, cuda"


def test_the_same_kind_for_two_devices_needs_two_names(
    tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yaml"
    text = RECIPE.format(tiny_whisper, "aoti", "cpu") + "  - {kind: aoti, device: cuda}\n"
    path.write_text(text)
    assert main(["build", str(path), "--dry-run"]) == 2
    assert "two targets are named 'aoti': give one another `name`" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ON_CPU)
def test_the_cpu_named_is_the_cpu_by_default(kind: str) -> None:
    """And what is written down of it is what it was before there was a choice."""
    options = TARGETS[kind].Options
    default = options().model_dump(mode="json")
    assert options.model_validate({"device": "cpu"}).model_dump(mode="json") == default
    assert ("device" in default) == (kind == "aoti")


def test_a_target_in_one_file_is_listed_and_planned(
    tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["machine", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["targets"][ONE_FILE]
    assert told["devices"] == ["cpu"]
    assert told["says"].startswith("float32 products on ")
    assert main(["list", "--json"]) == 0
    assert ONE_FILE in json.loads(capfd.readouterr().out)["targets"]
    path = tmp_path / "tiny.yaml"
    path.write_text(
        RECIPE.format(tiny_whisper, ONE_FILE, "cpu") + "quantization: {default: float}\n"
    )
    assert main(["build", str(path), "--dry-run", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["plan"]
    assert (row["options"], row["fits"]) == ({}, True)


SLOW = {"onnx-int8", "aoti"}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in ON_CPU]
)
def test_what_is_built_is_what_was_planned_and_loads_on_its_device(
    kind: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = built(kind, checkpoint, tmp_path / kind)
    manifest = store.read_manifest(folder)
    files = {file.path: file.size_bytes for file in manifest.files}
    family, options = FAMILIES["whisper"], options_of(kind)
    model = family.skeleton(checkpoint.config)
    plan = plan_of(kind, model)
    for path, size in TARGETS[kind].layout(options, plan, model, checkpoint, family).items():
        assert path in files
        if path.endswith((".safetensors", ".onnx_data")):  # of code and graphs it is "about"
            assert files[path] == pytest.approx(size, rel=0.05), path
    recogniser = load(folder, threads=1, trust=True)
    assert recogniser.model.device == torch.device("cpu")
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    for beams in (1, 3):
        decoding = Decoding(language="en", task="transcribe", num_beams=beams)
        assert recogniser.decode([noise], decoding)[0].tokens


def built(kind: str, checkpoint: Checkpoint, final: Path) -> Path:
    """Build a target's files in this process, and seal them with the checkpoint's companions."""
    with store.stage(final) as folder:
        family = FAMILIES["whisper"]
        plan = plan_of(kind, family.skeleton(checkpoint.config))
        job = Job(checkpoint, family, options_of(kind), plan, folder, silent)
        result = TARGETS[kind].build(job)
        assert result.needs.device == job.device == "cpu"
        checkpoint.copy_companions(folder)
        (folder / "recipe.yaml").write_text(RECIPE.format("x", kind, "cpu"))
        about = {"needs": result.needs, "options": result.options}
        store.seal(folder, sealed.manifest(kind).model_copy(update=about))
        store.publish(folder, final)
    return final


def test_a_manifest_names_the_device_where_it_is_another() -> None:
    assert Requirements(device="cpu").model_dump(mode="json").keys() == {"cpu_features", "packages"}
    assert Requirements(device="tpu").model_dump(mode="json")["device"] == "tpu"


def test_an_artifact_for_an_unknown_device_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It can be looked at and verified; a newer exporter may have built it."""
    folder = tmp_path / "artifacts" / "tiny" / "other"
    with store.stage(folder) as staged:
        (staged / "recipe.yaml").write_text(sealed.RECIPE)
        needs = {"needs": Requirements(device="tpu")}
        store.seal(staged, sealed.manifest("torch-int8").model_copy(update=needs))
        store.publish(staged, folder)
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["manifest"]["needs"]["device"] == "tpu"
    with pytest.raises(MachineError, match="needs the device 'tpu'; known here: cpu, cuda: update"):
        load(folder)


def test_this_machine_has_a_cpu() -> None:
    cpu = accelerators.devices()[0]
    here = describe()
    assert (cpu.device, cpu.name, cpu.memory_bytes) == ("cpu", here.cpu, here.memory_bytes)
    assert accelerators.require_device("cpu") == "cpu"
    assert accelerators.in_words("cpu") == "a CPU"
