"""Construct transformers' objects without the network, whatever the environment says."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
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
    modules: tuple[tuple[ModuleType, str], ...] = (
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
        (transformers.utils.hub, "_is_offline_mode"),  # below release 5, a copy of the former
    )
    for module, name in modules:
        setting = getattr(module, name, None)
        if setting is not None and not isinstance(setting, _Switch):
            setattr(module, name, _Switch(setting))
    before = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(before)
