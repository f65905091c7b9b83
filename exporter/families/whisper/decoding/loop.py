"""Decode windows with little time outside the graphs, if the generation config allows it.

transformers' `generate` spends about 8 ms of Python on each token, more than whisper-small's
decoder needs. It stays the road for whatever the lean loops do not know: timestamps, recordings
longer than the window, a language to be found, and what `Rules` does not hold of a config.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_outputs import Seq2SeqLMOutput

from exporter.families.graph import GraphFunction
from exporter.families.whisper.decoding.generation_rules import Rules, read_rules
from exporter.families.whisper.decoding.search import beam_search, greedy


class Decoder(Protocol):
    """How tokens are decoded against one kind of cache.

    `encoded` is what the encoder's graph gives, batch first. Rows are hypotheses: row r belongs to
    window r // (rows / windows), and caches of the audio are not repeated for it.
    """

    def start(self) -> Any:
        """An empty cache."""
        ...

    def step(self, ids: Tensor, encoded: Tensor, cache: Any) -> Tensor:
        """Logits [rows, 1 or tokens, vocabulary] of ids [rows, tokens]; `cache` moves on."""
        ...

    def expand_beams(self, encoded: Tensor, cache: Any, beams: int) -> Tensor:
        """Turn every row into `beams` rows alike; gives `encoded` as `step` then wants it."""
        ...

    def release(self, cache: Any) -> None:
        """Take back a cache that is not needed any more."""
        ...


@dataclass
class Engine:
    """A model's built graphs for the lean loops: its functions by name, and who calls which.

    Functions are looked up at every call, so that whoever measures can put another in a name's
    place. `encoder` is the encoder's name, `device` where all of them take and give tensors.
    """

    functions: dict[str, GraphFunction]
    encoder: str
    decoder: Decoder
    device: torch.device
    _rules: dict[Any, Rules | None] = field(default_factory=dict)
    _rules_of: dict[str, Any] = field(default_factory=dict)

    def encode(self, features: Tensor) -> Tensor:
        """Run the encoder on float32 features [windows, mels, frames].

        One window after the other: each is enough for all cores, and what several need between the
        layers lies in no cache. So no window's rounding depends on those beside it, either.
        """
        features = features.to(self.device, torch.float32).contiguous()
        encoded = [self._encode(window) for window in features.split(1)]
        return encoded[0] if len(encoded) == 1 else torch.cat(encoded)

    def _encode(self, window: Tensor) -> Tensor:
        return next(iter(self.functions[self.encoder]({"input_features": window}).values()))

    def rules(self, model: Any, language: str | None, task: str | None) -> Rules | None:
        """The rules of the model's generation config as it is now."""
        settings = vars(model.generation_config)
        if settings != self._rules_of:
            self._rules_of = copy.deepcopy(settings)
            self._rules.clear()
        key = (language, task)
        if key not in self._rules:
            self._rules[key] = read_rules(model, language, task)
        return self._rules[key]


class _Windows:
    """Windows that an engine decodes: `search.Hypotheses`.

    The search runs on the CPU whatever device the graphs run on, and its tensors pass over here: of
    a step, logits [rows, vocabulary] in float32 one way and ids [rows, tokens] the other. What it
    does with them are hundreds of small operations that depend on each other's results, which
    numpy finishes in less time than it takes to start as many on another device.
    """

    def __init__(self, engine: Engine, encoded: Tensor, watch: Callable[[Tensor], None] | None):
        self.windows = encoded.shape[0]
        self._decoder = engine.decoder
        self._device = engine.device
        self._encoded = encoded
        self._watch = watch
        self._cache = engine.decoder.start()

    def step(self, ids: Tensor) -> Tensor:
        ids = ids.to(self._device)
        logits = self._decoder.step(ids, self._encoded, self._cache)[:, -1].float().cpu()
        if self._watch is not None:
            self._watch(logits)
        return logits

    def expand_beams(self, beams: int) -> None:
        self._encoded = self._decoder.expand_beams(self._encoded, self._cache, beams)

    def reorder(self, rows: Tensor) -> None:
        self._cache.reorder_cache(rows.to(self._device))

    def release(self) -> None:
        self._decoder.release(self._cache)


def decode(
    model: Any, features: Tensor, *, language: str | None, task: str | None, beams: int
) -> list[list[int]] | None:
    """Tokens of each window, prompt and end left out; None where `generate` has to do it.

    `features` are [windows, mels, frames]. Only a model with an `engine` can. The float32 original
    has none: the reference of every comparison, in tokens and in time, is transformers' own road.
    """
    engine: Engine | None = getattr(model, "engine", None)
    rules = None if engine is None else engine.rules(model, language, task)
    if engine is None or rules is None or _too_few_tokens(model, rules, beams):
        return None
    windows = _Windows(engine, engine.encode(features), _watcher(model))
    try:
        decoded = greedy(windows, rules) if beams == 1 else beam_search(windows, rules, beams)
    finally:
        windows.release()
    if any(token >= rules.timestamps for row in decoded for token in row):
        return None  # rare: `generate` cuts at them, and may go on from there
    return decoded


def _too_few_tokens(model: Any, rules: Rules, beams: int) -> bool:
    """Whether a beam search could run out of tokens to choose from."""
    allowed = model.config.vocab_size - len(rules.never) - len(rules.not_first) - 1
    return bool(allowed < 2 * beams)


def _watcher(model: Any) -> Callable[[Tensor], None] | None:
    """Show every step to those who registered forward hooks on the model, as `generate` would."""
    hooks = tuple(model._forward_hooks.values())
    if not hooks:
        return None

    def watch(logits: Tensor) -> None:
        for hook in hooks:
            hook(model, (), Seq2SeqLMOutput(logits=logits[:, None]))

    return watch
