"""The undamaged artifacts, each built once with its original and its corpus, and kept.

All but `demo` have random weights and synthetic sounds, whose true texts are those that the
original writes; `demo` recognises speech, and has the repository's recordings.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch

from exporter import recipe as recipes
from exporter.build.pipeline import build
from tests.support.tiny import make_whisper
from tests.support.tiny_ctc import make_ctc

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".damage"
RATE = 16_000
_MIXED = ("onnx-mixed", "torch-mixed", "aoti-mixed")
_TINY = ("onnx-int8", "onnx-web", "onnx-avx2", "torch-int8", "torch-tensor", "aoti", *_MIXED)
# Where recipes name the recordings of a calibration.
CALIBRATION = "CALIBRATION"
# One artifact has every scheme, so that many plants share it. The patterns of both families.
_SCHEMES = (
    "{modules: {'model.encoder.*': static-int8, "
    "'*.decoder.layers.0.*': {scheme: weight-int4, group_size: 32, symmetric: false}, "
    "'*.decoder.layers.1.*': {scheme: weight-int8, group_size: 32}}, "
    f"calibration: {{clips: {CALIBRATION}}}}}"
)
_CTC_SCHEMES = (
    "{modules: {'*.conv_layers.1.*': dynamic-int8, '*.conv_layers.2.*': static-int8, "
    "'*.feature_projection.*': static-int8, "
    "'*.layers.0.*': {scheme: weight-int4, group_size: 32, symmetric: false}}, "
    f"calibration: {{clips: {CALIBRATION}}}}}"
)
TARGETS = {
    "onnx-int8": "{kind: onnx-int8}",
    "onnx-web": "{kind: onnx-int8, name: onnx-web, layout: transformers.js}",
    "onnx-avx2": "{kind: onnx-int8, name: onnx-avx2, preset: avx2}",
    "torch-int8": "{kind: torch-int8}",
    "torch-tensor": "{kind: torch-int8, name: torch-tensor, "
    "quantization: {default: {scheme: dynamic-int8, per_channel: false}}}",
    "aoti": "{kind: aoti}",
    "onnx-mixed": f"{{kind: onnx-int8, name: onnx-mixed, quantization: {_SCHEMES}}}",
    "torch-mixed": f"{{kind: torch-int8, name: torch-mixed, quantization: {_SCHEMES}}}",
    "aoti-mixed": f"{{kind: aoti, name: aoti-mixed, quantization: {_SCHEMES}}}",
    "onnx-ctc": f"{{kind: onnx-int8, name: onnx-ctc, quantization: {_CTC_SCHEMES}}}",
    "torch-ctc": f"{{kind: torch-int8, name: torch-ctc, quantization: {_CTC_SCHEMES}}}",
    "aoti-ctc": f"{{kind: aoti, name: aoti-ctc, quantization: {_CTC_SCHEMES}}}",
}
_RECIPE = """\
name: {name}
checkpoint: {checkpoint}
targets:
{targets}
decoding: {decoding}
data: {{clips: {clips}}}
gate: {gate}
"""
_TINY_GATE = "{min_clips: 16, max_wer_increase: 0.05, max_latency_ratio: 3.0}"
# A model without a decoder takes a millisecond, of which most is the calls around it; and of random
# frames, each that is close to call is a word.
_CTC_GATE = "{min_clips: 16, max_wer_increase: 1.0, max_latency_ratio: 5.0}"


@dataclass(frozen=True)
class Ground:
    """An original, its corpus, and artifacts to damage.

    `shape` is what `tests.support` makes the original of: a Whisper model, or a `ctc` one. Its
    corpus is chosen from a `pool` of so many sounds.
    """

    name: str
    targets: tuple[str, ...]
    decoding: str
    gate: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    ctc: bool = False
    pool: int = 90

    @property
    def folder(self) -> Path:
        """The folder of all of it."""
        return WORK / "grounds" / self.name

    @property
    def checkpoint(self) -> Path:
        """The original."""
        speaks = ROOT / "recipes" / "demo" / "whisper"
        return speaks if self.name == "demo" else self.folder / "checkpoint"

    @property
    def clips(self) -> Path:
        """The corpus."""
        return self.folder / "clips"

    @property
    def calibration(self) -> Path:
        """Other recordings, which static schemes are calibrated on."""
        return self.folder / "calibration"

    def artifact(self, name: str) -> Path:
        """An undamaged artifact, by its target's name."""
        return self.folder / "artifacts" / self.name / name

    def recipe(self, targets: Sequence[str], name: str = "", decoding: str = "") -> str:
        """Return a recipe on this original and corpus: this ground's, or one of another name."""
        return _RECIPE.format(
            name=name or self.name,
            checkpoint=self.checkpoint,
            targets="\n".join(
                f"  - {target.replace(CALIBRATION, str(self.calibration))}" for target in targets
            ),
            decoding=decoding or self.decoding,
            clips=self.clips,
            gate=self.gate,
        )


_TRIES, _LEAST, _MOST, _MOST_WORDS = 3, 16, 20, 24
_CALIBRATED, _UNHEARD = 16, 1000
GROUNDS = {
    ground.name: ground
    for ground in (
        Ground(
            "tiny",
            _TINY,
            "{language: en, task: transcribe}",
            _TINY_GATE,
            {"certainty": 2.5, "words": 12, "seed": 2},
        ),
        Ground(
            "english",
            ("onnx-int8", "torch-int8", "aoti"),
            "{num_beams: 2}",
            _TINY_GATE,
            {
                "english_only": True,
                "window_s": 6,
                "width": 96,
                "heads": 3,
                "encoder_layers": 1,
                "decoder_layers": 3,
                "max_tokens": 80,
                "dtype": "float16",
                "certainty": 2.5,
                "words": 12,
                "seed": 1,
            },
        ),
        Ground(
            "ctc",
            ("onnx-ctc", "torch-ctc", "aoti-ctc"),
            "{}",
            _CTC_GATE,
            {"kind": "wav2vec2"},
            ctc=True,
        ),
        # For honest builds: layer norms in place of group norms, and log-mel features as input.
        Ground("hubert", (), "{}", _CTC_GATE, {"kind": "hubert-layer-norm"}, ctc=True, pool=240),
        Ground("features", (), "{}", _CTC_GATE, {"kind": "wav2vec2-bert"}, ctc=True, pool=240),
        Ground(
            "demo",
            ("onnx-int8", "onnx-web", "torch-int8", "aoti"),
            "{language: en, task: transcribe, num_beams: 2}",
            "{max_wer_increase: 0.025, max_latency_ratio: 1.5, min_clips: 50}",
        ),
    )
}


def own_places() -> dict[str, str]:
    """Return the environment that keeps what is compiled and noted in the work folder."""
    names = ("EXPORTER_CACHE", "EXPORTER_STATE", "EXPORTER_CONFIG")
    return {name: str(WORK / name.split("_")[1].lower()) for name in names}


def prepare(ground: Ground, names: Sequence[str]) -> None:
    """Make the original and the corpus of a ground and some artifacts, if they are missing."""
    prepare_data(ground)
    path = ground.folder / "recipe.yaml"
    targets = [TARGETS[name] for name in ground.targets]
    path.write_text(ground.recipe(targets), encoding="utf-8")
    missing = [name for name in names if not ground.artifact(name).exists()]
    if missing:
        output = ground.folder / "artifacts"
        with mock.patch.dict(os.environ, own_places()):
            build(recipes.read(path), output=output, targets=missing, progress=lambda *_: None)


def prepare_data(ground: Ground) -> None:
    """Make the original and the corpus, if they are missing."""
    ground.folder.mkdir(parents=True, exist_ok=True)
    if ground.name == "demo":
        _copy_clips(ground)
    elif not (ground.clips / "manifest.jsonl").exists():
        _make_checkpoint(ground)
        _write_sounds(ground)
    if not ground.calibration.exists():
        _write_calibration(ground)


def _make_checkpoint(ground: Ground) -> None:
    make = make_ctc if ground.ctc else make_whisper
    shutil.rmtree(ground.checkpoint, ignore_errors=True)
    make(ground.checkpoint, **ground.shape)


def _write_calibration(ground: Ground) -> None:
    """Write sounds that no artifact is judged by; of the demo, the recordings of its recipe."""
    if ground.name == "demo":
        shutil.copytree(ground.clips, ground.calibration)
        return
    ground.calibration.mkdir()
    rows = []
    for index in range(_CALIBRATED):
        name, samples = f"sound-{index:03}.wav", sound(_UNHEARD + index, 1.0 + 0.15 * index)
        soundfile.write(ground.calibration / name, samples, RATE)
        rows.append(json.dumps({"audio": name, "text": "not asked for"}))
    (ground.calibration / "manifest.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _copy_clips(ground: Ground) -> None:
    if not ground.clips.exists():
        shutil.copytree(ROOT / "recipes" / "demo" / "clips", ground.clips)


def _write_sounds(ground: Ground) -> None:
    """Write sounds, and a manifest with what the original writes for each.

    Sounds whose text depends on roundings are left out: few recordings of speech are so close to
    call, and these would leave every honest build undecided.
    """
    from exporter.recognition.load import load_original

    ground.clips.mkdir(exist_ok=True)
    decoding = recipes.Decoding.model_validate(_yaml(ground.decoding))
    original = load_original(ground.checkpoint, threads=1, decoding=decoding)
    window = ground.shape.get("window_s", 4)
    lengths = [window * factor for factor in (1.25, 1.6, 1.4)]
    count = ground.pool
    lengths += [0.6 + (window - 0.7) * (index * 7 % count) / count for index in range(count)]
    pool = [sound(index, seconds) for index, seconds in enumerate(lengths)]
    texts = [transcript.text.strip() for transcript in original.decode(pool)]
    stable = {index for index, text in enumerate(texts) if _usable(text)}
    for seed in range(1 if ground.ctc else _TRIES):  # words of random frames are many, and short
        with _rounded(original.model, seed):
            chosen = sorted(stable)
            others = original.decode([pool[index] for index in chosen])
        stable = {
            index
            for index, other in zip(chosen, others, strict=True)
            if other.text.strip() == texts[index]
        }
    rows = []
    for index in _varied(texts, sorted(stable)):
        name = f"sound-{index:03}.wav"
        soundfile.write(ground.clips / name, pool[index], RATE)
        row = {"audio": name, "text": texts[index], "duration": round(lengths[index], 3)}
        rows.append(json.dumps(row))
    assert len(rows) >= _LEAST, f"{ground.name}: only {len(rows)} sounds"
    (ground.clips / "manifest.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _usable(text: str) -> bool:
    return text.isprintable() and "\ufffd" not in text and 2 <= len(text.split()) <= _MOST_WORDS


def _varied(texts: Sequence[str], among: Sequence[int]) -> list[int]:
    """Return at most `_MOST` places, each text as seldom as possible."""
    seen: Counter[str] = Counter()
    turns = []
    for index in among:
        seen[texts[index]] += 1
        turns.append((seen[texts[index]], index))
    return sorted(index for _, index in sorted(turns)[:_MOST])


@contextmanager
def _rounded(model: Any, seed: int) -> Iterator[None]:
    """Disturb every linear weight by about as much as int8 weights and inputs do."""
    random = torch.Generator().manual_seed(seed)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    before = [module.weight for module in linears]
    for module in linears:
        step = module.weight.detach().abs().amax(1, keepdim=True) / 127
        moved = module.weight + 0.6 * step * torch.randn(module.weight.shape, generator=random)
        module.weight = torch.nn.Parameter(moved.detach())
    try:
        yield
    finally:
        for module, weight in zip(linears, before, strict=True):
            module.weight = weight


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe").load(text))


def sound(index: int, seconds: float) -> np.ndarray[Any, Any]:
    """Return a synthetic sound: harmonics of a gliding pitch, in syllables, and noise.

    Args:
        index: Which one.
        seconds: How long it is.

    Returns:
        float32 [samples] at `RATE`, at most 0.5.
    """
    random = np.random.default_rng(index)
    times = np.arange(int(RATE * seconds)) / RATE
    pitch = random.uniform(90, 260) * 2 ** (random.uniform(-1, 1) * times / 4)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(random.uniform(0.1, 1) / k * np.sin(k * phase) for k in range(1, 24))
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(2, 6) * times + random.uniform(0, 6))
    noise = random.normal(0, random.uniform(0.02, 0.4), len(times))
    mixed = syllables * voice + noise
    return (0.5 * mixed / np.abs(mixed).max()).astype(np.float32)
