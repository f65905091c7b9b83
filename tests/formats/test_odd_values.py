"""Every key of an artifact's configs, with values that no Whisper means: an answer, never a bug.

The artifacts are sealed as they are, so only the values are wrong.
"""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from exporter import cli
from tests.support.built import build_tiny, damaged
from tests.support.in_process import steps_in_process
from tests.support.recipes import write_recipe
from tests.support.tiny import make_whisper

TERMS = """\
decoding: {language: en}
data: {clips: clips, max_clips: 1}
gate: {min_clips: 1, max_wer_increase: 1, max_latency_ratio: 1000}
"""
LIMIT_S = 60
KEYS = {
    "generation_config.json": (
        *("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("no_timestamps_token_id", "prev_sot_token_id", "suppress_tokens", "max_length"),
        *("begin_suppress_tokens", "forced_decoder_ids", "lang_to_id", "task_to_id", "language"),
        *("task", "is_multilingual", "alignment_heads", "max_initial_timestamp_index"),
        *("return_timestamps", "num_beams", "temperature", "repetition_penalty"),
    ),
    "preprocessor_config.json": (
        *("feature_size", "sampling_rate", "hop_length", "n_fft", "chunk_length", "n_samples"),
        *("nb_max_frames", "padding_value", "padding_side", "dither", "return_attention_mask"),
    ),
    "config.json": (
        *("vocab_size", "num_mel_bins", "d_model", "encoder_layers", "decoder_layers"),
        *("encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim"),
        *("decoder_ffn_dim", "max_source_positions", "max_target_positions", "pad_token_id"),
        *("activation_function", "scale_embedding", "tie_word_embeddings", "eos_token_id"),
        *("decoder_start_token_id", "forced_decoder_ids", "suppress_tokens", "model_type"),
        *("begin_suppress_tokens", "max_length", "use_cache", "is_encoder_decoder"),
    ),
}
PLACES = [(name, key) for name, keys in KEYS.items() for key in keys]
ABSENT = object()


def values(folder: Path) -> list[Any]:
    """Odd values: of every kind, and tokens of the vocabulary that mean something else."""
    generation = json.loads((folder / "generation_config.json").read_text())
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    other, start = generation["prev_sot_token_id"], generation["decoder_start_token_id"]
    return [
        *(ABSENT, None, -1, 0, 1, 2, 5, 7, size - 1, size, 1 << 20, 1 << 40, other, start),
        *(0.5, True, "x", "", [], [0], [-1], [size], [[1, 2]], {}, {"<|en|>": 5}),
        *(list(range(size)), [generation["eos_token_id"], 5], generation["eos_token_id"]),
    ]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    checkpoint = make_whisper(folder / "checkpoint")
    write_recipe(folder, checkpoint, "{}")
    return build_tiny(folder, checkpoint, "[{kind: torch-int8}]", TERMS)["torch-int8"]


@contextmanager
def bounded() -> Iterator[None]:
    """Stop what takes too long."""

    def stop(*_: object) -> None:
        msg = f"more than {LIMIT_S} s"
        raise TimeoutError(msg)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def with_value(name: str, key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / name).read_text())
        told.pop(key, None)
        if value is not ABSENT:
            told[key] = value
        (folder / name).write_text(json.dumps(told))

    return change


def sorted_text(path: Path) -> str:
    return json.dumps(json.loads(path.read_text()), sort_keys=True)


def cases(folder: Path, count: int | None) -> list[tuple[str, str, Any]]:
    every = [(*place, value) for place, value in product(PLACES, values(folder))]
    return every if count is None else random.Random(count).sample(every, count)


def require_told(code: int, allowed: set[int], error: str, case: object) -> None:
    assert code in allowed, f"exit code {code} for {case}: {error}"
    assert "This is a bug" not in error
    assert "Traceback" not in error
    if code in (3, 5):
        told = error[error.index("error: ") :].strip().splitlines()
        assert 1 <= len(told) <= 3, f"{case}: {error}"


@pytest.mark.parametrize("count", [25, pytest.param(None, marks=pytest.mark.sweep)])
def test_artifacts_transcribe_or_are_refused(
    count: int | None,
    artifact: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    seen: Counter[int] = Counter()
    clip = str(artifact.parents[2] / "clips" / "0.wav")
    chosen = cases(artifact, count)
    for number, (name, key, value) in enumerate(chosen):
        folder = damaged(artifact, tmp_path / str(number), with_value(name, key, value))
        start = time.monotonic()
        with steps_in_process(), bounded():
            code = cli.main(["transcribe", str(folder), clip, "--threads=1"])
        seen[code] += 1
        case = name, key, repr(value)[:60], time.monotonic() - start
        require_told(code, {0, 3, 5}, capfd.readouterr().err, case)
    assert seen[0]
    assert seen[5]
    record_property("promise", "P7")
    record_property("cases", len(chosen))


@pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.sweep)])
def test_artifacts_are_judged_or_refused(
    count: int, artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was changed is found by its name, whatever else happens."""
    for number, (name, key, value) in enumerate(cases(artifact, count)):
        change = with_value(name, key, value)
        folder = damaged(artifact, tmp_path / str(number), change)
        equal = sorted_text(folder / name) == sorted_text(artifact / name)
        with steps_in_process(), bounded():
            code = cli.main(["validate", str(folder), "--threads=1"])
        out, error = capfd.readouterr()
        case = name, key, repr(value)[:60]
        undecided = code == 4 and error.rstrip().endswith("undecided")  # where others run
        require_told(code, {0, *[4] * undecided} if equal else {3, 4, 5}, error, case)
        if not equal:
            assert name in " ".join((out + error).split()), case


@pytest.mark.parametrize("count", [40, pytest.param(None, marks=pytest.mark.sweep)])
def test_checkpoints_are_built_from_or_refused(
    count: int | None,
    checkpoint: Path,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    seen: Counter[int] = Counter()
    chosen = cases(checkpoint, count)
    for name, key, value in chosen:
        kept = (checkpoint / name).read_bytes()
        with_value(name, key, value)(checkpoint)
        with bounded():
            code = cli.main(["build", "recipe.yaml", "--dry-run"])
        seen[code] += 1
        require_told(code, {0, 3}, capfd.readouterr().err, (name, key, repr(value)[:60]))
        (checkpoint / name).write_bytes(kept)
    assert seen[0]
    assert seen[3]
    record_property("promise", "P7")
    record_property("cases", len(chosen))
