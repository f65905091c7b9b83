"""Open onnx-int8 artifacts with numpy and onnxruntime alone: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter.artifact.store import read_verified
from exporter.errors import IntegrityError, RecipeError
from exporter.recognition.model import Model, Values
from exporter.runtime.manifest import SealedManifest
from exporter.runtime.transcript import Segment, Sound, Transcript

_Opened = Mapping[str, Any]
_PROMPT_TOKENS = 4  # start, language, task, no timestamps


def opens(manifest: SealedManifest) -> bool:
    """Return whether an artifact is of a kind and a family that are opened here."""
    return manifest.kind == "onnx-int8" and manifest.family in _MODELS


def open_model(folder: Path, manifest: SealedManifest, threads: int) -> Model:
    """Open an artifact's graphs and read its small files.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        threads: Number of threads of each graph.

    Raises:
        IntegrityError: The files are not those of such an artifact.
        CheckpointError: A config or the tokenizer cannot be used.
    """
    from exporter.runtime.onnx import graph_name, session
    from exporter.runtime.onnx.external_data import own_graphs

    limit_s = session.call_limit_s(manifest.size_bytes)
    contents = own_graphs(folder, manifest.files, read_verified)
    opener = _MODELS[manifest.family]
    found = {graph_name(path) for path in contents}
    if found != {*opener.graphs}:
        listed = ", ".join(sorted(found)) or "none"
        named = ", ".join(opener.graphs)
        msg = f"{folder} has other graphs than {named} ({listed}): build it again with --force"
        raise IntegrityError(msg)
    opened = {
        graph_name(path): session.open_graph(path, content, threads, limit_s=limit_s)
        for path, content in contents.items()
    }
    return opener.make(folder, opened)


def import_modules(manifest: SealedManifest) -> None:
    """Import what opens an artifact, so that the time of opening it excludes imports."""
    import_module("exporter.runtime.onnx.session")
    for module in _MODELS[manifest.family].modules:
        import_module(module)


def _ctc(folder: Path, graphs: _Opened) -> Model:
    from exporter.runtime.ctc.model import GRAPH, CtcModel

    return CtcModel(folder, graphs[GRAPH])


def _whisper(folder: Path, graphs: _Opened) -> Model:
    from exporter.runtime.onnx.whisper import Engine

    return _WhisperModel(folder, Engine(graphs))


@dataclass(frozen=True)
class _Opener:
    """How the artifacts of a family are opened: their graphs, and the modules that do it."""

    graphs: Sequence[str]
    modules: Sequence[str]
    make: Callable[[Path, _Opened], Model]


_WHISPER = ("exporter.runtime.onnx.whisper", "exporter.runtime.whisper.transcribe")
_MODELS: Mapping[str, _Opener] = {
    "ctc": _Opener(("model",), ("exporter.runtime.ctc.model",), _ctc),
    "whisper": _Opener(("encoder_model", "cross_cache", "step"), _WHISPER, _whisper),
}


class _WhisperModel:
    """A Whisper whose graphs an engine runs."""

    def __init__(self, folder: Path, engine: Any) -> None:
        from exporter.runtime.whisper.settings import CONFIG, GENERATION, read_values
        from exporter.runtime.whisper.transcribe import Whisper

        self._configs = read_values(folder / CONFIG), read_values(folder / GENERATION)
        self._whisper = Whisper.read(folder, engine)
        self._workload: dict[str, Any] = {}
        mel = self._whisper.settings.mel
        self.functions: dict[str, Any] = engine.functions
        self.sampling_rate, self.window = mel.rate, mel.samples

    @property
    def vocabulary(self) -> int:
        text = self._whisper.text
        return len(text.spoken(text.ids))

    def transcribe(self, sounds: Sequence[Sound], decoding: Values) -> list[Transcript]:
        from exporter.runtime.whisper.options import Options

        options = replace(Options.of(decoding), **self._workload)
        return self._whisper.transcribe(sounds, options)

    def segments(self, sound: Sound, decoding: Values) -> Generator[Segment, None, Transcript]:
        from exporter.runtime.whisper.options import Options

        options = replace(Options.of(decoding), **self._workload)
        return self._whisper.segments(sound, options)

    def check(self, decoding: Values) -> None:
        from exporter.runtime.whisper.options import Options, check_options

        check_options(*self._configs, Options.of(decoding))

    def limit_tokens(self, tokens: int) -> None:
        self._workload = {"max_length": tokens}

    def force_tokens(self, tokens: int) -> bool:
        most = self._whisper.settings.positions - _PROMPT_TOKENS
        if tokens > most:
            msg = f"--tokens {tokens}: this model decodes at most {most} at a time"
            raise RecipeError(msg)
        self._workload = {"exact_tokens": tokens}
        return True
