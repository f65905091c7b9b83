"""An artifact's small files, plan and facts against its checkpoint: what differs is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import store
from exporter.artifact.manifest import RECIPE, AutotuneResult, QuantizedModules
from exporter.artifact.report import Check
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.quantization.plan import plan_of, shared_tables
from exporter.quantization.resolve import default_quantization
from exporter.recipe import read
from exporter.targets import TARGETS
from exporter.validate.evidence import origin
from tests.support.built import Change, build_tiny, damaged, edit
from tests.support.newer import as_transformers_5
from tests.support.tiny import make_whisper
from tests.support.tiny_adapter import write_adapter

BUILT = """
  - kind: torch-int8
  - {kind: onnx-int8, name: optimum, preset: avx512_vnni}
  - {kind: onnx-int8, name: javascript, layout: transformers.js}
  - {kind: torch-int8, name: mixed, quantization: {modules: {"*.fc1": {scheme: float}}}}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("evidence") / "checkpoint")


@pytest.fixture(scope="module")
def artifacts(checkpoint: Path) -> dict[str, Path]:
    return build_tiny(checkpoint.parent, checkpoint, BUILT)


def checked(folder: Path, checkpoint: Path) -> tuple[Check, Check]:
    """Return the checks of small files and of the plan."""
    manifest = store.verify(folder)
    opened = open_checkpoint(str(checkpoint))
    companions, plan = origin.checks(folder, manifest, read(folder / RECIPE), opened)
    return companions, plan


@pytest.mark.parametrize("name", ["torch-int8", "optimum", "javascript", "mixed"])
def test_what_a_build_writes_passes(
    name: str, artifacts: dict[str, Path], checkpoint: Path
) -> None:
    for check in checked(artifacts[name], checkpoint):
        assert check.passed, check
        assert not check.advice


@pytest.mark.parametrize("how", ["english", "transformers 5", "adapter"])
def test_other_checkpoints_pass(how: str, tmp_path: Path, english_whisper: Path) -> None:
    folder = english_whisper
    if how == "adapter":
        folder = write_adapter(make_whisper(tmp_path / "checkpoint"))
    if how == "transformers 5":
        folder = as_transformers_5(make_whisper(tmp_path / "checkpoint"))
    for artifact in build_tiny(tmp_path, folder, "[{kind: torch-int8}]").values():
        assert all(check.passed for check in checked(artifact, folder))


def append(name: str, text: str) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def rolled(folder: Path) -> None:
    """Number the words of the vocabulary from one, not from zero."""
    told = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({word: n + 1 for word, n in told.items()}))


def unspecial(folder: Path) -> None:
    told = json.loads((folder / "tokenizer_config.json").read_text())
    number = min(told["added_tokens_decoder"], key=int)
    told["added_tokens_decoder"][number]["special"] = False
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


DAMAGE: dict[str, tuple[Change, str, str]] = {
    "another end": (
        edit("generation_config.json", eos_token_id=5),
        "generation_config.json: eos_token_id is 5, ",
        "where decoding ends",
    ),
    "nothing suppressed": (
        edit("generation_config.json", suppress_tokens=[]),
        "suppress_tokens is a list of 0, a list of 6 (with ",
        "tokens that are never chosen",
    ),
    "a key removed": (
        edit("generation_config.json", begin_suppress_tokens=None),
        "begin_suppress_tokens is absent, ",
        "not chosen first",
    ),
    "a key added": (
        edit("config.json", forced_decoder_ids=[[1, 2]]),
        "forced_decoder_ids is [[1, 2]], ",
        "absent in the original",
    ),
    "true for one": (edit("config.json", encoder_layers=True), "encoder_layers is true, ", ""),
    "another activation": (
        edit("config.json", activation_function="relu"),
        'config.json: activation_function is "relu", "gelu" originally',
        "the function between the feed-forward layers",
    ),
    "another hop": (
        edit("preprocessor_config.json", hop_length=200),
        "preprocessor_config.json: hop_length is 200, 160 originally",
        "the samples between two frames",
    ),
    "a note": (
        edit("config.json", transformers_version="5.0.0"),
        "transformers_version",
        "without effect on decoding",
    ),
    "merges": (append("merges.txt", "a b\n"), "merges.txt: line ", "how text is split"),
    "no longer special": (unspecial, "added_tokens_decoder.", ".special is false, true"),
    "ids moved by one": (rolled, "vocab.json: ", "English-only"),
    "a file gone": (lambda f: (f / "merges.txt").unlink(), "merges.txt is missing", ""),
    "a file more": (
        lambda f: (f / "chat_template.jinja").write_text("{{ x }}"),
        "chat_template.jinja is extra, the checkpoint has none",
        "",
    ),
    "no JSON": (lambda f: (f / "added_tokens.json").write_text("{"), "json: line ", ""),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_differs_is_named_with_its_effect(
    what: str, artifacts: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    change, told, effect = DAMAGE[what]
    folder = damaged(artifacts["torch-int8"], tmp_path / "artifact", change)
    companions, plan = checked(folder, checkpoint)
    assert companions.passed is False
    assert told in companions.sentence
    assert effect in companions.sentence + companions.advice
    assert "--force" in companions.advice
    assert len(companions.sentence) < 320
    assert plan.passed


def test_other_spaces_and_another_order_are_no_difference(
    artifacts: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    def rewritten(folder: Path) -> None:
        for path in folder.glob("*.json"):
            if path.name not in store.SIDECAR_FILES:
                told = json.loads(path.read_text(encoding="utf-8"))
                path.write_text(json.dumps(dict(reversed(told.items())), indent=7))

    folder = damaged(artifacts["torch-int8"], tmp_path / "artifact", rewritten)
    assert all(check.passed for check in checked(folder, checkpoint))


def test_what_decoding_reads_first_is_named_first(
    artifacts: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    def several(folder: Path) -> None:
        edit("config.json", _name_or_path="else", transformers_version="9")(folder)
        edit("generation_config.json", alignment_heads=[[0, 0]], eos_token_id=7)(folder)
        edit("special_tokens_map.json", eos_token="a")(folder)

    folder = damaged(artifacts["torch-int8"], tmp_path / "artifact", several)
    companions, _ = checked(folder, checkpoint)
    assert companions.sentence.startswith("generation_config.json: eos_token_id is 7, ")
    assert "more values differ, in config.json, generation_config.json, special" in (
        companions.sentence
    )
    assert companions.value is not None
    assert companions.value >= 5


def test_the_config_for_transformers_js_is_compared_too(
    artifacts: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    def change(folder: Path) -> None:
        told = json.loads((folder / "config.json").read_text())
        told["transformers.js_config"]["dtype"] = "fp32"
        (folder / "config.json").write_text(json.dumps(told))

    folder = damaged(artifacts["javascript"], tmp_path / "artifact", change)
    assert "transformers.js_config.dtype is" in checked(folder, checkpoint)[0].sentence


def test_targets_own_files_are_compared(
    artifacts: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    def coarser(folder: Path) -> None:
        told = json.loads((folder / "quantization.json").read_text())
        next(iter(told["modules"].values()))["per_channel"] = False
        (folder / "quantization.json").write_text(json.dumps(told))

    folder = damaged(artifacts["torch-int8"], tmp_path / "torch", coarser)
    assert "per_channel is false, true originally" in checked(folder, checkpoint)[0].sentence
    opset = edit("ort_config.json", opset=11)
    folder = damaged(artifacts["optimum"], tmp_path / "onnx", opset)
    assert "ort_config.json: opset is 11" in checked(folder, checkpoint)[0].sentence


def left_float(groups: tuple[QuantizedModules, ...]) -> tuple[QuantizedModules, ...]:
    first, *modules = groups[0].modules
    floats = QuantizedModules(scheme="float", parameters={"dtype": None}, modules=(first,))
    return (groups[0].model_copy(update={"modules": tuple(modules)}), floats)


def of_seven_bits(groups: tuple[QuantizedModules, ...]) -> tuple[QuantizedModules, ...]:
    parameters = {**groups[0].parameters, "bits": 7}
    return (groups[0].model_copy(update={"parameters": parameters}),)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (left_float, "as float"),
        (of_seven_bits, "bits 7"),
        (lambda _groups: (), "as left out, and recipe.yaml makes it dynamic-int8 (bits 8"),
    ],
)
def test_a_plan_that_the_recipe_does_not_make(
    change: Callable[[tuple[QuantizedModules, ...]], tuple[QuantizedModules, ...]],
    told: str,
    artifacts: dict[str, Path],
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    plan = change(store.read_manifest(artifacts["optimum"]).quantization)
    folder = damaged(artifacts["optimum"], tmp_path / "artifact", lambda _: None, quantization=plan)
    companions, check = checked(folder, checkpoint)
    assert companions.passed
    assert check.passed is False
    assert told in check.sentence
    assert "--force" in check.advice


def test_facts_of_a_manifest_that_are_not_so(
    artifacts: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    source = artifacts["optimum"]
    manifest = store.read_manifest(source)
    more = manifest.checkpoint.model_copy(update={"parameters": 7})
    folder = damaged(source, tmp_path / "a", lambda _: None, checkpoint=more)
    assert "checkpoint.parameters is 7, and " in checked(folder, checkpoint)[1].sentence
    other = {**manifest.options, "preset": "avx2"}
    folder = damaged(source, tmp_path / "b", lambda _: None, options=other)
    sentence = checked(folder, checkpoint)[1].sentence
    assert "options.preset is avx2, and avx512_vnni in recipe.yaml" in sentence
    folder = damaged(source, tmp_path / "c", append("recipe.yaml", "gate: {min_clips: 1}\n"))
    assert "recipe.sha256 is" in checked(folder, checkpoint)[1].sentence
    beams = {**manifest.decoding, "num_beams": 5}
    folder = damaged(source, tmp_path / "d", lambda _: None, decoding=beams)
    assert "manifest.json: decoding is" in checked(folder, checkpoint)[1].sentence


def test_modules_that_aoti_chose_to_leave_float(checkpoint: Path) -> None:
    """A graph in bfloat16, by measurement, has no int8 weights: the plan says so."""
    opened, family, target = open_checkpoint(str(checkpoint)), FAMILIES["whisper"], TARGETS["aoti"]
    model = family.skeleton(opened.config)
    shared = shared_tables(family.TIED, opened.tensors)
    plan = plan_of(default_quantization(model, family.HEAD, shared), model)
    options: Any = target.Options
    chosen = options(march="x86-64-v3", threads=1)

    def left(*graphs: str) -> set[str]:
        choices = {name: AutotuneResult(chosen="bfloat16", depth=1) for name in graphs}
        records = target.records(chosen, plan, model, opened, family, choices)
        return plan.quantized.keys() - records.plan.quantized.keys()

    assert not left()
    assert left("encoder")
    assert all(name.startswith("model.encoder") for name in left("encoder") - left("decoder"))
    assert left("encoder", "decoder") == set(plan.quantized)
