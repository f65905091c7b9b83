"""Folders that transformers 5 wrote are checkpoints, and their artifacts are complete."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, AutoTokenizer, WhisperFeatureExtractor

from exporter import cli
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from exporter.families.whisper import construct
from exporter.recognition.load import load_original
from tests.support.newer import as_transformers_5, change
from tests.support.whisper import multilingual, sounds

EXTRACTOR, OUTER, NAMES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)


@pytest.fixture
def newer(tiny_whisper: Path, tmp_path: Path) -> Path:
    return as_transformers_5(Path(shutil.copytree(tiny_whisper, tmp_path / "newer")))


def carried(checkpoint: Checkpoint, folder: Path) -> Path:
    """The companions as every artifact has them."""
    folder.mkdir()
    checkpoint.copy_companions(folder)
    return folder


def same_processor(one: Path, other: Path) -> None:
    whisper = FAMILIES["whisper"]
    ours, theirs = whisper.processor(one), whisper.processor(other)
    assert ours.feature_extractor.to_dict() == theirs.feature_extractor.to_dict()
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    assert ours.tokenizer.all_special_ids == theirs.tokenizer.all_special_ids


def test_transformers_4_loads_what_an_artifact_gets(
    newer: Path, tiny_whisper: Path, tmp_path: Path
) -> None:
    folder = carried(open_checkpoint(str(newer)), tmp_path / "artifact")
    assert not (folder / OUTER).exists()
    assert not isinstance(
        json.loads((folder / NAMES).read_text()).get("extra_special_tokens"), list
    )
    same_processor(folder, tiny_whisper)
    assert len(AutoProcessor.from_pretrained(folder).tokenizer)
    assert len(AutoTokenizer.from_pretrained(folder))


def test_original_and_digest(newer: Path, tiny_whisper: Path) -> None:
    decoding, (sound,) = multilingual(), sounds(1.0)
    before, after = (load_original(folder) for folder in (tiny_whisper, newer))
    assert after.decode([sound], decoding) == before.decode([sound], decoding)
    digest = open_checkpoint(str(newer)).sha256
    change(newer / OUTER, processor_class="WhisperProcessor")
    assert open_checkpoint(str(newer)).sha256 != digest


@pytest.mark.parametrize("kind", ["TokenizersBackend", "PythonBackend"])
def test_a_general_tokenizer_class_becomes_the_familys(
    newer: Path, tmp_path: Path, kind: str
) -> None:
    change(newer / NAMES, tokenizer_class=kind)
    folder = carried(open_checkpoint(str(newer)), tmp_path / "artifact")
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|notimestamps|>") > 0


def test_tokens_of_both_releases_are_joined(newer: Path, tmp_path: Path) -> None:
    change(
        newer / NAMES,
        extra_special_tokens=["<|a|>", "<|en|>"],
        additional_special_tokens=["<|en|>"],
    )
    folder = carried(open_checkpoint(str(newer)), tmp_path / "artifact")
    assert json.loads((folder / NAMES).read_text())["additional_special_tokens"] == [
        "<|en|>",
        "<|a|>",
    ]


def test_settings_under_the_other_key(newer: Path, tmp_path: Path, tiny_whisper: Path) -> None:
    """Later releases read `audio_processor` too; some tools nest in the old file."""
    inner = json.loads((newer / OUTER).read_text())["feature_extractor"]
    for name, key in ((OUTER, "audio_processor"), (EXTRACTOR, "feature_extractor")):
        (newer / OUTER).unlink(missing_ok=True)
        (newer / name).write_text(json.dumps({key: inner}))
        folder = carried(open_checkpoint(str(newer)), tmp_path / name)
        same_processor(folder, tiny_whisper)
        assert json.loads((folder / EXTRACTOR).read_text())["feature_size"] == 80


def test_both_files_must_agree(newer: Path, tiny_whisper: Path) -> None:
    shutil.copy(tiny_whisper / EXTRACTOR, newer)
    assert open_checkpoint(str(newer)).companions[EXTRACTOR].name == EXTRACTOR
    change(newer / EXTRACTOR, feature_size=128)
    with pytest.raises(CheckpointError, match=r"feature_size: 128, processor_config.json says 80"):
        open_checkpoint(str(newer))


def without_settings(folder: Path) -> None:
    (folder / OUTER).write_text(json.dumps({"processor_class": "WhisperProcessor"}))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_code(folder: Path) -> None:
    change(folder / OUTER, feature_extractor={"auto_map": {"AutoFeatureExtractor": "a.B"}})


def with_text(folder: Path) -> None:
    change(folder / OUTER, feature_extractor="WhisperFeatureExtractor")


def with_other_list(folder: Path) -> None:
    change(folder / NAMES, additional_special_tokens={"a": 1})


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (without_settings, r"missing preprocessor_config\.json\.\n.*hf download ORG/NAME pre"),
        (without_tokenizer, r"missing tokenizer\.json \(or vocab"),
        (with_code, r"`auto_map` asks for code"),
        (with_text, r"processor_config\.json: .*no JSON object"),
        (with_other_list, r"additional_special_tokens is no list"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    newer: Path, harm: Callable[[Path], None], told: str
) -> None:
    harm(newer)
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(str(newer))


def test_a_token_with_properties(newer: Path, tmp_path: Path) -> None:
    properties = {"content": "<|a|>", "lstrip": True, "special": True}
    change(newer / NAMES, extra_special_tokens=[properties, "<|en|>"])
    folder = carried(open_checkpoint(str(newer)), tmp_path / "artifact")
    assert "<|a|>" in construct.processor(folder).tokenizer.all_special_tokens
    change(newer / NAMES, extra_special_tokens=None)
    assert FAMILIES["whisper"].processor(carried(open_checkpoint(str(newer)), tmp_path / "b"))


@pytest.mark.parametrize("token", [7, {"content": 7}, [], None, "\ud800"])
def test_odd_tokens_are_a_checkpoints_fault(
    newer: Path, token: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(newer / NAMES, extra_special_tokens=[token])
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("name: x\ncheckpoint: newer\ntargets: [{kind: torch-int8}]\n")
    assert cli.main(["build", "r.yaml", "--dry-run"]) in (0, 3)


def test_an_adapter_with_a_newer_tokenizer(newer: Path, tiny_whisper: Path, tmp_path: Path) -> None:
    from tests.support.tiny_adapter import write_adapter

    base = Path(shutil.copytree(tiny_whisper, tmp_path / "base"))
    adapter = write_adapter(base)
    for name in (OUTER, NAMES, "tokenizer.json"):
        shutil.copy(newer / name, adapter)
    opened = open_checkpoint(str(adapter))
    assert {opened.companions[name].parent for name in (EXTRACTOR, NAMES)} == {adapter}
    with opened.gathered() as folder:
        assert WhisperFeatureExtractor.from_pretrained(folder).feature_size == 80
        same_processor(folder, tiny_whisper)
    assert load_original(adapter).decode(sounds(0.5), multilingual())
