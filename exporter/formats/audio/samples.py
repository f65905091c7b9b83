"""Convert samples in arrays and tensors to float32 mono.

Type and shape must tell what the values mean; where they are ambiguous, an error is raised, because
a guess could produce a wrong transcript.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import DataError

Samples = NDArray[np.float32]

# The full scale of integers, as in WAV files: 8 bits may be unsigned, with silence at 128.
_FULL_SCALE = {"int8": 1 << 7, "uint8": 1 << 7, "int16": 1 << 15, "int32": 1 << 31}
_MAX_CHANNELS = 2
# Floating-point samples have full scale at 1.0. Some recordings exceed it by a few times; values
# beyond are integers that were cast without being scaled.
_MAX_PEAK = 16.0


def to_mono(values: Any, name: str) -> Samples:
    """Convert an array or tensor to float32 mono.

    Args:
        values: [samples], or with one or two channels [channels, samples] or [samples, channels]:
            exactly one of the two axes has length 1 or 2, and it holds the channels, which are
            averaged. Floating-point in [-1, 1], or int8, uint8, int16 or int32 at full range.
        name: Its name in messages.

    Returns:
        float32 [samples], full scale at 1.0, always a copy.

    Raises:
        DataError: It is empty or not finite, or its type or shape is ambiguous.
    """
    array = _array(values, name)
    if array.size == 0:
        msg = f"{name} holds no samples: its shape is {_shape(array)}"
        raise DataError(msg)
    mono: Samples = _scaled(_frames(array, name), name).mean(axis=1, dtype=np.float32)
    return mono


def _array(values: Any, name: str) -> NDArray[Any]:
    """Return a tensor's or another library's values as a numpy array.

    torch is not imported: if it is not loaded, the values are no tensor.
    """
    torch: Any = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(values, torch.Tensor):
            tensor = values.detach().cpu()
            return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
        return np.asarray(values)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # sparse or quantized tensors, or those on `meta`
        reason = str(error).splitlines()[0][:120]
        msg = f"{name} cannot be taken as a numpy array: {reason}"
        raise DataError(msg) from error


def _frames(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Return an array as [samples, channels]."""
    if array.ndim == 1:
        return array[:, np.newaxis]
    if array.ndim == 2:
        few = [length <= _MAX_CHANNELS for length in array.shape]
        if few == [True, False]:
            return array.T
        if few == [False, True]:
            return array
    msg = (
        f"{name} has the shape {_shape(array)}: give [samples], or one or two channels as "
        "[channels, samples] or [samples, channels].\n"
        "More channels: average them first, like audio.mean(axis=0). Several recordings: a list."
    )
    raise DataError(msg)


def _scaled(frames: NDArray[Any], name: str) -> Samples:
    kind = frames.dtype.name
    if kind in _FULL_SCALE:
        scale = np.float32(_FULL_SCALE[kind])
        offset = scale if kind.startswith("u") else np.float32(0)
        return (frames.astype(np.float32) - offset) / scale
    if frames.dtype.kind != "f":
        known = ", ".join(_FULL_SCALE)
        msg = f"{name} is of type {kind}: give floating-point samples in [-1, 1], or {known}"
        raise DataError(msg)
    if not np.isfinite(frames).all():
        msg = f"{name} holds samples that are not finite numbers"
        raise DataError(msg)
    if (peak := float(np.abs(frames).max())) > _MAX_PEAK:
        msg = (
            f"{name} holds values up to {peak:.6g}, but floating-point samples are in [-1, 1].\n"
            "Give integers as they were recorded (int16, say), or divide by their full scale."
        )
        raise DataError(msg)
    return frames.astype(np.float32)


def _shape(array: NDArray[Any]) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
