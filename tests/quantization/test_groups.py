"""Groups of modules, and the patterns that select exactly some modules."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from random import Random

import pytest

from exporter.quantization.groups import MOST_GROUPS, module_groups, parts_of, selecting

HEAD = "proj_out"


def whisper(encoder: int, decoder: int) -> list[str]:
    def stack(name: str, layers: int, attentions: tuple[str, ...]) -> Iterator[str]:
        for layer in range(layers):
            for block in attentions:
                for leaf in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    yield f"model.{name}.layers.{layer}.{block}.{leaf}"
            yield from (f"model.{name}.layers.{layer}.{leaf}" for leaf in ("fc1", "fc2"))

    both = ("self_attn", "encoder_attn")
    encoding = stack("encoder", encoder, ("self_attn",))
    return [*encoding, *stack("decoder", decoder, both), HEAD]


def wav2vec2(layers: int) -> list[str]:
    blocks = ("attention.k_proj", "attention.out_proj", "feed_forward.intermediate_dense")
    return [
        *(f"wav2vec2.feature_extractor.conv_layers.{n}.conv" for n in range(7)),
        "wav2vec2.feature_projection.projection",
        *(f"wav2vec2.encoder.layers.{n}.{block}" for n in range(layers) for block in blocks),
        "lm_head",
    ]


def matched(patterns: list[str], names: list[str], head: str) -> set[str]:
    return {
        name
        for name in names
        for pattern in patterns
        if fnmatchcase(name, pattern) or (pattern == "lm_head" and name == head)
    }


def test_a_group_is_a_block_of_a_layer() -> None:
    groups = module_groups(whisper(1, 1), HEAD, {})
    assert [group.name for group in groups] == [
        *("encoder layer 0, self_attn", "encoder layer 0, feed-forward"),
        *("decoder layer 0, self_attn", "decoder layer 0, encoder_attn"),
        *("decoder layer 0, feed-forward", "head"),
    ]
    assert groups[1].modules == ("model.encoder.layers.0.fc1", "model.encoder.layers.0.fc2")


def test_groups_of_another_family_have_names_too() -> None:
    names = [group.name for group in module_groups(wav2vec2(1), "lm_head", {})]
    assert names[0] == "feature_extractor conv layer 0, conv"
    assert names[7:] == [
        "feature_projection, projection",
        "encoder layer 0, attention",
        "encoder layer 0, feed-forward",
        "head",
    ]


def test_parts_of_a_group_are_its_modules() -> None:
    shared = {"model.decoder.embed_tokens": HEAD}
    names = ["model.decoder.embed_tokens", *whisper(1, 1)]
    groups = module_groups(names, HEAD, shared)
    assert [part.name for part in parts_of(groups[1], shared)] == [
        *("encoder layer 0, feed-forward, fc1", "encoder layer 0, feed-forward, fc2"),
    ]
    assert parts_of(groups[-1], shared) == [groups[-1]], "a head and its table are one"
    for joined in module_groups(whisper(32, 32), HEAD, {}):
        parts = parts_of(joined, {})
        assert len({part.name for part in parts}) == len(parts) == len(joined.modules)


def test_layers_of_a_deep_model_are_joined() -> None:
    deep = whisper(32, 32)
    groups = module_groups(deep, HEAD, {})
    assert 30 <= len(groups) <= MOST_GROUPS
    assert groups[0].name == "encoder layers 0 to 1, self_attn"
    assert sorted(m for group in groups for m in group.modules) == sorted(deep)
    assert len(module_groups(deep, HEAD, {}, 30)) <= 30


@pytest.mark.parametrize(
    ("wanted", "patterns"),
    [
        (lambda n: n == HEAD, ["lm_head"]),
        (lambda n: True, ["*"]),
        (lambda n: "encoder_attn" in n, ["model.decoder.layers.*.encoder_attn.*"]),
        (lambda n: n.startswith("model.encoder."), ["model.encoder.*"]),
        (lambda n: ".encoder.layers.2.fc" in n, ["model.encoder.layers.2.fc?"]),
        (lambda n: n.endswith(".fc2"), ["*.fc2"]),
    ],
)
def test_patterns_are_few_and_plain(wanted: object, patterns: list[str]) -> None:
    assert callable(wanted)
    names = whisper(12, 12)
    assert selecting([name for name in names if wanted(name)], names, HEAD) == patterns


def test_neighbouring_layers_share_a_pattern() -> None:
    names = whisper(24, 2)
    some = [n for n in names if any(f"encoder.layers.{i}." in n for i in range(8, 17))]
    found = selecting(some, names, HEAD)
    assert found == ["model.encoder.layers.1[0-6].*", "model.encoder.layers.[8-9].*"]


@pytest.mark.parametrize("seed", range(20))
def test_patterns_match_exactly_what_they_shall(seed: int) -> None:
    random = Random(seed)
    names, head = random.choice([(whisper(4, 3), HEAD), (wav2vec2(13), "lm_head")])
    groups = module_groups(names, head, {})
    some = random.sample(groups, random.randint(0, len(groups)))
    wanted = {module for group in some for module in group.modules}
    patterns = selecting(wanted, names, head)
    assert matched(patterns, names, head) == wanted
    assert len(patterns) <= len(some)


def test_nothing_needs_no_pattern() -> None:
    assert selecting([], whisper(1, 1), HEAD) == []


def test_a_table_with_the_heads_weights_is_in_its_group() -> None:
    groups = module_groups(["table", "head"], "head", {"table": "head"})
    assert [group.modules for group in groups] == [("head", "table")]
