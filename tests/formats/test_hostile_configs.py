"""Configs and recipes that were made to do harm: each is one error that names its file."""

import json
import re
from pathlib import Path

import pytest
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperProcessor

from exporter import cli
from exporter.families import read_configs
from exporter.families.whisper.config_limits import CONFIGS as CONFIGS_OF_WHISPER
from exporter.families.whisper.construct import processor
from tests.conftest import HARMLESS, Refused
from tests.support.hostile_configs import CODE, HARMFUL, changed

WRITE = "open('canary', 'w')"
RECIPE = HARMLESS
pytestmark = pytest.mark.usefixtures("harmless")


# Configs


CONFIGS = ("config", "generation_config", "preprocessor_config", "tokenizer_config")


@pytest.mark.parametrize("key", CODE)
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_bring_code(name: str, key: str, checkpoint: Path, refused: Refused) -> None:
    changed(f"{name}.json", **{key: CODE[key]})(checkpoint)
    (checkpoint / "evil.py").write_text(WRITE)
    assert f"{name}.json" in refused(3)


@pytest.mark.parametrize("case", HARMFUL)
def test_configs_that_do_harm(case: str, checkpoint: Path, refused: Refused) -> None:
    HARMFUL[case](checkpoint)
    refused(3)


# What fine-tuners and older releases of transformers write beside a model's own keys.
USUAL: dict[str, object] = {
    "_attn_implementation_autoset": True,
    "_attn_implementation": "sdpa",
    "_commit_hash": None,
    "_name_or_path": "openai/whisper-small",
    "apply_spec_augment": False,
    "attribute_map": {"d_model": "vocab_size"},
    "auto_map": {},
    "chunk_size_feed_forward": 0,
    "dtype": "float16",
    "forced_decoder_ids": [[1, 50259], [2, None]],
    "hidden_size": 64,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "mask_time_prob": 0.05,
    "max_length": 448,
    "median_filter_width": 7,
    "num_hidden_layers": 2,
    "output_attentions": True,
    "pruned_heads": {},
    "quantization_config": None,
    "suppress_tokens": [],
    "task_specific_params": {"asr": {"num_beams": 10**9}},
    "tie_encoder_decoder": False,
    "torch_dtype": "load",
    "torchscript": True,
    "transformers_version": "5.24.0",
    "unsloth_version": "2026.1",
    "wandb": {"run": [1, 2]},
}


def test_other_keys_are_dropped(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in CONFIGS:
        changed(f"{name}.json", wandb={"run": 1}, unsloth_version="2026.1")(checkpoint)
    changed("config.json", **USUAL)(checkpoint)
    changed("tokenizer_config.json", special_tokens_map_file="/etc/passwd")(checkpoint)
    assert cli.main(["build", "recipe.yaml", "--dry-run"]) == 0, capfd.readouterr().err
    used = read_configs(checkpoint, "whisper")
    for values in used.values():
        assert not {"wandb", "unsloth_version", "attribute_map", "torch_dtype"} & values.keys()


def test_limits_have_the_defaults_of_transformers() -> None:
    theirs = WhisperConfig()
    for name, value in CONFIGS_OF_WHISPER["config.json"]().used().items():
        assert getattr(theirs, name) == value, name
    extractor = WhisperFeatureExtractor()
    for name, value in CONFIGS_OF_WHISPER["preprocessor_config.json"]().used().items():
        assert getattr(extractor, name) == value, name


def test_the_tokenizer_is_the_one_that_transformers_reads(repository: Path) -> None:
    folder = repository / "recipes" / "demo" / "whisper"
    ours, theirs = processor(folder), WhisperProcessor.from_pretrained(folder)
    assert ours.tokenizer.init_kwargs.items() >= theirs.tokenizer.init_kwargs.items()
    assert ours.feature_extractor.to_dict() == theirs.feature_extractor.to_dict()
    states = [each.tokenizer.backend_tokenizer.to_str() for each in (ours, theirs)]
    assert states[0] == states[1]


# Recipes

TRICKS: dict[str, str | bytes] = {
    "a python tag": RECIPE + "data: !!python/object/apply:os.system [touch canary]\n",
    "a python name": RECIPE.replace("tiny", "!!python/name:os.system x"),
    "a tag of its own": RECIPE.replace("tiny", "!evil x"),
    "binary": RECIPE.replace("tiny", "!!binary dGlueQ=="),
    "an alias": "name: &a tiny\ncheckpoint: *a\ntargets: []\n",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + RECIPE,
    "a merge": RECIPE + "<<: {gate: {}}\n",
    "a key twice": RECIPE + "name: again\n",
    "a key twice, deep": RECIPE + "gate: {min_clips: 1, min_clips: 2}\n",
    "a list for a key": RECIPE + "? [a]\n: b\n",
    "a number for a key": RECIPE + "1: b\n",
    "two documents": RECIPE + "---\n" + RECIPE,
    "a date": RECIPE.replace("tiny", "2026-13-45"),
    "endless digits": RECIPE + "gate: {min_clips: " + "9" * 5000 + "}\n",
    "endless hex": RECIPE + "gate: {min_clips: 0x" + "f" * 5000 + "}\n",
    "not a number": RECIPE + "gate: {max_latency_ratio: .nan}\n",
    "infinite": RECIPE + "gate: {max_latency_ratio: 1e400}\n",
    "a tower": RECIPE + "data: " + "[" * 5000,
    "a tower of mappings": RECIPE + "data: " + "{a: " * 5000,
    "a surrogate": RECIPE.replace("tiny", '"\\ud800"'),
    "an escape": RECIPE + '"\\e[2J\\n\\n\\n": x\n',
    "a NUL": RECIPE.replace("tiny", '"a\\0b"'),
    "a raw NUL": RECIPE.replace("tiny", "a\0b"),
    "a tab": RECIPE + "gate:\n\tmin_clips: 1\n",
    "UTF-16": RECIPE.encode("utf-16"),
    "megabytes": RECIPE + "#" * (10 << 20),
    "no mapping": "- name: tiny\n",
    "nothing": "",
    "an interpolation in a wrong place": RECIPE.replace("tiny", "${oc.env:HOME}"),
}
PLACES = (
    "../x",
    "..",
    "/tmp/x",
    "a/../../b",
    "a\\b",
    "-rf",
    "~",
    ".x",
    "C:x",
    "x\n",
    "a b",
    "x" * 300,
)


@pytest.mark.parametrize("case", TRICKS)
def test_recipes_with_tricks(case: str, checkpoint: Path, refused: Refused) -> None:
    content = TRICKS[case]
    raw = content if isinstance(content, bytes) else content.encode()
    Path("recipe.yaml").write_bytes(raw)
    error = refused(2)
    whole = ("UTF-16", "megabytes")
    place = r"error: recipe.yaml:" if case in whole else r"error: recipe\.yaml:\d+:\d+: "
    assert re.match(place, error), error


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("key", ["name", "targets.0.name", "targets.0.kind"])
def test_names_that_lead_elsewhere(name: str, key: str, checkpoint: Path, refused: Refused) -> None:
    refused(2, "--set", f"{key}={json.dumps(name)}")


@pytest.mark.parametrize(
    "name", ["../../etc", "org/../x", "--upload-pack=x", "a/b/c", "org/x@-x y"]
)
def test_checkpoints_that_lead_elsewhere(name: str, checkpoint: Path, refused: Refused) -> None:
    refused(3, "--set", f"checkpoint={json.dumps(name)}")


def test_an_override_as_deep_as_a_tower(checkpoint: Path, refused: Refused) -> None:
    assert "levels deep" in refused(2, "--set", ".".join("a" * 5000) + "=1")
