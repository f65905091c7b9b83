"""`dtype: auto` of aoti: what may be chosen, by which figures, and what is kept of the choice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from exporter import recipe
from exporter.artifact.manifest import AutotuneResult
from exporter.artifact.store import read_manifest
from exporter.build import pipeline as builder
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.cli import build, main
from exporter.errors import RecipeError
from exporter.families import FAMILIES
from exporter.families.graph import parameter_names
from exporter.quantization.plan import shared_tables
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.weight_int4 import Scheme as WeightInt4
from exporter.recognition.load import load
from exporter.system import hardware, worker
from exporter.system.progress import silent
from exporter.targets.aoti import autotune, graph_builder
from exporter.targets.aoti import target as aoti
from exporter.targets.aoti.autotune import Run, candidates, choose, decide, extrapolated, measure
from exporter.targets.aoti.graph_builder import Setup, setup_of
from exporter.targets.aoti.options import Options, Variant
from exporter.targets.base import Job
from tests.support.plans import FLOAT, INT8, plan_for, whisper_plan

HERE = hardware.describe()
pytestmark = pytest.mark.skipif(
    not HERE.isa.startswith(("x86-64-v3", "x86-64-v4")), reason="aoti compiles for x86-64-v3 and up"
)
WHISPER = FAMILIES["whisper"]
WIDE = {"march": "x86-64-v4", "vnni": True, "bf16": True}
ALL = ["int8", "int8 by oneDNN", "int8 in bfloat16", "bfloat16"]
RECIPE = """\
name: tiny
checkpoint: {checkpoint}
targets: [{target}]
decoding: {{language: en, task: transcribe}}
"""


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """Calls that take so long, in turn."""

        def call() -> None:
            self.now += seconds[self.calls.count(name) % len(seconds)]
            self.calls.append(name)

        return call


def test_the_median_counts_and_each_call_follows_one_of_its_own() -> None:
    clock = Clock()
    runs = {
        "steady": Run(clock.work("steady", 1.0)),
        "at times slow": Run(clock.work("at times slow", 0.5, 0.5, 0.5, 9.0, 0.5), 1 << 12),
    }
    assert measure(runs, clock) == {"steady": 1.0, "at times slow": 0.5}
    timed = clock.calls[2 * len(runs) :]
    assert timed[::2] == timed[1::2]
    assert timed[:4] == timed[6:8] + timed[4:6], "every other round goes backwards"
    assert len(timed) >= 2 * 5 * len(runs)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"int8": 1.0, "bfloat16": 0.5}, "bfloat16"),
        ({"int8": 1.0, "bfloat16": 0.91}, "int8"),
        ({"int8": 1.0, "bfloat16": 0.89}, "bfloat16"),
        ({"int8": 1.0, "int8 by oneDNN": 0.8, "bfloat16": 0.75}, "int8 by oneDNN"),
        ({"int8": 1.0, "int8 by oneDNN": 0.95, "bfloat16": 0.85}, "bfloat16"),
        ({"int8": 1.0, "int8 by oneDNN": 3.0, "bfloat16": 2.0}, "int8"),
    ],
)
def test_a_larger_form_must_be_clearly_faster(seconds: dict[str, float], chosen: str) -> None:
    assert decide(seconds) == chosen


def test_layers_are_added_and_what_stands_once_is_not() -> None:
    assert extrapolated({4: 0.7}, 4) == 0.7
    assert extrapolated({1: 5.0, 3: 9.0}, 32) == pytest.approx(3.0 + 32 * 2.0)
    assert extrapolated({1: 5.0, 3: 4.9}, 32) == 4.9, "noise gives no layer a negative time"


def graphs(scheme: QuantizationScheme = INT8, **options: Any) -> dict[str, list[str]]:
    """The candidates' names of each of Whisper's graphs."""
    config = {"d_model": 48, "encoder_layers": 1, "decoder_layers": 1}
    model = WHISPER.skeleton(config)
    plan, chosen = plan_for(model, scheme), Options(**options)
    cut = WHISPER.graphs(model, cache="static")
    return {graph.name: list(candidates(chosen, plan, graph, model)) for graph in cut}


def test_candidates_are_what_the_level_multiplies() -> None:
    assert graphs(**WIDE) == {"encoder": ALL, "decoder": ["int8", "int8 in bfloat16", "bfloat16"]}
    assert graphs(**{**WIDE, "bf16": False}) == {"encoder": ALL[:2], "decoder": ALL[:1]}
    assert graphs(**{**WIDE, "vnni": False})["encoder"] == [ALL[0], *ALL[2:]]
    assert graphs(march="x86-64-v3") == {"encoder": ALL[:1], "decoder": ALL[:1]}
    types = ["float32", "bfloat16"]
    assert graphs(FLOAT, **WIDE) == {"encoder": types, "decoder": types}
    assert graphs(WeightInt4(), **WIDE) == {"encoder": ALL[:3], "decoder": [ALL[0], ALL[2]]}


def test_auto_takes_both_options_of_a_graph() -> None:
    whole, mixed = Options(dtype="auto"), Options(dtype={"encoder": "auto"})
    assert whole.onednn == "auto"
    assert whole.variant("encoder").open
    assert mixed.variant("encoder") == Variant("auto", "auto")
    assert mixed.variant("decoder") == Options().variant("decoder")
    Options(dtype={"encoder": "auto"}, onednn={"decoder": False})
    for asked in (whole, mixed):
        assert Options.model_validate(asked.model_dump(mode="json")) == asked
    for wrong in ({"onednn": False}, {"onednn": {"decoder": False}}):
        with pytest.raises(ValidationError, match="dtype: auto` chooses"):
            Options(dtype="auto", **wrong)
    for wrong in ({"onednn": "auto"}, {"onednn": {"encoder": "auto"}}):
        with pytest.raises(ValidationError, match="goes with `dtype: auto`"):
            Options(**wrong)


def test_a_graph_that_is_not_there_is_refused(tiny_whisper: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_whisper))
    model = WHISPER.skeleton(checkpoint.config)
    for option in ("dtype", "onednn"):
        value = "auto" if option == "dtype" else True
        options, plan = Options(**{option: {"enc": value}}), plan_for(model)
        with pytest.raises(RecipeError, match=f"{option}: there is no graph 'enc'"):
            aoti.check(options, plan, model, checkpoint, WHISPER)


def test_the_plan_has_room_for_whatever_is_chosen(tiny_whisper: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_whisper))
    model = WHISPER.skeleton(checkpoint.config)

    plan = plan_for(model)

    cut = WHISPER.graphs(model, cache="static")
    found = {graph.name: candidates(Options(**WIDE), plan, graph, model) for graph in cut}
    sizes = {}
    setup = setup_of(Options(**WIDE), plan, model, WHISPER)
    for name, encoder in found["encoder"].items():
        for other, decoder in found["decoder"].items():
            each = setup.with_variant("encoder", encoder).with_variant("decoder", decoder)
            sizes[name, other] = sum(aoti._files(each, checkpoint, WHISPER).values())
    options = Options(**WIDE, dtype="auto")
    foretold = aoti.layout(options, plan, model, checkpoint, WHISPER)
    assert sum(foretold.values()) == max(sizes.values())
    assert len(set(sizes.values())) > 3

    def trials(**options: Any) -> int:
        return aoti.num_trials(Options(**options), plan, model, checkpoint, WHISPER)

    assert trials(**WIDE, dtype="auto") == 4 + 3
    assert trials(**WIDE, dtype={"decoder": "auto"}) == 3
    assert trials(**WIDE) == trials(march="x86-64-v3", dtype="auto") == 0
    deeper = replace(checkpoint, config={**checkpoint.config, "encoder_layers": 6})
    options = Options(**WIDE, dtype="auto")
    assert aoti.num_trials(options, plan, model, deeper, WHISPER) == 2 * 4 + 3


Timed = Callable[[dict[str, dict[str, float]]], None]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Let candidates take so long, by graph, without compiling or running them."""

    def set_(seconds: dict[str, dict[str, float]]) -> None:
        def runs(
            _job: Any, _setup: Any, name: str, found: Any, depths: Any, _folder: Path
        ) -> dict[Any, float]:
            return {(one, n): seconds[name][one] for one in found for n in depths}

        monkeypatch.setattr(autotune, "_runs", runs)
        monkeypatch.setattr(autotune, "measure", lambda runs: runs)

    return set_


def job_of(checkpoint: Path, folder: Path, **options: Any) -> Job[Options]:
    opened, plan = open_checkpoint(str(checkpoint)), whisper_plan(checkpoint)
    return Job(opened, WHISPER, Options(**{**WIDE, **options}), plan, folder, silent)


def chosen(job: Job[Options]) -> tuple[Setup, dict[str, AutotuneResult]]:
    model = WHISPER.skeleton(job.checkpoint.config)
    return choose(job, setup_of(job.options, job.plan, model, WHISPER))


def test_each_graph_gets_its_fastest_form(tiny_whisper: Path, tmp_path: Path, timed: Timed) -> None:
    encoder = {"int8": 3.0, "int8 by oneDNN": 2.9, "int8 in bfloat16": 2.5, "bfloat16": 1.0}
    decoder = {"int8": 1.0, "int8 in bfloat16": 0.95, "bfloat16": 2.0}
    timed({"encoder": encoder, "decoder": decoder})
    settled, choices = chosen(job_of(tiny_whisper, tmp_path, dtype="auto"))
    assert settled.variants["encoder"] == Variant("bfloat16", onednn=False, quantized=False)
    assert settled.variants["decoder"] == Variant("float32", onednn=False)
    assert settled.options.dtype == {"encoder": "bfloat16", "decoder": "float32"}
    assert settled.plan_of("encoder").quantized == {}
    assert settled.plan_of("decoder") == settled.plan
    assert choices["encoder"] == AutotuneResult(
        chosen="bfloat16", seconds=encoder, layers=(2,), depth=2
    )
    assert choices["decoder"].chosen == "int8"
    assert not list(tmp_path.iterdir())


def test_a_graph_that_is_not_open_stays_as_it_was_asked(
    tiny_whisper: Path, tmp_path: Path, timed: Timed
) -> None:
    timed({"encoder": dict.fromkeys(ALL, 1.0) | {"int8 by oneDNN": 0.5}})
    options = {"dtype": {"encoder": "auto", "decoder": "bfloat16"}, "onednn": {"decoder": False}}
    settled, choices = chosen(job_of(tiny_whisper, tmp_path, **options))
    assert list(choices) == ["encoder"]
    assert settled.variants["encoder"] == Variant("float32", onednn=True)
    assert settled.variants["decoder"] == Variant("bfloat16", onednn=False)
    asked = job_of(tiny_whisper, tmp_path)
    settled, choices = chosen(asked)
    assert (settled.options, choices) == (asked.options, {}), "without auto nothing is spelt out"


def test_one_candidate_needs_no_clock(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "measure", lambda _: pytest.fail("timed"))
    less = {"march": "x86-64-v3", "vnni": False, "bf16": False}
    settled, choices = chosen(job_of(tiny_whisper, tmp_path, **less, dtype="auto"))
    assert {choice.chosen for choice in choices.values()} == {"int8"}
    assert all(variant.quantized for variant in settled.variants.values())


def test_a_cut_has_the_real_widths_and_the_plan_of_the_layers_it_has(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    patterns = {"model.decoder.layers.1.*": FLOAT, "*.fc2": FLOAT}
    plan = whisper_plan(tiny_whisper, patterns=patterns)
    job = replace(job_of(tiny_whisper, tmp_path), plan=plan)
    cut = autotune._cut(job, 1 / 2, tmp_path)
    model = WHISPER.skeleton(cut.checkpoint.config)
    assert cut.checkpoint.tensors.keys() == model.state_dict().keys() - WHISPER.TIED.keys()
    assert all(
        cut.checkpoint.tensors[n] == job.checkpoint.tensors[n] for n in cut.checkpoint.tensors
    )
    assert {name.split(".")[3] for name in cut.checkpoint.tensors if ".layers." in name} == {"0"}
    shared = shared_tables(WHISPER.TIED, cut.checkpoint.tensors)
    assert cut.plan == plan_for(model, patterns={"*.fc2": FLOAT}, shared=shared)


PLAN = [
    {"scheme": "dynamic-int8", "parameters": {"bits": 8}, "modules": ["model.decoder.a"]},
    {"scheme": "float", "parameters": {}, "modules": ["model.encoder.a", "model.encoder.b"]},
]
CHOSEN = {
    "encoder": {"chosen": "bfloat16", "seconds": {"int8": 2.0, "bfloat16": 1.0}, "layers": [1, 3]}
    | {"depth": 6},
    "decoder": {"chosen": "int8", "depth": 6},
}


@pytest.fixture
def recorded(
    tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """A recipe that asks for auto, and the steps that a build of it takes, which do nothing."""
    path, steps = tmp_path / "tiny.yaml", list[str]()
    path.write_text(RECIPE.format(checkpoint=tiny_whisper, target="{kind: aoti, dtype: auto}"))

    def run(step: str, _request: Any, _progress: Any, **_: Any) -> dict[str, Any]:
        steps.append(step)
        settled = Options(dtype={"encoder": "bfloat16"})
        told = {"needs": {}, "options": settled.model_dump(mode="json"), "choices": CHOSEN}
        return {**told, "quantization": PLAN, "built_on": None, "seconds": 1.0, "peak_rss_bytes": 2}

    monkeypatch.setattr(worker, "run", run)
    monkeypatch.chdir(tmp_path)
    return path, steps


def test_a_choice_is_told_and_recorded_and_the_artifact_recognised(
    recorded: tuple[Path, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    path, steps = recorded
    lines = [
        "  encoder: bfloat16 (1 s a call; int8 2 s; extrapolated from 1 and 3 of 6 layers)",
        "  decoder: int8, the only candidate",
    ]
    assert main(["build", str(path), "--dry-run"]) == 0
    assert "dtype, onednn: chosen by timing while it is built" in capfd.readouterr().out
    assert main(["build", str(path)]) == 0
    assert capfd.readouterr().out.splitlines()[1:] == lines
    manifest = read_manifest(path.parent / "artifacts/tiny/aoti")
    assert manifest.choices["encoder"].seconds == {"int8": 2.0, "bfloat16": 1.0}
    assert manifest.options["dtype"] == {"encoder": "bfloat16"}
    assert manifest.quantization[0].modules == ("model.decoder.a",)
    before = len(steps)
    assert main(["build", str(path)]) == 0
    assert "already built, kept" in capfd.readouterr().out
    assert len(steps) == before
    assert main(["inspect", "artifacts/tiny/aoti"]) == 0
    out = capfd.readouterr().out
    assert "chosen for encoder: bfloat16\n" in out
    assert "quantization: dynamic-int8, bits 8: 1 module\n" in out
    assert "quantization: float: 2 modules\n" in out
    assert main(["build", str(path), "--set", "targets.0.dtype=float32"]) == 2


def test_what_was_compiled_to_be_timed_serves_the_build_and_the_plan_is_as_built(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the compiler: a package is its graph's own weights, and what it was asked for."""
    asked: dict[str, list[Any]] = {}
    prepare, specs = graph_builder.prepared, dict[str, Any]()

    def prepared(setup: Setup, checkpoint: Checkpoint, family: Any, name: str) -> Any:
        graph, model, weights = prepare(setup, checkpoint, family, name)
        names = parameter_names(graph, model)
        own = [SimpleNamespace(name=names[n], t=t) for n, t in graph.module.named_parameters()]
        constants = {
            c.name: SimpleNamespace(name=c.name, dtype=str(c.t.dtype)[6:], shape=tuple(c.t.shape))
            for c in own
            if (c.name.startswith("model.encoder.") or ".encoder_attn." not in c.name)
        }
        specs["last"] = SimpleNamespace(constants=constants)
        return graph, model, weights

    def get_or_build(path: Path, _what: str, parts: Any, *_: Any, **__: Any) -> None:
        asked.setdefault(path.stem, []).append(parts)

    seconds = {"int8": 3.0, "int8 in bfloat16": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(graph_builder, "prepared", prepared)
    monkeypatch.setattr(graph_builder, "get_or_build", get_or_build)
    monkeypatch.setattr(graph_builder, "read_spec", lambda _: specs["last"])
    monkeypatch.setattr(autotune, "_call", lambda *_: None)
    monkeypatch.setattr(autotune, "measure", lambda runs: {run: seconds[run[0]] for run in runs})
    monkeypatch.setattr(aoti, "require_features", lambda *_: None)
    monkeypatch.setattr(aoti, "write_safetensors", lambda *_: None)
    monkeypatch.setattr(aoti, "read_spec", lambda _: SimpleNamespace(needs_torch=False))
    result = aoti.build(job_of(tiny_whisper, tmp_path, dtype={"decoder": "auto"}))
    *timed, final = asked["decoder"]
    assert len(timed) == 3
    assert final == timed[-1] != timed[0]
    assert result.options["dtype"] == {"encoder": "float32", "decoder": "bfloat16"}
    by_scheme = {group.scheme: group.modules for group in result.quantization}
    assert "proj_out" in by_scheme["float"]
    assert "model.decoder.layers.0.fc1" in by_scheme["float"]
    assert all(name.startswith("model.encoder.") for name in by_scheme["dynamic-int8"])


@pytest.mark.sweep
@pytest.mark.skipif("avx512_vnni" not in HERE.features, reason="there is nothing to choose")
def test_a_real_choice_speaks_and_is_recognised(tiny_whisper: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    target = "{kind: aoti, bf16: false, dtype: {encoder: auto}}"
    path.write_text(RECIPE.format(checkpoint=tiny_whisper, target=target))
    wanted = recipe.read(path)
    (one,) = builder.build(wanted, output=tmp_path, progress=silent)
    choice = one.manifest.choices["encoder"]
    assert choice.seconds.keys() == {"int8", "int8 by oneDNN"}
    assert choice.chosen == decide(choice.seconds)
    assert min(choice.seconds.values()) > 0
    assert (choice.layers, choice.depth) == ((2,), 2)
    by_onednn = choice.chosen == "int8 by oneDNN"
    amx = "amx_int8" in HERE.features  # then oneDNN is the default
    assert one.manifest.options["onednn"] == {"encoder": by_onednn, "decoder": amx}
    assert not list(one.path.glob(".choosing-*"))
    assert next(build.choices(one.manifest)).startswith(f"encoder: {choice.chosen} (")
    assert load(one.path).manifest == one.manifest
    (again,) = builder.build(wanted, output=tmp_path, progress=silent)
    assert again.reused
    assert again.manifest == one.manifest
