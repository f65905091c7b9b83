"""Write the detector's weights, and what the original computes, with faster-whisper 1.2.1.

In an environment with `faster-whisper`, `onnx` and `soundfile`:

    python -m tests.runtime.vad.make
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtime.vad.recordings import (
    GOLDEN,
    OPTIONS,
    ROOT,
    WALKS,
    Array,
    as_theirs,
    recordings,
    walk,
)

WIDTH, FRAME, CONTEXT = 128, 512, 64


def weights(path: Path) -> dict[str, Array]:
    """Return an ONNX file's weights by our names.

    Convolutions [out, in, times] become products [out, times * in]. The gates of input, output and
    forgetting are halved, because the sigmoid is computed by a hyperbolic tangent.
    """
    import onnx
    from onnx import numpy_helper

    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    found: dict[str, Array] = {}
    for layer in range(4):
        kernel = stored[f"encoder.conv_layers.{layer}.weight"]
        rows = kernel.transpose(0, 2, 1).reshape(len(kernel), -1)
        found[f"conv{layer}.weight"] = np.ascontiguousarray(rows)
        found[f"conv{layer}.bias"] = stored[f"encoder.conv_layers.{layer}.bias"]
    halves = np.repeat(np.array([0.5, 0.5, 0.5, 1], np.float32), WIDTH)
    found["input"] = stored["onnx::LSTM_209"][0] * halves[:, None]
    found["recurrent"] = np.ascontiguousarray((stored["onnx::LSTM_210"][0] * halves[:, None]).T)
    found["bias"] = stored["onnx::LSTM_211"][0].reshape(2, -1).sum(0) * halves
    found["output"] = stored["decoder.conv1d.weight"].ravel()
    found["output_bias"] = stored["decoder.conv1d.bias"]
    return found


def probabilities(session: Any, samples: Array) -> Array:
    """Run the ONNX file over a recording, all frames at once.

    Not by `SileroVADModel`, which sets the last samples of the last frame to 0.
    """
    frames = np.pad(samples, (0, FRAME - len(samples) % FRAME)).reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    state = np.zeros((1, 1, WIDTH), np.float32)
    given = {"input": np.concatenate([before, frames], 1), "h": state, "c": state}
    found: Array = session.run(None, given)[0]
    return found


def spans(samples: Array, options: dict[str, float]) -> list[list[int]]:
    """Return faster-whisper's spans of speech."""
    from faster_whisper import vad

    found = vad.get_speech_timestamps(samples, vad.VadOptions(**as_theirs(options)))
    return [[one["start"], one["end"]] for one in found]


def main() -> None:
    """Write both files."""
    from faster_whisper import vad
    from faster_whisper.utils import get_assets_path

    path = Path(get_assets_path()) / "silero_vad_v6.onnx"
    np.savez_compressed(ROOT / "exporter/runtime/vad/silero_vad_v6.npz", **weights(path))
    session, golden = vad.get_vad_model().session, {}
    for name, samples in recordings().items():
        golden[name] = {
            "probabilities": [round(p, 5) for p in probabilities(session, samples).tolist()],
            "spans": [spans(samples, options) for options in OPTIONS],
        }
    walks = []
    for number in range(WALKS):
        found, length = walk(number)
        vad.get_vad_model = lambda found=found: lambda _: found
        silence = np.zeros(length, np.float32)
        walks.append([spans(silence, options) for options in OPTIONS])
    GOLDEN.write_text(json.dumps({"recordings": golden, "walks": walks}) + "\n")


if __name__ == "__main__":
    main()
