"""Open onnx-int8, onnx-fp16 and aoti artifacts without torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter.artifact.store import read_verified
from exporter.errors import IntegrityError, RecipeError
from exporter.recognition.model import Model, Values
from exporter.runtime.manifest import SealedManifest
from exporter.runtime.transcript import Segment, Sound, Transcript
from exporter.system.hardware import require_threads

_Opened = Mapping[str, Any]
_PROMPT_TOKENS = 4  # start, language, task, no timestamps


def opens(manifest: SealedManifest) -> bool:
    """Return whether an artifact is of a kind and a family that are opened here."""
    known = (manifest.kind, manifest.family) in _MODELS
    return known and "torch" not in manifest.needs.packages


def open_model(folder: Path, manifest: SealedManifest, threads: int) -> Model:
    """Open an artifact's graphs and read its small files.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        threads: Number of threads of each graph.

    Raises:
        IntegrityError: The files are not those of such an artifact.
        CheckpointError: A config or the tokenizer cannot be used.
        MachineError: It was compiled for another number of threads, or cannot be loaded here.
    """
    opener = _MODELS[manifest.kind, manifest.family]
    graphs, files = _GRAPHS[manifest.kind](folder, manifest, threads, opener)
    return opener.make(files, graphs)


def _onnx(
    folder: Path, manifest: SealedManifest, threads: int, opener: _Opener
) -> tuple[_Opened, Any]:
    """Open the graphs of onnx-int8 in onnxruntime, and read the small files meanwhile."""
    from exporter.runtime.onnx import graph_name, session
    from exporter.runtime.onnx.external_data import own_graphs

    limit_s = session.call_limit_s(manifest.size_bytes)
    contents = own_graphs(folder, manifest.files, read_verified)
    _require_graphs(folder, {graph_name(path) for path in contents}, opener.graphs)
    read = partial(opener.read, folder)
    if manifest.needs.device == "cuda":
        from exporter.runtime.onnx import cuda

        cuda.require_provider()
        captured = {path for path in contents if graph_name(path) in opener.captured}

        def provider(path: Path) -> session.Providers:
            return [cuda.provider(captured=path in captured)]

        opened, files = session.open_graphs(
            contents, threads, read, providers=provider, limit_s=limit_s
        )
    else:
        opened, files = session.open_graphs(contents, threads, read, limit_s=limit_s)
    return {graph_name(path): graph for path, graph in opened.items()}, files


def _aoti(
    folder: Path, manifest: SealedManifest, threads: int, opener: _Opener
) -> tuple[_Opened, Any]:
    """Open the packages of aoti: the bytes that were verified are those that run."""
    from exporter.runtime.aoti.package import open_packages

    require_threads(manifest.threads, threads, str(folder))
    files = [file for file in manifest.files if file.path.endswith(".pt2")]
    _require_graphs(folder, {Path(file.path).stem for file in files}, opener.graphs)
    contents = {file.path: read_verified(folder, file) for file in files}
    return open_packages(folder, contents, threads), opener.read(folder)


def _require_graphs(folder: Path, found: set[str], names: Sequence[str]) -> None:
    if found != {*names}:
        listed = ", ".join(sorted(found)) or "none"
        msg = (
            f"{folder} has other graphs than {', '.join(names)} ({listed}): "
            "build it again with --force"
        )
        raise IntegrityError(msg)


def import_modules(manifest: SealedManifest) -> None:
    """Import what opens an artifact, so that the time of opening it excludes imports."""
    for module in _MODELS[manifest.kind, manifest.family].modules:
        import_module(module)


def _ctc(folder: Path, graphs: _Opened) -> Model:
    from exporter.runtime.ctc.model import GRAPH, CtcModel

    return CtcModel(folder, graphs[GRAPH])


def _onnx_whisper(files: _WhisperFiles, graphs: _Opened) -> Model:
    from exporter.runtime.onnx.whisper import Engine

    return _WhisperModel(files, Engine(graphs))


def _device_whisper(files: _WhisperFiles, graphs: _Opened) -> Model:
    from exporter.runtime.onnx.buffers import Memory
    from exporter.runtime.onnx.device_whisper import Engine

    return _WhisperModel(files, Engine(graphs, Memory("cuda")))


def _aoti_whisper(files: _WhisperFiles, graphs: _Opened) -> Model:
    from exporter.runtime.aoti.whisper import Engine

    return _WhisperModel(files, Engine(graphs))


@dataclass(frozen=True)
class _WhisperFiles:
    """What an artifact's small files say."""

    configs: tuple[Values, Values]
    settings: Any
    text: Any

    @classmethod
    def read(cls, folder: Path) -> _WhisperFiles:
        from exporter.runtime.whisper.settings import CONFIG, GENERATION, Settings, read_values
        from exporter.runtime.whisper.text import Text

        configs = read_values(folder / CONFIG), read_values(folder / GENERATION)
        return cls(configs, Settings.read(folder), Text.read(folder))


@dataclass(frozen=True)
class _Opener:
    """How the artifacts of a kind and a family are opened.

    Attributes:
        graphs: The names of the graphs.
        modules: The modules that open them.
        read: Reads the small files of a folder.
        make: Joins both.
        captured: The names of the graphs whose calls are captured on a card.
    """

    graphs: Sequence[str]
    modules: Sequence[str]
    read: Callable[[Path], Any]
    make: Callable[[Any, _Opened], Model]
    captured: Sequence[str] = ()


_SESSION, _PACKAGE = "exporter.runtime.onnx.session", "exporter.runtime.aoti.package"
_CTC, _WHISPER = "exporter.runtime.ctc.model", "exporter.runtime.whisper.transcribe"
_GRAPHS: Mapping[str, Callable[..., tuple[_Opened, Any]]] = {
    "onnx-int8": _onnx,
    "onnx-fp16": _onnx,
    "aoti": _aoti,
}
_MODELS: Mapping[tuple[str, str], _Opener] = {
    ("onnx-int8", "ctc"): _Opener(("model",), (_SESSION, _CTC), Path, _ctc),
    ("onnx-int8", "whisper"): _Opener(
        ("encoder_model", "cross_cache", "step"),
        (_SESSION, "exporter.runtime.onnx.whisper", _WHISPER),
        _WhisperFiles.read,
        _onnx_whisper,
    ),
    ("onnx-fp16", "whisper"): _Opener(
        ("encoder_model", "cross_cache", "step", "gather"),
        (_SESSION, "exporter.runtime.onnx.device_whisper", _WHISPER),
        _WhisperFiles.read,
        _device_whisper,
        captured=("encoder_model", "step"),
    ),
    ("aoti", "ctc"): _Opener(("model",), (_PACKAGE, _CTC), Path, _ctc),
    ("aoti", "whisper"): _Opener(
        ("encoder", "decoder"),
        (_PACKAGE, "exporter.runtime.aoti.whisper", _WHISPER),
        _WhisperFiles.read,
        _aoti_whisper,
    ),
}


class _WhisperModel:
    """A Whisper whose graphs an engine runs."""

    def __init__(self, files: _WhisperFiles, engine: Any) -> None:
        from exporter.runtime.whisper.transcribe import Whisper

        self._configs = files.configs
        self._whisper = Whisper(engine, files.settings, files.text)
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
