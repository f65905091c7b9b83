"""Configs and recipes that were made to do harm: each is one error that names its file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import HARMLESS, Refused

WRITE = "open('canary', 'w')"
RECIPE = HARMLESS
pytestmark = pytest.mark.usefixtures("harmless")
Change = Callable[[Path], object]


# Configs


def changed(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        told = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**told, **values}))

    return change


def written(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


CODE = {
    "auto_map": {"AutoModel": "evil.Evil"},
    "trust_remote_code": True,
    "custom_pipelines": {"asr": {"impl": "evil.Evil"}},
    "inside": {"model_type": "superpoint", "trust_remote_code": True, "_name_or_path": "evil/repo"},
}
CONFIGS = ("config", "generation_config", "preprocessor_config", "tokenizer_config")


@pytest.mark.parametrize("key", CODE)
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_bring_code(name: str, key: str, checkpoint: Path, refused: Refused) -> None:
    changed(f"{name}.json", **{key: CODE[key]})(checkpoint)
    (checkpoint / "evil.py").write_text(WRITE)
    assert f"{name}.json" in refused(3)


OUTSIDE: dict[str, Change] = {
    # CVE-2026-5241: a model of the library's own that loads another one, with its code.
    "lightglue": written(
        "config.json",
        '{"model_type": "lightglue", "keypoint_detector_config": '
        '{"model_type": "superpoint", "_name_or_path": "evil/repo"}, "trust_remote_code": true}',
    ),
    "a quantizer": changed("config.json", quantization_config={"quant_method": "bitsandbytes"}),
    "a kernel": changed("config.json", attn_implementation="evil/kernel"),
    "vocab_file": changed("tokenizer_config.json", vocab_file="/etc/passwd"),
    "merges_file": changed("tokenizer_config.json", merges_file="../../secret"),
    "normalizer_file": changed("tokenizer_config.json", normalizer_file="../secret.json"),
    "tokenizer_file": changed("tokenizer_config.json", tokenizer_file="/etc/passwd"),
    "a tokenizer elsewhere": lambda folder: (
        (folder / "tokenizer.json").unlink()
        or (folder / "tokenizer.json").symlink_to("/etc/passwd")
    ),
}
NUMBERS: dict[str, Change] = {
    "layers": changed("config.json", encoder_layers=10**9),
    "no layers": changed("config.json", decoder_layers=-1),
    "width": changed("config.json", d_model=10**12),
    "words": changed("config.json", vocab_size=10**12),
    "positions": changed("config.json", max_source_positions=10**10),
    "no mels": changed("config.json", num_mel_bins=0),
    "no heads": changed("config.json", encoder_attention_heads=0),
    "text": changed("config.json", d_model="x"),
    "activation": changed("config.json", activation_function="evil"),
    "labels": changed("config.json", id2label={"a": "b"}),
    "window": changed("preprocessor_config.json", chunk_length=10**9),
    "transform": changed("preprocessor_config.json", n_fft=10**12),
    "no transform": changed("preprocessor_config.json", n_fft=0),
    "mels": changed("preprocessor_config.json", feature_size=10**9),
    "languages": changed("generation_config.json", lang_to_id=[1]),
    "tasks": changed("generation_config.json", task_to_id={"a": {}}),
    "tokens": changed("tokenizer_config.json", added_tokens_decoder={"x": {"content": 5}}),
}
NONSENSE: dict[str, Change] = {
    "half a tokenizer": written("tokenizer.json", "{"),
    "another tokenizer": written("tokenizer.json", '{"version": "1.0", "model": {}}'),
    "a tower of a tokenizer": written("tokenizer.json", "[" * 100_000),
    "half a config": written("config.json", '{"model_type": "whisper"'),
    "a tower": written("config.json", '{"x":' * 500 + "1" + "}" * 500),
    "a taller tower": written("preprocessor_config.json", '{"x":' * 100_000),
    "a list": written("tokenizer_config.json", "[]"),
    "endless digits": written("config.json", '{"d_model": ' + "9" * 5000 + "}"),
    "UTF-16": lambda folder: (folder / "config.json").write_bytes("{}".encode("utf-16")),
    "a monster": lambda folder: (folder / "config.json").write_bytes(b" " * (17 << 20) + b"{}"),
    "a normalizer": written("normalizer.json", "["),
}
HARMFUL = OUTSIDE | NUMBERS | NONSENSE


@pytest.mark.parametrize("case", HARMFUL)
def test_configs_that_do_harm(case: str, checkpoint: Path, refused: Refused) -> None:
    HARMFUL[case](checkpoint)
    refused(3)


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
