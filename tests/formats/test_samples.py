"""Arrays and tensors as recordings: what type and shape say, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from exporter.errors import DataError
from exporter.formats import audio
from exporter.formats.audio.samples import to_mono

TONE = 0.5 * np.sin(np.arange(4000) * 0.2)


@pytest.mark.parametrize(
    "given",
    [
        TONE,
        TONE.astype(np.float32),
        TONE.astype(">f8"),
        TONE[::-1][::-1],
        torch.tensor(TONE),
        torch.tensor(TONE, requires_grad=True),
        np.stack([TONE, TONE]),
        np.stack([TONE, TONE], axis=1),
        TONE[np.newaxis],
        TONE[:, np.newaxis],
        np.stack([1.5 * TONE, 0.5 * TONE]),
    ],
    ids=lambda given: f"{type(given).__name__}-{given.dtype}-{tuple(given.shape)}",
)
def test_floats_keep_their_values(given: Any) -> None:
    samples = to_mono(given, "audio")
    assert samples.dtype == np.float32
    assert samples == pytest.approx(TONE, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "scale", "offset"),
    [("int8", 127, 0), ("uint8", 127, 128), ("int16", 32767, 0), ("int32", 2**31 - 1, 0)],
)
def test_integers_are_scaled_by_their_full_range(kind: str, scale: int, offset: int) -> None:
    whole = np.round(TONE * scale + offset).astype(kind)
    for given in (whole, torch.from_numpy(whole)):
        assert to_mono(given, "audio") == pytest.approx(TONE, abs=2 / scale + 1e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_halves_of_torch(half: torch.dtype) -> None:
    assert to_mono(torch.tensor(TONE).to(half), "audio") == pytest.approx(TONE, abs=2e-3)


def test_it_is_a_copy() -> None:
    """A generator may give the same buffer again, filled with what came next."""
    buffer = TONE.astype(np.float32)
    samples = to_mono(buffer, "audio")
    buffer[:] = 0
    assert np.abs(samples).max() > 0.4


REFUSED = {
    "holds no samples": [np.zeros(0), np.zeros((2, 0)), torch.zeros(0)],
    "has the shape": [
        *(np.float32(0.5), np.zeros((2, 2)), np.zeros((1, 1)), np.zeros((3, 4000))),
        *(np.zeros((32, 4000)), np.zeros((4000, 4000)), np.zeros((1, 2, 4000))),
    ],
    "is of type": [
        *(TONE + 1j, TONE.astype(object), TONE > 0, TONE.astype(np.int64), TONE.astype("U8")),
        *(
            np.zeros(9, np.uint16),
            torch.zeros(9, dtype=torch.bool),
            torch.zeros(9, dtype=torch.int64),
        ),
    ],
    "not finite": [TONE * np.nan, np.append(TONE, np.inf), torch.full((9,), -torch.inf)],
    r"up to 16383\.\d+, but floating-point samples are in \[-1, 1\]": [TONE * 32767],
    "cannot be taken as a numpy array": [torch.zeros(9, device="meta"), torch.zeros(9).to_sparse()],
}


@pytest.mark.parametrize(
    ("words", "given"),
    [(words, given) for words, several in REFUSED.items() for given in several],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}-{tuple(value.shape)}",
)
def test_what_does_not_say_what_it_means_is_refused(words: str, given: Any) -> None:
    with pytest.raises(DataError, match=rf"^audio\[3\] .*{words}") as refused:
        to_mono(given, "audio[3]")
    assert len(str(refused.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "rate", [0, -16000, 16000.0, 999, 10**9, True, "16000", None, float("nan")]
)
def test_a_rate_is_whole_samples_a_second(rate: Any) -> None:
    with pytest.raises(DataError, match=r"^sampling_rate=.*like sampling_rate=16000$"):
        audio.require_rate(rate)


def test_rates_of_other_libraries() -> None:
    assert audio.require_rate(np.int64(8000)) == 8000
    assert audio.require_rate(torch.tensor(8000)) == 8000


def test_another_rate_is_resampled() -> None:
    high = 0.5 * np.sin(np.arange(44100) * 2 * np.pi * 440 / 44100)
    samples = audio.load(high, 16000, 44100, "audio")
    low = 0.5 * np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000)
    assert samples[1000:-1000] == pytest.approx(low[1000:-1000], abs=1e-3)


def test_an_array_without_a_rate_and_one_that_is_too_short() -> None:
    with pytest.raises(DataError, match=r"^audio is an array.*sampling_rate=\.\.\..*\n.*=16000 "):
        audio.load(TONE, 16000, None, "audio")
    with pytest.raises(DataError, match=r"^audio holds no audio"):
        audio.load(TONE[:1], 16000, 48000, "audio")
