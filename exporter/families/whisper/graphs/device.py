"""Whisper cut for a device that decodes by itself: nothing in a step asks the host.

All state of a step is tensors that the step itself advances: the next token is fed back, positions
move on, and rows end, each on its own. The host starts steps, and looks at a ring of the last
tokens from time to time. Each row has a slot in the decoder's caches and a window of the audio, so
that rows come and go while others are decoded. Graphs are cut at their layers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.attention import (
    attend,
    audio_attention,
    cached_attention,
    quantized_places,
    split,
)
from exporter.families.graph import Graph, Shape
from exporter.families.joined import join
from exporter.families.layered import LayeredGraph
from exporter.families.whisper.graphs.layers import (
    convolve,
    encode_layer,
    feed_forward,
    meta,
    shapes,
)
from exporter.runtime.whisper.engine import query_name

RING = 8
"""The steps whose tokens the ring holds."""

BEST = 16
"""The tokens of each row that `best_N` returns: twice the beams that it serves at most."""

_CACHE = ("cache.0.key", "cache.0.value")
_CROSS = ("cross.0.key", "cross.0.value")
_SCALES = ("cross.0.key_scale", "cross.0.value_scale")

Inputs = dict[str, Tensor]
Axes = dict[str, dict[int, str]]


class EncoderBefore(nn.Module):
    """input_features float32 [batch, mels, frames] -> hidden [batch, source, width]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder = model.model.encoder
        self.conv1, self.conv2 = encoder.conv1, encoder.conv2
        self.embed_positions = encoder.embed_positions
        self._dtype: torch.dtype = encoder.layer_norm.weight.dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (convolve(self, inputs[0], self._dtype),)


class EncoderLayer(nn.Module):
    """hidden [batch, source, width] -> hidden; in float16 clamped as transformers does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layer: Any = model.model.encoder.layers[0]
        self._heads = model.config.encoder_attention_heads

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (encode_layer(self.layer, inputs[0], self._attend),)

    def _attend(self, layer: Any, states: Tensor) -> Tensor:
        query = layer.q_proj(states) * layer.scaling
        attended = attend(query, layer.k_proj(states), layer.v_proj(states), self._heads)
        projected: Tensor = layer.out_proj(attended)
        return projected


class EncoderAfter(nn.Module):
    """hidden -> encoder_hidden_states [batch, source, width]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layer_norm = model.model.encoder.layer_norm

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.layer_norm(inputs[0]),)


class CrossLayer(nn.Module):
    """Writes a decoder layer's keys and values of windows to their places.

    Takes hidden, the encoder's output [batch, source, width]; places int32 [batch]; and keys and
    values [windows, heads, source, head_dim], which it writes: with `narrow` int8 codes, and their
    scales float32 [windows, heads, source] after them.
    """

    def __init__(self, model: Any, *, narrow: bool) -> None:
        super().__init__()
        attention = model.model.decoder.layers[0].encoder_attn
        self.kv_proj = join(attention, "kv_proj", ("k_proj", "v_proj"))
        self._heads = model.config.decoder_attention_heads
        self._narrow = narrow

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden, places, *caches = inputs
        new = [split(part, self._heads) for part in self.kv_proj(hidden).chunk(2, -1)]
        if self._narrow:
            pairs = [quantized_places(part) for part in new]
            new = [codes for codes, _ in pairs] + [scale for _, scale in pairs]
        for cache, part in zip(caches, new, strict=True):
            cache.index_copy_(0, places.long(), part)
        return ()


class Embed(nn.Module):
    """Tokens [rows] or [rows, tokens] and the positions [rows] of the first -> hidden."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = model.model.decoder
        self.embed_tokens, self.embed_positions = decoder.embed_tokens, decoder.embed_positions
        self._dtype: torch.dtype = decoder.layer_norm.weight.dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, position = inputs
        if ids.dim() == 1:
            ids, places = ids[:, None], position[:, None]
        else:
            # Tokens that fill up a shorter prompt may lie beyond the last position.
            last = self.embed_positions.weight.shape[0] - 1
            steps = torch.arange(ids.shape[1], dtype=position.dtype, device=ids.device)
            places = (position[:, None] + steps).clamp_max(last)
        placed = nn.functional.embedding(places, self.embed_positions.weight)
        return (self.embed_tokens(ids).to(self._dtype) + placed.to(self._dtype),)


class DecoderLayer(nn.Module):
    """hidden [rows, tokens, width] -> hidden and, of a prompt, the queries of the audio.

    Takes hidden, position, slots and window int32 [rows], ancestors int32 [slots, positions], the
    layer's two caches, and its keys and values of the audio, with their scales if they have any.
    """

    def __init__(self, model: Any, *, queries: bool) -> None:
        super().__init__()
        layer = model.model.decoder.layers[0]
        own, cross = layer.self_attn, layer.encoder_attn
        self.self_attn_layer_norm = layer.self_attn_layer_norm
        self.qkv_proj = join(own, "qkv_proj", ("q_proj", "k_proj", "v_proj"))
        self.own_out = own.out_proj
        self.encoder_attn_layer_norm = layer.encoder_attn_layer_norm
        self.cross_query, self.cross_out = cross.q_proj, cross.out_proj
        self.final_layer_norm = layer.final_layer_norm
        self.fc1, self.fc2 = layer.fc1, layer.fc2
        self.activation_fn = layer.activation_fn
        self._scale: float = own.scaling
        self._queries = queries

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden, position, slots, window, ancestors, key, value, *cross = inputs
        states = self.qkv_proj(self.self_attn_layer_norm(hidden))
        attended = cached_attention(states, key, value, ancestors, slots, position, self._scale)
        hidden = hidden + self.own_out(attended)
        query = self.cross_query(self.encoder_attn_layer_norm(hidden))
        attended = audio_attention(query, cross[0], cross[1], cross[2:], window, self._scale)
        hidden = feed_forward(self, hidden + self.cross_out(attended))
        return (hidden, query * self._scale) if self._queries else (hidden,)


class _Head(nn.Module):
    """The norm after a decoder's layers, and the logits in float32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layer_norm, self.proj_out = model.model.decoder.layer_norm, model.proj_out

    def logits(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.proj_out(self.layer_norm(hidden)).float()
        return found


class PromptAfter(_Head):
    """hidden, and places int32 [rows, places] of tokens -> logits [rows, places, vocabulary]."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden, places = inputs
        wanted = places.long()[..., None].expand(-1, -1, hidden.shape[-1])
        return (self.logits(hidden.gather(1, wanted)),)


class StepAfter(_Head):
    """Chooses each row's next token greedily, and advances the state: see `STATE`."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden, ring, turn, bias, bounds, logprob, *state = inputs
        token, previous, latest, said, least, position, finished, limit = state
        logits = self.logits(hidden)[:, 0]
        scores = allowed(logits, bias, bounds, token, previous, latest, said, least)
        best, running = scores.argmax(-1), finished == 0
        gain = scores.gather(1, best[:, None])[:, 0] - scores.logsumexp(-1)
        chosen = torch.where(running, best.to(torch.int32), bounds[_END])
        ends = torch.isneginf(bias[_ENDS])[best] | (said + 1 >= limit)
        told = running & (chosen >= bounds[_TIMES])
        ring.index_copy_(0, turn.long(), chosen[None])
        turn.copy_((turn + 1) % RING)
        logprob.add_(gain.masked_fill(~running, 0))
        latest.copy_(torch.where(told, chosen, latest))
        previous.copy_(token)
        token.copy_(chosen)
        said.add_(running.int())
        position.add_(running.int())
        finished.copy_((ends | ~running).int())
        return (logits,)


class Best(nn.Module):
    """Finds the most likely tokens of each row, for a beam search.

    Takes logits float32 [rows, vocabulary], bias and bounds, and of `STATE` what `RULED` names.
    Returns their scores float32 [rows, BEST], best first, which are log-probabilities with excluded
    tokens at -inf; the tokens int32 [rows, BEST]; and the logarithm of the sum of all
    probabilities that are left [rows].
    """

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits, *rules = inputs
        scores = allowed(logits.log_softmax(-1), *rules)
        values, tokens = scores.topk(min(BEST, scores.shape[1]))
        return values, tokens.int(), scores.logsumexp(-1)


_ALWAYS, _FIRST, _ENDS = range(3)  # of `bias`
_TIMES, _INITIAL, _END = range(3)  # of `bounds`

RULED = ("token", "previous", "latest", "said", "least")
"""The state of rows from which follows what may be said next."""

STATE = (*RULED, "position", "finished", "limit")
"""The state of rows that a step advances, each int32 [rows].

token: The token that is decoded next, and after a step the one that was chosen.
previous: The token before.
latest: The last token said that stands for a time; -1 without one.
said: The tokens said since the prompt.
least: The fewest tokens to say; not changed.
position: The position of `token`.
finished: 1 for rows that have ended: they choose the end, and do not move on.
limit: The most tokens to say; not changed.
"""


def allowed(
    scores: Tensor,
    bias: Tensor,
    bounds: Tensor,
    token: Tensor,
    previous: Tensor,
    latest: Tensor,
    said: Tensor,
    least: Tensor,
) -> Tensor:
    """Suppress what may not follow: `Rules.apply` of the runtime, for all rows at once.

    Args:
        scores: Float32 [rows, vocabulary].
        bias: 0, or -inf for tokens that are suppressed, float32 [3, vocabulary]: always, at the
            first step, and while fewer tokens than `least` were said, which are the ends.
        bounds: int32 [3]: the first token that stands for a time, the last that a text may begin
            with, and the end. Without rules of times, the first two lie beyond the vocabulary.
        token: As in `STATE`.
        previous: As in `STATE`.
        latest: As in `STATE`.
        said: As in `STATE`.
        least: As in `STATE`.
    """
    first, initial, end = bounds[_TIMES], bounds[_INITIAL], bounds[_END]
    size = scores.shape[1]
    ids = torch.arange(size, dtype=torch.int32, device=scores.device)
    begins = said == 0
    extra = torch.where(begins[:, None], bias[_FIRST], 0) + bias[_ALWAYS]
    scores = scores + extra + torch.where((said < least)[:, None], bias[_ENDS], 0)
    last = ~begins & (token >= first)
    pair = last & ((said < 2) | (previous >= first))
    opened = last & ~pair
    times = ids >= first
    begins = begins & (first < size)
    barred = (
        (ids == first - 1)
        | (pair[:, None] & times)
        | (opened[:, None] & (ids < end))
        | (times & (ids < (latest + (~opened).int())[:, None]))
        | (begins[:, None] & (~times | (ids > initial)))
    )
    scores = scores.masked_fill(barred, -torch.inf)
    text = scores.masked_fill(times, -torch.inf).amax(-1)
    timed = scores.masked_fill(~times, -torch.inf).logsumexp(-1)
    return scores.masked_fill((timed > text)[:, None] & ~times, -torch.inf)


def device_graphs(
    model: Any, rows: Sequence[int], *, narrow: bool = False
) -> list[Graph | LayeredGraph]:
    """Return the graphs of a device.

    `encoder` and `cross` run once a window, `prompt` takes several tokens of any rows at once,
    `step_N` decodes a token of N rows, and `best_N` is what a beam search takes of its logits.

    Args:
        model: The model. Its decoder's attentions get joined products: see `join`.
        rows: The numbers of rows for which there are steps.
        narrow: Whether keys and values of the audio are int8, with a scale for each position and
            head; else they have the type in which the model computes.
    """
    for layer in model.model.decoder.layers:  # weights of all, by the names of the first one's
        join(layer.self_attn, "qkv_proj", ("q_proj", "k_proj", "v_proj"))
        join(layer.encoder_attn, "kv_proj", ("k_proj", "v_proj"))
    cut = _Cut(model, narrow=narrow)
    steps = [graph for count in rows for graph in (cut.step(count), cut.best(count))]
    return [cut.encoder(), cut.cross(), cut.prompt(), *steps]


class _Cut:
    """The graphs of a model, with example inputs."""

    def __init__(self, model: Any, *, narrow: bool) -> None:
        self._model, self._narrow = model, narrow
        self._dtype: torch.dtype = model.model.decoder.layer_norm.weight.dtype
        self._features, (_, self._source, self._width), cache = shapes(model)
        _, self._heads, self._positions, self._dim = cache
        self._size: int = model.config.vocab_size

    def encoder(self) -> LayeredGraph:
        model, features = self._model, meta(self._features)
        hidden, batch = self._hidden(2, self._source), {"hidden": {0: "batch"}}
        shape: Shape = ("batch", self._source, self._width)
        return LayeredGraph(
            "encoder",
            Graph(
                "encoder_before",
                EncoderBefore(model),
                {"input_features": features},
                {"input_features": {0: "batch"}},
                {"hidden": shape},
            ),
            Graph("encoder_layer", EncoderLayer(model), hidden, batch, {"hidden": shape}),
            Graph(
                "encoder_after",
                EncoderAfter(model),
                hidden,
                batch,
                {"encoder_hidden_states": shape},
            ),
            model.config.encoder_layers,
        )

    def cross(self) -> LayeredGraph:
        audio, axes = self._audio()
        layer = Graph(
            "cross_layer",
            CrossLayer(self._model, narrow=self._narrow),
            {**self._hidden(2, self._source), "places": _integers(2), **audio},
            {"hidden": {0: "batch"}, "places": {0: "batch"}, **axes},
            {},
            mutated=tuple(audio),
        )
        return LayeredGraph("cross", None, layer, None, self._model.config.decoder_layers)

    def prompt(self) -> LayeredGraph:
        """Return the graph of several tokens of any number of rows."""
        model, both = self._model, {0: "rows", 1: "tokens"}
        shape: Shape = ("rows", "tokens", self._width)
        before = Graph(
            "prompt_before",
            Embed(model),
            {"input_ids": _integers(4, 3), "position": _integers(4)},
            {"input_ids": both, "position": {0: "rows"}},
            {"hidden": shape},
        )
        after = Graph(
            "prompt_after",
            PromptAfter(model),
            {**self._hidden(4, 3), "places": _integers(4, 2)},
            {"hidden": both, "places": {0: "rows", 1: "places"}},
            {"logits": ("rows", "places", self._size)},
        )
        layer = self._layer("prompt_layer", 4, 3)
        return LayeredGraph("prompt", before, layer, after, model.config.decoder_layers)

    def step(self, rows: int) -> LayeredGraph:
        """Return the graph of a token of so many rows."""
        model, name = self._model, f"step_{rows}"
        state = {each: _integers(rows) for each in STATE}
        before = Graph(
            f"{name}_before",
            Embed(model),
            {each: state[each] for each in ("token", "position")},
            {},
            {"hidden": (rows, 1, self._width)},
        )
        advanced = {"ring": _integers(RING, rows), "turn": _integers(1)}
        sums = {"logprob": meta((rows,))}
        after = Graph(
            f"{name}_after",
            StepAfter(model),
            {**self._hidden(rows, 1), **advanced, **self._rules(), **sums, **state},
            {},
            {"logits": (rows, self._size)},
            mutated=(*advanced, *sums, *(n for n in STATE if n not in ("least", "limit"))),
        )
        layer = self._layer(f"{name}_layer", rows, 1)
        return LayeredGraph(name, before, layer, after, model.config.decoder_layers)

    def best(self, rows: int) -> Graph:
        """Return the graph that finds the most likely tokens of so many rows."""
        state = {each: _integers(rows) for each in RULED}
        found: dict[str, Shape] = {
            "scores": (rows, min(BEST, self._size)),
            "tokens": (rows, min(BEST, self._size)),
            "mass": (rows,),
        }
        inputs = {"logits": meta((rows, self._size)), **self._rules(), **state}
        return Graph(f"best_{rows}", Best(), inputs, {}, found)

    def _layer(self, name: str, rows: int, tokens: int) -> Graph:
        """Return a decoder's layer, of a prompt if it takes several tokens."""
        several = tokens > 1
        audio, audio_axes = self._audio()
        caches = (4, self._heads, self._positions, self._dim)
        inputs = {
            **self._hidden(rows, tokens),
            **{each: _integers(rows) for each in ("position", "slots", "window")},
            "ancestors": _integers(4, self._positions),
            **{each: meta(caches, self._dtype) for each in _CACHE},
            **audio,
        }
        axes: Axes = {each: {0: "slots"} for each in ("ancestors", *_CACHE)} | audio_axes
        given: tuple[int | str, int | str] = (rows, tokens)
        if several:
            given = ("rows", "tokens")
            axes |= {each: {0: "rows"} for each in ("position", "slots", "window")}
            axes["hidden"] = {0: "rows", 1: "tokens"}
        outputs: dict[str, Shape] = {"hidden": (*given, self._width)}
        if several:
            outputs[query_name(0)] = (*given, self._width)
        module = DecoderLayer(self._model, queries=several)
        return Graph(name, module, inputs, axes, outputs, mutated=_CACHE)

    def _hidden(self, rows: int, tokens: int) -> Inputs:
        return {"hidden": meta((rows, tokens, self._width), self._dtype)}

    def _rules(self) -> Inputs:
        return {"bias": meta((3, self._size)), "bounds": _integers(3)}

    def _audio(self) -> tuple[Inputs, Axes]:
        """Return a layer's keys and values of the audio, and their axes that may change."""
        windows, dtype = 3, torch.int8 if self._narrow else self._dtype
        shape = (windows, self._heads, self._source, self._dim)
        audio = {name: meta(shape, dtype) for name in _CROSS}
        if self._narrow:
            audio |= {name: meta(shape[:3]) for name in _SCALES}
        return audio, {name: {0: "windows"} for name in audio}


def _integers(*shape: int) -> Tensor:
    return meta(shape, torch.int32)
