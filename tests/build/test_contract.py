"""The contract of families x targets: build, seal, lose the original, reload in a fresh process.

Real builds with real compilers: a float16 English-only checkpoint and a float32 multilingual one,
of different shape, vocabulary and window, through every target with the same short recipe.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch

import exporter
from exporter import recipe
from exporter.artifact import build_registry, local_paths, report, store
from exporter.artifact.manifest import Manifest
from exporter.build.pipeline import BuiltArtifact, build
from exporter.errors import BusyError, IntegrityError, RecipeError, TrustError
from exporter.recognition.load import load, load_original
from exporter.system.progress import silent
from exporter.validate import validate
from tests.support import exact
from tests.support.generating import REFUSED, REQUESTS, inputs_of, require_alike, stock
from tests.support.recipes import write_recipe

pytestmark = pytest.mark.slow

KINDS = ["onnx-int8", "torch-int8", "aoti"]


def texts_of(path: Path, clips: Path) -> list[str]:
    """Transcribe in a fresh process, from the sealed folder alone."""
    command = [sys.executable, "-m", "exporter", "transcribe", str(path), "--json"]
    command += [str(clip) for clip in sorted(clips.glob("*.wav"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [row["text"] for row in json.loads(done.stdout)["transcripts"]]


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory, english_whisper: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("english")
    wanted = write_recipe(folder, english_whisper, "{}")
    built = build(wanted, output=folder / "artifacts", progress=silent)
    return {"folder": folder, "recipe": wanted, "built": built, "checkpoint": english_whisper}


def one(english: dict[str, Any], kind: str) -> BuiltArtifact:
    built: list[BuiltArtifact] = english["built"]
    return next(each for each in built if each.manifest.kind == kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_process_gives_the_originals_text(english: dict[str, Any], kind: str) -> None:
    original = load_original(str(english["checkpoint"]), threads=1)
    clips = english["folder"] / "clips"
    expected = [t.text for t in original.transcribe(sorted(clips.glob("*.wav")))]
    assert all(expected)
    assert texts_of(one(english, kind).path, clips) == expected


SCRIPT = """
import sys, exporter
recogniser = exporter.load(sys.argv[1], threads=1)
several = {"num_beams": 2, "batch_size": 2}
for options in ({}, {"timestamps": True}, {"word_timestamps": True}, several):
    for transcript in recogniser.transcribe_iter(sys.argv[2:], **options):
        print(transcript)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_shows_nothing_but_what_it_prints(english: dict[str, Any], kind: str) -> None:
    clips = sorted(map(str, (english["folder"] / "clips").glob("*.wav")))
    command = [sys.executable, "-W", "default", "-c", SCRIPT, str(one(english, kind).path), *clips]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4 * len(clips)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_timed_as_the_originals(english: dict[str, Any], kind: str) -> None:
    """Also in batches and in long recordings; both in the form that needs no torch, and in it."""
    original = load_original(str(english["checkpoint"]), threads=1)
    source = np.random.default_rng(1)
    audio = [source.normal(0, 0.1, 16_000 * seconds).astype(np.float32) for seconds in (2, 5, 14)]
    how: dict[str, Any] = {"sampling_rate": 16_000, "word_timestamps": True, "batch_size": 2}
    recogniser = load(one(english, kind).path, threads=1)
    expected = original.transcribe(audio, **how)
    for _ in range(2):
        for found, theirs in zip(recogniser.transcribe(audio, **how), expected, strict=True):
            ours, others = (
                [word for segment in each.segments for word in segment.words or ()]
                for each in (found, theirs)
            )
            assert [word.text for word in ours] == [word.text for word in others]
            gaps = [abs(a.start_s - b.start_s) for a, b in zip(ours, others, strict=True)]
            assert np.median(gaps) < 0.05
        assert recogniser.model is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_tells_what_was_built(english: dict[str, Any], kind: str) -> None:
    told = store.verify(one(english, kind).path)
    assert told == one(english, kind).manifest
    assert told.checkpoint.source == Path(english["checkpoint"]).name
    assert local_paths.read(one(english, kind).path, told).checkpoint == str(english["checkpoint"])
    assert {"torch", "transformers", "onnx"} <= told.versions.keys()
    assert told.versions["exporter"] == exporter.__version__
    assert told.build.peak_rss_bytes > 1 << 20
    assert told.build.seconds > 0
    assert {"config.json", "generation_config.json", "preprocessor_config.json"} <= {
        file.path for file in told.files
    }


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_lengths_unlike_the_traced_ones(english: dict[str, Any], kind: str) -> None:
    """Alone, in fives and with five beams; shapes that no graph was traced with."""
    recogniser = load(one(english, kind).path, threads=1)
    source = np.random.default_rng(1)
    audio = [source.normal(0, 0.1, 16000 + 9000 * i).astype(np.float32) for i in range(5)]
    alone = [t.text for t in recogniser.transcribe(audio, sampling_rate=16000)]
    fives = recogniser.transcribe(audio, sampling_rate=16000, batch_size=5)
    together = [t.text for t in fives]
    beams = recogniser.transcribe(audio, sampling_rate=16000, num_beams=5, batch_size=2)
    assert alone == together
    assert all(t.text for t in beams)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_answers_transformers_requests(
    english: dict[str, Any], english_whisper: Path, kind: str
) -> None:
    """Logits of prompts, searches without a cache, candidates and thresholds: as the original."""
    given = inputs_of(english_whisper, english=True)
    model, original = load(one(english, kind).path, threads=1).model, stock(english_whisper)
    with torch.no_grad():
        for name, request in REQUESTS.items():
            print(name)  # shown if it fails
            require_alike(request(model, given), request(original, given), tolerance=0.1)
    if kind != "torch-int8":
        for request, told in REFUSED.values():
            with pytest.raises(RecipeError, match=told):
                request(model, given)


def test_the_validator_judges_what_was_built(english: dict[str, Any]) -> None:
    """Two fresh processes, one verdict, bound to the digest; the page stands on its own."""
    folder = one(english, "onnx-int8").path
    (told,) = validate([folder], threads=1)
    assert told.verdict == "passed", told.sentence
    assert report.read(folder) == told
    assert told.artifact.digest == store.verify(folder).digest
    assert told.figures.wer == told.reference_figures.wer
    page = (folder / "report.html").read_text()
    assert "passed" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["pred_text"] for row in rows] == [row["pred_text_reference"] for row in rows]


def test_int8_products_have_a_constant_side(english: dict[str, Any]) -> None:
    """Neither attention's products nor convolutions nor embeddings are int8; weights lie once."""
    folder = one(english, "onnx-int8").path
    for name in ("encoder_model", "decoder_model_merged", "cross_cache", "step"):
        model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        onnx.checker.check_model(str(folder / f"{name}.onnx"))
        graphs = [model.graph]
        graphs += [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
        weights = {initializer.name for initializer in model.graph.initializer}
        nodes = [node for graph in graphs for node in graph.node]
        turned = [node for node in nodes if node.op_type == "Transpose"]  # the head's rows
        weights |= {node.output[0] for node in turned if node.input[0] in weights}
        integer = [node for node in nodes if node.op_type == "MatMulInteger"]
        assert integer
        assert all(node.input[1] in weights for node in integer)
        assert not {"ConvInteger", "QLinearConv"} & {node.op_type for node in nodes}
        attends = ("MultiHeadAttention", "GroupQueryAttention", "Softmax")
        assert name == "cross_cache" or any(node.op_type in attends for node in nodes)
    config = json.loads((folder / "ort_config.json").read_text())
    quantization = config["quantization"]
    assert (quantization["weights_dtype"], quantization["activations_dtype"]) == ("QInt8", "QUInt8")


def test_all_targets_store_the_same_numbers(english: dict[str, Any]) -> None:
    from onnx import numpy_helper
    from safetensors.numpy import load_file

    stored = load_file(one(english, "torch-int8").path / "model.safetensors")
    model = onnx.load(one(english, "onnx-int8").path / "encoder_model.onnx")
    name = "encoder.layers.0.self_attn.q_proj.weight"
    found = next(i for i in model.graph.initializer if i.name == name)
    assert np.array_equal(numpy_helper.to_array(found).T, stored[f"model.{name}"])


@pytest.mark.optimum
def test_optimum_loads_the_onnx_folder_as_it_is(english: dict[str, Any]) -> None:
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
    from transformers import AutoProcessor, pipeline

    folder = one(english, "onnx-int8").path
    processor = AutoProcessor.from_pretrained(folder)
    model = ORTModelForSpeechSeq2Seq.from_pretrained(folder)
    heard = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    clips = sorted((english["folder"] / "clips").glob("*.wav"))
    expected = [t.text for t in load(folder, threads=1).transcribe(clips)]
    sounds = [soundfile.read(clip, dtype="float32")[0] for clip in clips]
    assert [heard(sound)["text"].strip() for sound in sounds] == expected
    beams = heard(sounds, batch_size=3, generate_kwargs={"num_beams": 3})
    assert all(row["text"].strip() for row in beams)


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_runs_the_loaded_model(english: dict[str, Any], kind: str) -> None:
    from transformers import WhisperForConditionalGeneration, pipeline

    recogniser = load(one(english, kind).path, threads=1)
    assert isinstance(recogniser.model, WhisperForConditionalGeneration)
    heard = pipeline(
        "automatic-speech-recognition",
        model=recogniser.model,
        tokenizer=recogniser.processor.tokenizer,
        feature_extractor=recogniser.processor.feature_extractor,
    )
    clips = sorted((english["folder"] / "clips").glob("*.wav"))
    expected = [t.text for t in recogniser.transcribe(clips)]
    sounds = [soundfile.read(clip, dtype="float32")[0] for clip in clips]
    assert [heard(sound)["text"].strip() for sound in sounds] == expected


def test_a_second_build_keeps_what_is_the_same(english: dict[str, Any]) -> None:
    again = build(english["recipe"], output=english["folder"] / "artifacts", progress=silent)
    assert [each.reused for each in again] == [True, True, True]
    assert [each.manifest for each in again] == [each.manifest for each in english["built"]]


def test_other_options_need_force(english: dict[str, Any]) -> None:
    path = english["recipe"].path
    changed = recipe.read(
        path, ["targets.1.quantization.default={scheme: dynamic-int8, per_channel: false}"]
    )
    where = {"output": english["folder"] / "artifacts", "targets": ["torch-int8"]}
    with pytest.raises(RecipeError, match="--force"):
        build(changed, **where, progress=silent)
    assert store.verify(one(english, "torch-int8").path) == one(english, "torch-int8").manifest


def test_a_place_that_is_held(english: dict[str, Any]) -> None:
    where = {"output": english["folder"] / "artifacts", "targets": ["torch-int8"]}
    with (
        store.stage(one(english, "torch-int8").path),
        pytest.raises(BusyError, match="another build"),
    ):
        build(english["recipe"], **where, force=True, progress=silent)


def test_the_same_recipe_gives_the_same_bytes(
    english: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    """ONNX and safetensors bit for bit, wherever they are built; whatever was kept, too."""
    output = english["folder"] / "elsewhere"
    told: list[str] = []
    where = {"progress": lambda what, _: told.append(what), "output": output}
    kinds = ["onnx-int8", "torch-int8"]
    built = build(english["recipe"], **where, targets=kinds, force=True)
    assert any("tracing" in what for what in told)
    told.clear()
    built += build(english["recipe"], **where, targets=["aoti"])
    assert not any("compiling" in what for what in told)
    for again in built:
        assert again.manifest.files == one(english, again.manifest.kind).manifest.files
    record_property("promise", "P8")
    record_property("cases", len(built))


def test_new_terms_of_judging_need_no_build(
    english: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "artifacts"
    shutil.copytree(english["folder"] / "artifacts", output)
    monkeypatch.delattr("exporter.system.worker.run")
    before = {each.manifest.kind: each.manifest for each in english["built"]}
    changed = recipe.read(english["recipe"].path, ["gate.min_clips=2"])
    for each in build(changed, output=output, progress=silent):
        old = before[each.manifest.kind]
        assert each.reused
        assert store.verify(each.path) == each.manifest
        assert each.manifest.digest != old.digest
        assert each.manifest.build == old.build
        differ = {file.path for file in set(each.manifest.files) ^ set(old.files)}
        assert differ == {"recipe.yaml"}
        assert recipe.read(each.path / "recipe.yaml").gate.min_clips == 2
        assert build_registry.built_here(each.manifest)
    (again,) = build(changed, output=output, targets=["aoti"], progress=silent)
    assert again.manifest == store.read_manifest(output / "tiny" / "aoti")


def test_a_recipe_without_paths_of_this_machine_takes_the_place_of_one_with_them(
    english: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what cannot be published is mended without a build."""
    shutil.copytree(english["folder"] / "artifacts", tmp_path / "artifacts")
    monkeypatch.delattr("exporter.system.worker.run")
    found = []
    for name in ("/somewhere/else", "beside", "/somewhere/else"):
        named = recipe.read(english["recipe"].path, [f"checkpoint={name}"])
        (each,) = build(
            named,
            output=tmp_path / "artifacts",
            checkpoint=str(english["checkpoint"]),
            targets=["torch-int8"],
            progress=silent,
        )
        found.append(recipe.read(each.path / "recipe.yaml").checkpoint)
    assert found == [str(english["checkpoint"]), "beside", "beside"]


def test_what_came_from_elsewhere_is_not_vouched_for_by_new_terms(
    english: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(english["folder"] / "artifacts", tmp_path / "artifacts")
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "another machine"))
    changed = recipe.read(english["recipe"].path, ["gate.min_clips=2"])
    (each,) = build(changed, output=tmp_path / "artifacts", targets=["aoti"], progress=silent)
    assert each.reused
    with pytest.raises(TrustError, match=r"decoder\.pt2, encoder\.pt2"):
        load(each.path, threads=1)
    assert load(each.path, threads=1, trust=True).manifest == each.manifest


def test_a_kept_artifact_that_changes_meanwhile_is_not_sealed_again(
    english: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "artifacts"
    shutil.copytree(english["folder"] / "artifacts", output)
    place = output / "tiny" / "torch-int8"
    changed = recipe.read(english["recipe"].path, ["gate.min_clips=2"])
    verify = store.verify

    def verified(folder: Path) -> Manifest:
        manifest = verify(folder)
        (folder / "model.safetensors").write_bytes(b"other")
        return manifest

    monkeypatch.setattr(store, "verify", verified)
    with pytest.raises(IntegrityError, match="changed while it was copied"):
        build(changed, output=output, targets=["torch-int8"], progress=silent)
    assert "min_clips: 1" in (place / "recipe.yaml").read_text()


KILLED = """
import sys
from pathlib import Path
from exporter import recipe
from exporter.build.pipeline import build
wanted, output = recipe.read(Path(sys.argv[1])), Path(sys.argv[2])
build(wanted, output=output, targets=["aoti"], progress=lambda what, _: print(what, flush=True))
"""


@pytest.mark.sweep
def test_a_build_that_was_killed_goes_on(
    english: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", KILLED, str(english["recipe"].path), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        while "compiling decoder" not in first.stdout.readline():
            assert first.poll() is None
        first.kill()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "compiling encoder" not in done.stdout
    assert "compiling decoder" in done.stdout
    again = store.verify(tmp_path / "out" / "tiny" / "aoti")
    assert again.files == one(english, "aoti").manifest.files
    assert not list((tmp_path / "out" / "tiny").glob(".aoti.partial-*"))


@pytest.mark.usefixtures("steps_here")
def test_a_multilingual_float32_checkpoint(tiny_whisper: Path, tmp_path: Path) -> None:
    wanted = write_recipe(tmp_path, tiny_whisper, "{language: en, task: transcribe}")
    kinds = ["onnx-int8", "torch-int8"]
    original = load_original(str(tiny_whisper), threads=1, decoding=wanted.decoding)
    clips = sorted((tmp_path / "clips").glob("*.wav"))
    expected = [t.text for t in original.transcribe(clips)]
    wanted = recipe.read(wanted.path, exact.OVERRIDES)
    for each in build(wanted, output=tmp_path / "out", targets=kinds, progress=silent):
        assert [t.text for t in load(each.path, threads=1).transcribe(clips)] == expected


@pytest.mark.usefixtures("steps_here")
@pytest.mark.parametrize(
    "option",
    [
        "preset=avx2",
        "quantization.default={scheme: dynamic-int8, per_channel: false}",
        "quantization.default={scheme: dynamic-int8, bits: 7}",
        "quantization.modules={lm_head: float}",
    ],
)
def test_onnx_options(tiny_whisper: Path, tmp_path: Path, option: str) -> None:
    path = write_recipe(tmp_path, tiny_whisper, "{language: en, task: transcribe}").path
    wanted = recipe.read(path, [f"targets.0.{option}"])
    (built,) = build(wanted, output=tmp_path / "out", targets=["onnx-int8"], progress=silent)
    clips = sorted((tmp_path / "clips").glob("*.wav"))
    assert all(t.text for t in load(built.path, threads=1).transcribe(clips))


@pytest.mark.usefixtures("steps_here")
@pytest.mark.parametrize(
    ("quantization", "encoder_bytes", "decoder_bytes"),
    [
        ("{default: float}", 4, 4),
        ("{default: {scheme: float, dtype: float16}}", 2, 2),
        ("{default: {scheme: float, dtype: bfloat16}}", 2, 2),
        ('{modules: {"*encoder.*": float}}', 4, 1),
        ('{modules: {"*encoder.*": {scheme: float, dtype: float16}}}', 2, 1),
    ],
)
def test_onnx_precisions(
    english: dict[str, Any],
    tmp_path: Path,
    quantization: str,
    encoder_bytes: int,
    decoder_bytes: int,
) -> None:
    """Weights are stored as asked, each once, and the float16 original's text comes out."""
    wanted = recipe.read(english["recipe"].path, [f"targets.0.quantization={quantization}"])
    (built,) = build(wanted, output=tmp_path, targets=["onnx-int8"], progress=silent)
    clips = sorted((english["folder"] / "clips").glob("*.wav"))
    original = load_original(str(english["checkpoint"]), threads=1)
    expected = [t.text for t in original.transcribe(clips)]
    assert [t.text for t in load(built.path, threads=1).transcribe(clips)] == expected
    for name, width in (("encoder_model", encoder_bytes), ("decoder_model_merged", decoder_bytes)):
        model = onnx.load(built.path / f"{name}.onnx")
        stored = {
            i.name: len(i.raw_data) // max(1, np.prod(i.dims)) for i in model.graph.initializer
        }
        linears = {n for n in stored if n.endswith(("proj.weight", "fc1.weight", "fc2.weight"))}
        assert {stored[n] for n in linears} == {width}
        assert ("proj_out.weight" in stored) == (name == "decoder_model_merged" and width == 1)
