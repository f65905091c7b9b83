"""Teacher forcing: the logits after each token of a given text, however a model computes them.

Used by validation, to compare an artifact with its original token by token.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exporter.families.attention import joined, unpacked
from exporter.families.forcing import Forced, States, observed
from exporter.families.graph import GraphFunction
from exporter.families.whisper.decoding.settings import own_settings
from exporter.families.whisper.decoding.transcribe import own_features as own_features
from exporter.families.whisper.engine.device import DeviceCache
from exporter.families.whisper.engine.model import DECODERS
from exporter.families.whisper.engine.step_decoder import unscaled
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio
from exporter.runtime.whisper.engine import query_name

_WINDOW_CACHE = ("encoder_attn.k_proj", "encoder_attn.v_proj")
_TOKEN_CACHE = ("self_attn.k_proj", "self_attn.v_proj")
_LEAVES = {"key": "k_proj", "value": "v_proj"}
_ASKING, _QUERY = "encoder_attn.q_proj", ".query"


def runs_once(module: str) -> bool:
    """Return whether a module runs once per window of audio, not once per token."""
    return module.startswith("model.encoder.") or module.endswith(_WINDOW_CACHE)


def cache_of(module: str) -> Literal["window", "token"] | None:
    """Return the cache that keeps a module's output: that of the audio, or that of the tokens."""
    if module.endswith(_WINDOW_CACHE):
        return "window"
    decoder = module.startswith("model.decoder.")
    return "token" if decoder and module.endswith(_TOKEN_CACHE) else None


def static_graph(module: str) -> str:
    """Return the graph of the static cut that a module belongs to."""
    return "encoder" if runs_once(module) else "decoder"


def keeps_int8(quantized: Collection[str]) -> bool:
    """Return whether the audio's keys and values come from int8 weights, and so may be int8."""
    return "model.decoder.layers.0.encoder_attn.k_proj" in quantized


def cache_heads(model: Any) -> int:
    """Return the heads of the decoder's caches."""
    heads: int = model.config.decoder_attention_heads
    return heads


def window_features(processor: Any, sounds: Sequence[Audio]) -> Tensor:
    """Return the log-mel features of recordings, cut to a window: [recordings, mels, frames]."""
    extractor = processor.feature_extractor
    computed = extractor(list(sounds), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    features: Tensor = computed.input_features
    return features


def forced_prompt(model: Any, decoding: Decoding) -> list[int]:
    """Return the tokens before the text; a language that would be detected is the first one."""
    settings = own_settings(model)
    code = decoding.language or settings.language or next(iter(settings.languages), None)
    language = None if code is None else settings.languages.get(code)
    return settings.init(language, decoding.task, timestamps=False)


def most_tokens(model: Any) -> int:
    """Return the most tokens that a window's text may have, the prompt included."""
    positions: int = model.config.max_target_positions
    return positions


def forced(model: Any, features: Tensor, tokens: Tensor, calls: Sequence[int]) -> Forced:
    """Decode given tokens.

    Args:
        model: A model from `assemble`, `attach_engine` or `open_original`.
        features: Log-mel features, float32 [windows, mels, frames].
        tokens: The tokens of each window's text, int64 [windows, tokens].
        calls: How many tokens each call of the decoder gets; their sum is that of the tokens.

    Returns:
        Logits float32 [windows, tokens, vocabulary], and the caches' contents by module.
    """
    engine = getattr(model, "engine", None)
    with torch.inference_mode():
        if engine is None:
            return _forced_module(model, features, tokens)
        encoded = engine.encode(features)
        cache = engine.decoder.start()
        with _queries(engine) as given:
            steps = [engine.step(ids, encoded, cache) for ids in tokens.split(list(calls), 1)]
        logits = torch.cat(steps, 1).float()
        states = _cached(cache, encoded, tokens.shape[1])
        if len(tokens) == 1:  # several rows may have several calls
            states |= _asked(given, model.config, tokens.shape[1])
        engine.decoder.release(cache)
        return Forced(logits, states)


@contextmanager
def _queries(engine: Any) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the queries of the audio that a decoder's graph gives, by output."""
    name = next(name for name in DECODERS if name in engine.functions)
    usual = engine.functions[name]
    given: dict[str, list[Tensor]] = {}

    def listening(
        inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = usual(inputs)
        for output in [each for each in outputs if each.endswith(_QUERY)]:
            given.setdefault(output, []).append(outputs[output].float())
        return outputs if wanted is None else {each: outputs[each] for each in wanted}

    engine.functions[name] = listening
    try:
        yield given
    finally:
        engine.functions[name] = usual


def _asked(given: Mapping[str, Sequence[Tensor]], config: Any, length: int) -> States:
    """Return queries before they were scaled, by the module that computed them.

    A graph of single tokens may give none: then those of the text are not complete.
    """
    scaling = (config.d_model // config.decoder_attention_heads) ** -0.5
    states: dict[str, Tensor] = {}
    for layer in range(config.decoder_layers):
        parts = given.get(query_name(layer), ())
        if parts and sum(part.shape[1] for part in parts) == length:
            module = f"model.decoder.layers.{layer}.encoder_attn.q_proj"
            states[module] = torch.cat(list(parts), 1) / scaling
    return states


def _forced_module(model: Any, features: Tensor, tokens: Tensor) -> Forced:
    """Decode all tokens in one pass of the transformers model, which attends causally."""
    wanted = [name for name, _ in model.named_modules() if cache_of(name) or name.endswith(_ASKING)]
    wanted += [name for name, each in model.named_modules() if isinstance(each, nn.LayerNorm)]
    with observed(model, wanted) as seen:
        dtype = model.model.encoder.conv1.weight.dtype
        encoded = model.model.encoder(features.to(dtype)).last_hidden_state
        decoder = model.model.decoder
        hidden = decoder(
            input_ids=tokens,
            encoder_hidden_states=encoded.to(decoder.layer_norm.weight.dtype),
            use_cache=False,
        ).last_hidden_state
        logits = model.proj_out(hidden).float()
    return Forced(logits, {name: torch.cat(parts, 1) for name, parts in seen.items()})


def _cached(cache: Any, encoded: Tensor, length: int) -> dict[str, Tensor]:
    """Return the caches' contents after decoding, by the module that computed them."""
    if isinstance(cache, DeviceCache):
        tensors, shared = cache.contents()
    else:
        tensors, shared = cache.tensors, cache.shared
    states: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in ("own", "cache"):
            index, leaf = rest.split(".")
            module = f"model.decoder.layers.{index}.self_attn.{_LEAVES[leaf]}"
            states[module] = joined(tensor[:, :, :length].float())
    return {**states, **_window_caches(shared, encoded)}


def _window_caches(shared: Mapping[str, Tensor], encoded: Tensor) -> States:
    states: dict[str, Tensor] = {}
    for name, tensor in shared.items():
        _, index, leaf = name.split(".")
        if leaf in _LEAVES:
            values = unscaled(tensor, shared.get(f"{name}_scale"))
            states[f"model.decoder.layers.{index}.encoder_attn.{_LEAVES[leaf]}"] = joined(values)
    if encoded.dim() == 5:  # a cache [windows, 2 * layers, heads, source, head_dim], maybe in int8
        values = unpacked(encoded) if encoded.dtype == torch.uint8 else encoded.float()
        for place in range(values.shape[1]):
            leaf = ("k_proj", "v_proj")[place % 2]
            name = f"model.decoder.layers.{place // 2}.encoder_attn.{leaf}"
            states[name] = joined(values[:, place])
    elif encoded.dim() == 3:
        states["model.encoder.layer_norm"] = encoded.float()
    return states


def forced_rows(model: Any, features: Tensor, tokens: Tensor, prompt: int, beams: int) -> Tensor:
    """Decode several hypotheses of each window, exchanging them as a beam search does.

    After the first step each window's first two hypotheses change places, and after the second
    they change back, so that their caches are moved both ways.

    Returns:
        Logits float32 [windows * beams, tokens - prompt, vocabulary], in the tokens' order.
    """
    engine, windows = model.engine, len(features)
    usual = torch.arange(windows * beams)
    moved = usual.view(windows, beams).clone()
    moved[:, :2] = moved[:, :2].flip(1)
    with torch.inference_mode():
        encoded = engine.encode(features)
        cache = engine.decoder.start()
        engine.step(tokens[::beams, :prompt], encoded, cache)
        encoded = engine.decoder.expand_beams(encoded, cache, beams)
        order, steps = usual, []
        for place in range(prompt, tokens.shape[1]):
            logits = engine.step(tokens[order, place : place + 1], encoded, cache)
            steps.append(logits[torch.argsort(order)].float())
            if place < prompt + 2:
                cache.reorder_cache(moved.flatten())
                order = order[moved.flatten()]
        engine.decoder.release(cache)
    return torch.cat(steps, 1)


def forced_others(
    model: Any,
    graphs: Mapping[str, GraphFunction],
    features: Tensor,
    tokens: Tensor,
    calls: Sequence[int],
) -> dict[str, Forced]:
    """Decode with the graphs that optimum and transformers.js load, as these do, by graph."""
    if "decoder_model_merged" not in graphs:
        return {}
    encoder, merged = model.engine.functions["encoder_model"], graphs["decoder_model_merged"]
    return {
        "decoder_model_merged": _forced_merged(
            encoder, merged, model.config, features, tokens, calls
        )
    }


def _forced_merged(
    encoder: GraphFunction,
    merged: GraphFunction,
    config: Any,
    features: Tensor,
    tokens: Tensor,
    calls: Sequence[int],
) -> Forced:
    """Decode given tokens with the graphs that optimum and transformers.js load, as these do.

    Args:
        encoder: The graph `encoder_model`.
        merged: The graph `decoder_model_merged`.
        config: The model's config.
        features: Log-mel features, float32 [windows, mels, frames].
        tokens: The tokens of each window's text, int64 [windows, tokens].
        calls: How many tokens each call of the decoder gets.

    Returns:
        Logits float32 [windows, tokens, vocabulary], and the caches' contents by module.
    """
    heads, layers = config.decoder_attention_heads, range(config.decoder_layers)
    empty = torch.zeros(len(tokens), heads, 0, config.d_model // heads)
    sides = [(side, leaf) for side in ("decoder", "encoder") for leaf in _LEAVES]
    past = {f"{index}.{side}.{leaf}": empty for index in layers for side, leaf in sides}
    steps = []
    with torch.inference_mode():
        encoded = encoder({"input_features": features}, ["last_hidden_state"])["last_hidden_state"]
        for number, ids in enumerate(tokens.split(list(calls), 1)):
            outputs = merged(
                {
                    "input_ids": ids.contiguous(),
                    "encoder_hidden_states": encoded,
                    **{f"past_key_values.{name}": tensor for name, tensor in past.items()},
                    "use_cache_branch": torch.tensor([number > 0]),
                }
            )
            steps.append(outputs["logits"].float())
            for name in past:  # with the cache, the audio's part comes back empty
                present = outputs[f"present.{name}"]
                past[name] = past[name] if number and ".encoder." in name else present
    states = {
        f"model.decoder.layers.{index}.{attention}.{_LEAVES[leaf]}": joined(
            past[f"{index}.{side}.{leaf}"].float()
        )
        for index in layers
        for side, attention in (("decoder", "self_attn"), ("encoder", "encoder_attn"))
        for leaf in _LEAVES
    }
    return Forced(torch.cat(steps, 1), {**states, "model.encoder.layer_norm": encoded.float()})
