"""Hostile configuration files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path], object]


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


OUTSIDE: dict[str, Change] = {
    # CVE-2026-5241: a model of the library's own that loads another one, with its code.
    "lightglue": written(
        "config.json",
        '{"model_type": "lightglue", "keypoint_detector_config": '
        '{"model_type": "superpoint", "_name_or_path": "evil/repo"}, "trust_remote_code": true}',
    ),
    "a quantizer": changed("config.json", quantization_config={"quant_method": "bitsandbytes"}),
    "a kernel": changed("config.json", attn_implementation="evil/kernel"),
    # CVE-2026-4372: the name of an attribute, which no setter checks.
    "a kernel inside": changed(
        "config.json", _attn_implementation_internal="evil/kernel:attention"
    ),
    "kernels by part": changed("config.json", _attn_implementation={"": "evil/kernel"}),
    "a kernel of the generation": changed(
        "generation_config.json", attn_implementation="evil/kernel"
    ),
    "a kernel of a sub-config": changed(
        "config.json", encoder={"attn_implementation": "evil/kernel"}
    ),
    "a kernel that is fetched": changed("config.json", attn_implementation="flash_attention_2"),
    "kernels of experts": changed("config.json", _experts_implementation_internal="evil/kernel"),
    "kernels for layers": changed("config.json", use_kernels=True),
    "custom code to generate": changed("generation_config.json", custom_generate="evil/repo"),
    "a tokenizer's arguments": changed("tokenizer_config.json", init_inputs=["/etc/passwd"]),
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
    "an alias of the width": changed("config.json", hidden_size=10**9),
    "an alias that differs": changed("config.json", hidden_size=128),
    "no heads by an alias": changed("config.json", num_attention_heads=0),
    "no heads by another": changed("config.json", num_key_value_heads=0),
    "heads that do not divide": changed("config.json", decoder_attention_heads=7),
    "a width without sines": changed("config.json", d_model=2, encoder_attention_heads=1),
    "layers by another name": changed("config.json", num_hidden_layers=10**9),
    "labels by number": changed("config.json", num_labels=10**7),
    "a head cut off": changed("config.json", pruned_heads={"0": [0]}),
    "tied weights": changed("config.json", tie_encoder_decoder=True),
    "padding beyond the words": changed("config.json", pad_token_id=10**6),
    "no padding": changed("config.json", pad_token_id=-5),
    "nothing": changed("config.json", d_model=None),
    "true": changed("config.json", encoder_layers=True),
    "not a number": changed("config.json", init_std=1, scale_embedding=float("nan")),
    "an inner window": changed(
        "preprocessor_config.json", feature_extractor={"chunk_length": 10**9}
    ),
    "an inner text": changed("preprocessor_config.json", feature_extractor="x"),
    "noise": changed("preprocessor_config.json", dither=float("inf")),
    "samples": changed("preprocessor_config.json", chunk_length=600, sampling_rate=768_000),
    "beams": changed("generation_config.json", num_beams=10**9),
    "groups of beams": changed("generation_config.json", num_beams=4, num_beam_groups=2),
    "a contrast": changed("generation_config.json", penalty_alpha=0.6, top_k=4),
    "layers that disagree": changed("generation_config.json", dola_layers="low"),
    "words by force": changed("generation_config.json", force_words_ids=[[1]]),
    "no end": changed("generation_config.json", eos_token_id=[]),
    "a start beyond the words": changed("generation_config.json", decoder_start_token_id=10**6),
    "an end beyond the words": changed("generation_config.json", eos_token_id=[1, 10**6]),
    "padding below them": changed("generation_config.json", pad_token_id=-100),
    "a language beyond them": changed("generation_config.json", lang_to_id={"<|en|>": 10**6}),
    "a length in words": changed("generation_config.json", max_length="448"),
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
    "merges without an end": lambda folder: os.truncate(folder / "merges.txt", 4 << 30),
    "words without an end": lambda folder: os.truncate(folder / "vocab.json", 4 << 30),
    "a normalizer": written("normalizer.json", "["),
}


HARMFUL = OUTSIDE | NUMBERS | NONSENSE
