"""Seeded mutations of JSON: types, sizes, signs, nesting, names that mean something elsewhere."""

import copy
import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 255, 2**31, 2**63, 2**64, 10**9, 10**30, 10**400),
    *(0.5, -0.0, 1e300, 1e-300, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "x",
        "two",
        "1",
        "\0",
        "\n\n\n\n",
        "\x1b[2J",
        "\u202e",
        "../x",
        "/etc/passwd",
        "a" * 5000,
    ),
    *("org/kernel:attention", "float32", "whisper", "cpu", "aoti", "0" * 64),
    *([], {}, [[]], [{}], {"": {}}, [None], [-1], [10**9], ["x"] * 100, {"x": {"y": [1]}}),
    *({"0": [0]}, {"<|en|>": 10**6}, list(range(1000))),
)
NAMES = (
    *("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"),
    *("num_labels", "id2label", "pruned_heads", "attribute_map", "torch_dtype", "dtype"),
    *("_attn_implementation_internal", "attn_implementation", "auto_map", "quantization_config"),
    *("feature_extractor", "is_decoder", "tie_encoder_decoder", "forced_decoder_ids"),
    *("watermarking_config", "cache_implementation", "compile_config", "init_inputs"),
    *("added_tokens_decoder", "extra_special_tokens", "max_length", "num_beams", "early_stopping"),
    *("threads", "device", "", "__class__", "self", "model_type"),
)


def mutated(values: Any, source: random.Random) -> Any:
    """Change a few places of a JSON value, at any depth."""
    values = copy.deepcopy(values)
    for _ in range(source.choice([1, 1, 1, 2, 4])):
        _change(values, source)
    return values


def text(values: Any) -> str:
    """JSON in the form of a manifest, with NaN and whole numbers of any length."""
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def _value(source: random.Random) -> Any:
    return copy.deepcopy(source.choice(VALUES))


def _change(owner: Any, source: random.Random) -> None:
    while True:
        keys = list(range(len(owner))) if isinstance(owner, list) else list(owner)
        if not keys:
            break
        key = source.choice(keys)
        if not isinstance(owner[key], dict | list) or source.random() < 0.4:
            break
        owner = owner[key]
    how = source.randrange(8)
    if isinstance(owner, dict) and (not keys or how == 0):
        owner[source.choice(NAMES)] = _value(source)
    elif isinstance(owner, list) and (not keys or how == 0):
        owner.append(_value(source))
    elif how == 1:
        del owner[key]
    elif how == 2 and isinstance(owner[key], int):
        owner[key] = source.choice(
            [-owner[key], owner[key] + 1, owner[key] * 10**6, str(owner[key])]
        )
    elif how == 3:
        owner[key] = [owner[key]]
    else:
        owner[key] = _value(source)
