"""Honest builds of many settings, none of which may fail: the false alarms of the validator."""

import json
import re
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.quantization.calibration.histogram import METHODS
from exporter.system.hardware import describe
from tests.damage import command
from tests.damage.grounds import CALIBRATION, GROUNDS, WORK, Ground, prepare_data
from tests.damage.judging import Outcome, validate

_INT7 = "quantization: {default: {scheme: dynamic-int8, bits: 7}}"
_TENSOR = "quantization: {default: {scheme: dynamic-int8, per_channel: false}}"
_FLOAT = "quantization: {default: float}"
_HEAD = "quantization: {modules: {lm_head: float}}"
_HEAD16 = "quantization: {modules: {lm_head: {scheme: float, dtype: float16}}}"
_HEADB16 = "quantization: {modules: {lm_head: {scheme: float, dtype: bfloat16}}}"
_ENCODER = "quantization: {modules: {'*.encoder.*': float}}"
_DECODER = "quantization: {modules: {'*.decoder.layers.*': float}}"
_FC = "quantization: {modules: {'*.fc?': dynamic-int8}, default: float}"
_CROSS = "quantization: {modules: {'*.encoder_attn.*': float}}"
_MIXED = (
    "quantization: {modules: {'*.fc1': {scheme: dynamic-int8, bits: 7}, "
    "'*.fc2': {scheme: dynamic-int8, per_channel: false}, lm_head: float}}"
)
_HALF = "quantization: {default: {scheme: float, dtype: float16}}"


def _plan(modules: str, method: str = "", default: str = "dynamic-int8") -> str:
    """Return settings with a plan, which calibrates if it has a method."""
    ranges = f", calibration: {{clips: {CALIBRATION}, method: {method}}}" if method else ""
    return f"quantization: {{modules: {{{modules}}}, default: {default}{ranges}}}"


# Ranges of every method, weights in groups of every form, convolutions; some together in one plan.
_ENCODERS = {m: _plan("'model.encoder.*': static-int8", m) for m in METHODS}
_STATIC = _plan("lm_head: float", "mse", "static-int8")
_FOUR = _plan("'*.decoder.layers.*': {scheme: weight-int4, group_size: 32, symmetric: false}")
_FOURS = _plan("lm_head: dynamic-int8", default="{scheme: weight-int4, group_size: 64}")
_EIGHT = _plan("'*.conv?': dynamic-int8, '*.decoder.layers.*': {scheme: weight-int8}")
_EIGHTS = _plan(
    "lm_head: dynamic-int8", default="{scheme: weight-int8, group_size: 32, symmetric: false}"
)
_SPEECH = _plan("'model.encoder.*': static-int8, '*.fc?': {scheme: weight-int4}", "percentile")
# CTC models: the front end static and the layers dynamic, as published; or without calibration.
_FRONT = _plan("'*.feature_*': static-int8, lm_head: float", "mse")
_FLOAT_FRONT = _plan("'*.conv_layers.*': float, lm_head: float")
_FOUR_LAYERS = _plan("'*.layers.*': {scheme: weight-int4, symmetric: false}")

# The settings of each kind of target; those of `few` are tried on every checkpoint.
_ONNX_FEW = ("", "preset: avx2", f"layout: transformers.js, {_HEAD}")
_ONNX = (
    *_ONNX_FEW,
    *("preset: avx512", "preset: arm64", "layout: transformers.js", f"preset: avx2, {_INT7}"),
    *(_INT7, _TENSOR, _FLOAT, _HEAD16, _HEADB16, _ENCODER, _DECODER, _FC, _CROSS, _MIXED, _HALF),
)
_TORCH_FEW = ("", _TENSOR, _HEAD16)
_TORCH = (*_TORCH_FEW, _INT7, _FLOAT, _HEADB16, _ENCODER, _FC, _CROSS, _MIXED, _HALF)
_AOTI_FEW = ("", "dtype: bfloat16")
_AOTI = (
    *_AOTI_FEW,
    *("dtype: auto", "march: x86-64-v3", "dtype: {encoder: bfloat16}"),
    *("onednn: true", "onednn: {encoder: false}", "threads: 1"),
    *(_TENSOR, _INT7, _HEAD, _ENCODER),
)
# How many artifacts one command validates, and the seconds that a build may take.
_AT_ONCE, _BUILD_S = 24, 600
_AOTI_V4 = ("vnni: false", "bf16: false, dtype: bfloat16")


@dataclass(frozen=True)
class Honest:
    """One build: a checkpoint's ground, a decoding, a kind of target and its settings."""

    ground: str
    decoding: str
    kind: str
    settings: str

    @property
    def title(self) -> str:
        """What it is, for the table."""
        return f"{self.ground} {self.decoding} {self.kind} {self.settings}"

    @property
    def name(self) -> str:
        """The name of its target, the same in every run, so that it is built once."""
        return (
            f"{self.kind}-{zlib.crc32(self.settings.encode()):08x}" if self.settings else self.kind
        )

    @property
    def target(self) -> str:
        """The target in a recipe."""
        return f"{{kind: {self.kind}, name: {self.name}, {self.settings}}}".replace(", }", "}")


def builds() -> list[Honest]:
    """Return all builds that this machine can make."""
    wide = describe().isa == "x86-64-v4"
    aoti = (*_AOTI, *(_AOTI_V4 if wide else ()))
    greedy = GROUNDS["tiny"].decoding
    beams = greedy.replace("}", ", num_beams: 3}")
    batches = greedy.replace("}", ", batch_size: 4}")
    english, demo = GROUNDS["english"].decoding, GROUNDS["demo"].decoding
    spoken = "{language: en, task: transcribe, num_beams: 5}"
    schemes = greedy.replace("}", ", num_beams: 1}")  # the same, in a recipe of its own
    tables = {
        ("tiny", greedy): (_ONNX, _TORCH, aoti),
        ("tiny", beams): (_ONNX_FEW[:2], _TORCH_FEW[:2], _AOTI_FEW[:1]),
        ("tiny", batches): (_ONNX_FEW[:2], _TORCH_FEW[:1], _AOTI_FEW[:1]),
        ("english", english): (_ONNX_FEW, _TORCH_FEW, _AOTI_FEW),
        ("demo", demo): (_ONNX_FEW, _TORCH_FEW, _AOTI_FEW),
        ("tiny", schemes): (
            (
                *(_ENCODERS["minmax"], _ENCODERS["entropy"], _STATIC, _FOUR, _EIGHTS),
                f"preset: avx2, {_ENCODERS['mse']}",
                f"preset: avx2, {_EIGHT}",
            ),
            (_ENCODERS["percentile"], _STATIC, _FOUR, _EIGHT),
            (_STATIC, _FOURS, _EIGHT),
        ),
        ("ctc", "{}"): (
            ("", _FRONT, _FOUR_LAYERS, f"layout: transformers.js, {_FLOAT_FRONT}"),
            ("", _FRONT),
            (_FRONT,),
        ),
        ("hubert", "{}"): ((_FRONT,), ("",), ()),
        ("features", "{}"): (("preset: avx2",), ("",), ()),
        ("demo", spoken): (("", "preset: arm64", _SPEECH), ("",), ("",)),
    }
    return [
        Honest(ground, decoding, kind, settings)
        for (ground, decoding), kinds in tables.items()
        for kind, every in zip(("onnx-int8", "torch-int8", "aoti"), kinds, strict=True)
        for settings in every
    ]


def run(pattern: str, into: Path | None) -> int:
    """Build and validate the builds whose title matches; print their verdicts; 1 if one failed."""
    chosen = [one for one in builds() if re.search(pattern, one.title)]
    print(f"{len(chosen)} of {len(builds())} honest builds")
    outcomes: list[Outcome] = []
    recipes_of = dict.fromkeys((one.ground, one.decoding) for one in builds())
    for number, (ground, decoding) in enumerate(recipes_of):
        own = [one for one in chosen if (one.ground, one.decoding) == (ground, decoding)]
        if own:
            outcomes += _judged(GROUNDS[ground], decoding, own, f"honest-{number}")
    counts = Counter(outcome.verdict for outcome in outcomes)
    print(f"\nhonest builds: {len(outcomes)}; " + ", ".join(f"{v} {n}" for v, n in counts.items()))
    wrong = [o for o in outcomes if o.verdict != "passed"]
    for outcome in wrong:
        print(f"  {outcome.verdict:<10}{outcome.name}: {' '.join(outcome.message.split())[:400]}")
    if into:
        into.write_text(json.dumps([o.as_row() for o in outcomes], indent=1) + "\n")
    return int(any(o.verdict not in ("passed", "undecided") for o in outcomes))


def _judged(ground: Ground, decoding: str, own: list[Honest], name: str) -> list[Outcome]:
    """Build what is missing, then validate all together."""
    prepare_data(ground)
    output = WORK / "honest"
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.yaml"
    path.write_text(ground.recipe([one.target for one in own], name, decoding), encoding="utf-8")
    print(f"building {len(own)} of {ground.name} {decoding}", flush=True)
    start = time.monotonic()
    code, said = command.run(["build", str(path), "--output", str(output)], _BUILD_S * len(own))
    print(f"built in {time.monotonic() - start:.0f} s (exit {code})", flush=True)
    titles = {output / name / one.name: one for one in own}
    made = [folder for folder in titles if folder.exists()]
    error = command.error_in(said)
    outcomes = [
        Outcome(one.title, "refused", (), error, code or 0)
        for folder, one in titles.items()
        if folder not in made
    ]
    for some in range(0, len(made), _AT_ONCE):
        for folder, outcome in validate(made[some : some + _AT_ONCE]).items():
            title = titles[folder].title
            checks = ",".join(outcome.checks)
            print(f"{outcome.verdict:<10}{outcome.seconds:5.1f} s {title} {checks}", flush=True)
            outcomes.append(replace(outcome, name=title))
    return outcomes
