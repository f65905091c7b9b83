"""Silero's voice activity detector in numpy: the probability of speech in frames of 32 ms.

The network is that of `silero_vad_v6.onnx` in faster-whisper 1.2.1; see the licence beside this
file. A spectrum and four convolutions look at each frame with a few samples before it; an LSTM
remembers the frames before. All but the LSTM's own recurrence is computed for many frames at once.

Without BLAS: its threads keep the cores busy for a while after a product. `np.einsum` takes one
core for a second in ten minutes of audio.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
FRAME = 512  # samples

_WEIGHTS = Path(__file__).with_name("silero_vad_v6.npz")
_CONTEXT = 64  # samples before a frame that the network sees, too
_PAD = 64  # samples after it, reflected
_SIZE, _HOP = 256, 128  # of the spectra of a frame
_WIDTH = 128  # of the LSTM
_BATCH = 256  # frames at a time, so that intermediate results fit the CPU's caches

Array = NDArray[np.float32]


class Silero:
    """The detector; it keeps no state between recordings."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        """Take up weights, as the script that wrote them names and shapes them."""
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_SIZE) / _SIZE)
        self._weights = weights

    def __call__(self, blocks: Iterable[Array]) -> Array:
        """Return the probability of speech in each frame of a recording.

        Args:
            blocks: Consecutive samples, float32 [samples] at 16,000 Hz each.

        Returns:
            Probabilities [frames]. The last frame is filled up with zeros; as in faster-whisper, a
            recording of whole frames has one more, of zeros alone.
        """
        hidden = memory = np.zeros(_WIDTH, np.float32)
        probabilities = [np.empty(0, np.float32)]
        for frames in _batches(blocks):
            gates = self._gates(frames)
            found, hidden, memory = self._remember(gates, hidden, memory)
            probabilities.append(found)
        return np.concatenate(probabilities)

    def _gates(self, frames: Array) -> Array:
        """Return the LSTM's inputs [frames, 4 * width] of frames with their contexts."""
        spectra = self._spectra(frames)
        hidden = self._convolved("0", spectra, stride=1)
        hidden = self._convolved("1", hidden, stride=2)
        hidden = self._convolved("2", hidden, stride=2)
        hidden = self._convolved("3", hidden, stride=1)[:, 0]
        gates: Array = np.einsum("fi,oi->fo", hidden, self._weights["input"])
        gates += self._weights["bias"]
        return gates

    def _spectra(self, frames: Array) -> Array:
        """Return the magnitudes [frames, 4, 129] of frames [frames, 576]."""
        mirrored = frames[:, -_PAD - 1 : -1][:, ::-1]
        padded = np.concatenate([frames, mirrored], 1)
        pieces = np.lib.stride_tricks.sliding_window_view(padded, _SIZE, 1)[:, ::_HOP]
        return np.abs(np.fft.rfft(pieces * self._window)).astype(np.float32)

    def _convolved(self, name: str, inputs: Array, *, stride: int) -> Array:
        """Convolve inputs [frames, times, channels] over three times each, then cut below zero."""
        weight, bias = self._weights[f"conv{name}.weight"], self._weights[f"conv{name}.bias"]
        padded = np.pad(inputs, ((0, 0), (1, 1), (0, 0)))
        times = range(0, inputs.shape[1], stride)
        taken = np.stack([padded[:, time : time + 3].reshape(len(inputs), -1) for time in times], 1)
        outputs: Array = np.einsum("fti,oi->fto", taken, weight)
        outputs += bias
        return np.maximum(outputs, 0, out=outputs)

    def _remember(self, gates: Array, hidden: Array, memory: Array) -> tuple[Array, Array, Array]:
        """Run the LSTM over frames; return probabilities, and its state after the last frame.

        Gates are those of input, output, forgetting and the new content, in this order. The first
        three have halved weights, since a sigmoid of x is (tanh(x / 2) + 1) / 2.
        """
        recurrent = self._weights["recurrent"]
        states = np.empty((len(gates), _WIDTH), np.float32)
        memory = memory.copy()
        for gate, state in zip(gates, states, strict=True):
            gate += np.einsum("i,io->o", hidden, recurrent)
            np.tanh(gate, out=gate)
            opened = gate[: 3 * _WIDTH]
            opened += 1
            opened *= 0.5
            taken, given, kept, content = gate.reshape(4, _WIDTH)
            memory *= kept
            content *= taken
            memory += content
            np.tanh(memory, out=state)
            state *= given
            hidden = state
        heard = np.einsum("fi,i->f", np.maximum(states, 0), self._weights["output"])
        odds = heard + self._weights["output_bias"]
        return 1 / (1 + np.exp(-odds)), hidden, memory


@cache
def detector() -> Silero:
    """Return the detector, whose weights are read at the first call."""
    with np.load(_WEIGHTS, allow_pickle=False) as stored:
        return Silero({name: stored[name] for name in stored.files})


def _batches(blocks: Iterable[Array]) -> Iterator[Array]:
    """Yield frames [frames, 576], each with the samples before it, some at a time."""
    held, taken = np.zeros(_CONTEXT, np.float32), _BATCH * FRAME
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= _CONTEXT + taken:
            yield _frames(held[: _CONTEXT + taken])
            held = held[taken:]
    missing = FRAME - (len(held) - _CONTEXT) % FRAME
    yield _frames(np.concatenate([held, np.zeros(missing, np.float32)]))


def _frames(samples: Array) -> Array:
    return np.lib.stride_tricks.sliding_window_view(samples, _CONTEXT + FRAME)[::FRAME]
