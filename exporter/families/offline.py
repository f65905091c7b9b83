"""Construct transformers' objects without the network, whatever the environment says."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import huggingface_hub.constants
import transformers.utils.hub

_inside = ContextVar("offline", default=False)


class _Switch:
    """A setting that is true inside of `offline`, so that other threads keep theirs."""

    def __init__(self, otherwise: Any) -> None:
        self._otherwise = otherwise

    def __bool__(self) -> bool:
        return _inside.get() or bool(self._otherwise)


@contextmanager
def offline() -> Iterator[None]:
    """Let HF_HUB_OFFLINE hold for this thread within the block."""
    modules = (
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
        (transformers.utils.hub, "_is_offline_mode"),
    )
    for module, name in modules:
        setting = getattr(module, name)
        if not isinstance(setting, _Switch):
            setattr(module, name, _Switch(setting))
    before = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(before)
