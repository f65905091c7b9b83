"""The doctor: folders with one thing broken, and exactly that is found; configs and files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file

from exporter import doctor
from exporter.artifact import store
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.cli import main
from exporter.errors import HubError
from exporter.families import FAMILIES
from exporter.system.progress import silent
from exporter.targets import TARGETS
from exporter.targets.base import Job
from tests.support.doctoring import (
    CONFIG,
    ENCODER,
    EXTRACTOR,
    GENERATION,
    MERGED,
    Change,
    Copy,
    changed,
    findings,
    without,
)
from tests.support.hub import File, Hub
from tests.support.newer import as_transformers_5, change
from tests.support.plans import whisper_plan
from tests.support.sealed import manifest
from tests.support.tiny_speechbrain import make_speechbrain

TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")


@pytest.fixture(scope="module")
def ours(windowed_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts as we build and seal them, by kind."""
    return {
        kind: sealed(windowed_whisper, kind, tmp_path_factory.mktemp("doctor") / kind)
        for kind in ("onnx-int8", "torch-int8")
    }


def sealed(checkpoint: Path, kind: str, folder: Path) -> Path:
    target, opened = TARGETS[kind], open_checkpoint(str(checkpoint))
    folder.mkdir()
    plan = whisper_plan(checkpoint)
    job = Job(opened, FAMILIES["whisper"], target.Options(), plan, folder, silent)
    target.build(job)
    for path in opened.companions.values():
        shutil.copy(path, folder)
    store.seal(folder, manifest(kind))
    return folder


def test_healthy_folders(
    windowed_whisper: Path, merged_export: Path, ours: dict[str, Path]
) -> None:
    for folder in (windowed_whisper, merged_export, *ours.values()):
        assert findings(folder) == []


def test_what_they_look_like(
    windowed_whisper: Path, merged_export: Path, ours: dict[str, Path], copied: Copy
) -> None:
    folders = (windowed_whisper, merged_export, ours["torch-int8"])
    told = [doctor.examine(str(folder)) for folder in folders]
    assert [each.layout for each in told] == ["checkpoint", "optimum", "artifact"]
    assert all(
        "of whisper: 2 encoder and 2 decoder layers, 80 mel bins, " in t.looks_like for t in told
    )
    browser = copied(merged_export)
    (browser / "onnx").mkdir()
    for name in (ENCODER, MERGED):
        (browser / name).rename(browser / "onnx" / name)
    assert doctor.examine(str(browser)).layout == "transformers.js"
    assert findings(browser) == []


BROKEN: dict[str, tuple[Change, str, str, str]] = {
    "no config": (without(CONFIG), "problem", "missing_files", CONFIG),
    "no extractor": (without(EXTRACTOR), "problem", "missing_files", EXTRACTOR),
    "no generation config": (without(GENERATION), "problem", "missing_files", GENERATION),
    "no tokenizer": (
        without(*TOKENIZER),
        "problem",
        "missing_files",
        "tokenizer.json (or vocab.json and merges.txt)",
    ),
    "code": (changed(CONFIG, auto_map={"AutoModel": "x.X"}), "problem", "code_in_configs", CONFIG),
    "mels of another": (changed(EXTRACTOR, feature_size=128), "problem", "mel_bins", EXTRACTOR),
    "a config with other mels": (changed(CONFIG, num_mel_bins=128), "problem", "mel_bins", CONFIG),
    "a config with other layers": (
        changed(CONFIG, encoder_layers=4),
        "problem",
        "layers",
        CONFIG,
    ),
    "another window": (changed(EXTRACTOR, chunk_length=15), "problem", "window", EXTRACTOR),
    "another vocabulary": (changed(CONFIG, vocab_size=51865), "problem", "vocabulary", CONFIG),
    "another tokenizer": (
        changed(GENERATION, no_timestamps_token_id=6, task_to_id={"transcribe": 7}),
        "problem",
        "token_numbers",
        GENERATION,
    ),
    "another end": (changed(CONFIG, eos_token_id=3), "problem", "end_token", GENERATION),
    "no languages": (changed(GENERATION, lang_to_id=None), "problem", "prompt", GENERATION),
    "no word of languages": (
        changed(GENERATION, is_multilingual=None),
        "problem",
        "prompt",
        GENERATION,
    ),
    "a forced language": (
        changed(GENERATION, forced_decoder_ids=[[1, 9], [2, 10]]),
        "warning",
        "left_overs",
        GENERATION,
    ),
    "a forced task": (
        changed(GENERATION, forced_decoder_ids=[[1, None], [2, 10]]),
        "note",
        "left_overs",
        GENERATION,
    ),
    "heads of a larger model": (
        changed(GENERATION, alignment_heads=[[1, 0], [5, 3]]),
        "problem",
        "alignment_heads",
        GENERATION,
    ),
    "no heads": (changed(GENERATION, alignment_heads=None), "note", "alignment_heads", GENERATION),
    "foreign suppressed tokens": (
        changed(GENERATION, suppress_tokens=[1, 50000]),
        "problem",
        "suppressed_tokens",
        GENERATION,
    ),
    "too long texts": (changed(GENERATION, max_length=448), "problem", "longest_text", GENERATION),
}


@pytest.mark.parametrize("case", BROKEN)
def test_configs(case: str, windowed_whisper: Path, copied: Copy) -> None:
    change, *expected = BROKEN[case]
    folder = copied(windowed_whisper)
    change(folder)
    assert findings(folder) == [tuple(expected)]


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", {"format": "pt"})

    return apply


def sharded(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    table = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))


def pickled(folder: Path) -> None:

    held = {name: torch.zeros(2) for name in ("a", "b")}
    torch.save(held, folder / "pytorch_model.bin")


EMBEDDING = "model.decoder.embed_tokens.weight"
WEIGHTS = "model.safetensors"
FILES: dict[str, tuple[Change, list[tuple[str, str, str]]]] = {
    "tied twice": (
        tensors(lambda held: held.update({"proj_out.weight": held[EMBEDDING]})),
        [("warning", "tied_twice", WEIGHTS)],
    ),
    "a scale that is no number": (
        tensors(lambda held: held.update(weight_scale=np.full(3, np.nan, np.float32))),
        [("problem", "scales", WEIGHTS)],
    ),
    "a header cut off": (
        lambda folder: os.truncate(folder / WEIGHTS, 100),
        [("problem", "unreadable", WEIGHTS)],
    ),
    "no shards": (sharded, [("problem", "shards", f"{WEIGHTS}.index.json")]),
    "a pickle": (pickled, [("warning", "pickles", "pytorch_model.bin")]),
    "a program": (
        lambda folder: (folder / "modeling.py").write_text("raise SystemExit"),
        [("warning", "programs", "modeling.py")],
    ),
    "a package": (
        lambda folder: (folder / "model.pt2").write_bytes(b"x" * 99),
        [("warning", "packages", "model.pt2")],
    ),
    "another model": (
        changed(CONFIG, model_type="moonshine"),
        [("warning", "model_type", CONFIG)],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, windowed_whisper: Path, copied: Copy) -> None:
    change, expected = FILES[case]
    folder = copied(windowed_whisper)
    change(folder)
    assert findings(folder) == expected


def test_an_artifact_that_was_changed(ours: dict[str, Path], copied: Copy) -> None:
    folder = copied(ours["onnx-int8"])
    with (folder / "merges.txt").open("a") as file:
        file.write("x y\n")
    assert findings(folder) == [("problem", "manifest", "manifest.json")]


def test_the_advice_names_a_target_that_there_is() -> None:
    assert "onnx-int8" in TARGETS  # what the advice names


def test_the_command(merged_export: Path, copied: Copy, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copied(merged_export)
    assert main(["doctor", str(folder)]) == 0
    assert "no problems, 0 warnings and 0 notes" in capfd.readouterr().out
    changed(EXTRACTOR, feature_size=128)(folder)
    assert main(["doctor", str(folder)]) == 3
    said = capfd.readouterr()
    assert said.err.startswith(f"error: 1 problem in {folder}")
    assert "preprocessor_config.json: 128 mel bins, but config.json has 80" in said.out
    assert main(["doctor", str(folder), "--json"]) == 3
    told = json.loads(capfd.readouterr().out)
    assert (told["problems"], told["warnings"], told["layout"]) == (1, 0, "optimum")
    assert told["findings"][0]["check"] == "mel_bins"
    assert main(["doctor", str(folder / "absent")]) == 2
    assert main(["doctor", str(folder / ENCODER)]) == 2


def test_a_repository_of_the_hub(
    loopback: Hub, merged_export: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs and configs come; weights beside them stay, and only their size is looked at."""
    folder = copied(merged_export)
    model = onnx.load(folder / ENCODER)
    onnx.save(model, folder / ENCODER, save_as_external_data=True, location=f"{ENCODER}_data")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = {name: File(data, ".onnx" in name) for name, data in files.items()}
    loopback.large |= {file.oid: file.data for file in told.values()}
    repo = loopback.api.create("org/speech")
    repo.add("refs/heads/main", "export", told)
    diagnosis = doctor.examine("org/speech")
    assert (diagnosis.found, diagnosis.layout) == ((), "optimum")
    assert diagnosis.size_bytes == sum(map(len, files.values()))
    weights = told[f"{ENCODER}_data"]
    assert not any(weights.oid in request.path for request in loopback.requests)

    half = weights.data[:1000]
    repo.add("refs/heads/main", "cut", told | {f"{ENCODER}_data": File(half, True)})
    found = doctor.examine("org/speech").found
    assert [(check, finding.where) for check, finding in found] == [("weights", ENCODER)]
    with pytest.raises(HubError):
        doctor.examine("org/absent")


def test_what_transformers_5_saved(windowed_whisper: Path, copied: Copy) -> None:
    newer = as_transformers_5(copied(windowed_whisper))
    (found,) = findings(newer)
    assert found[:2] == ("note", "newer_tokenizer")
    change(newer / "processor_config.json", feature_extractor={"feature_size": 128})
    assert {name for _, name, *_ in findings(newer)} == {"newer_tokenizer", "mel_bins"}


def test_a_speechbrain_folder_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_speechbrain(tmp_path / "sb")
    assert main(["doctor", str(tmp_path / "sb")]) == 0
    told = capfd.readouterr().out
    assert "sb: a SpeechBrain model of wav2vec2" in told
    assert "wav2vec2.ckpt: is a pickle" in told
    assert "is missing" not in told
