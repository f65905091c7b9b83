"""What of huggingface_hub differs between its releases, and how the Hub names things."""

import hashlib
import re
from importlib import import_module
from typing import Any

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def hub_id(text: str) -> tuple[str, str | None] | None:
    """The parts of `ORG/NAME` or `ORG/NAME@REVISION`; None for other texts."""
    match = None if text.startswith(".") or ".." in text else _ID.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


def git_sha1(data: bytes) -> str:
    """Git's name for a file's bytes, by which the Hub knows its small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def faults() -> tuple[type[Exception], ...]:
    """What may come out of a request: the library's and the network's errors, answers cut short."""
    http: Any = import_module("huggingface_hub.utils._http")
    client = getattr(http, "httpx2", None) or getattr(http, "httpx", None)
    known = (OSError, ValueError, RuntimeError)  # RuntimeError: around whatever an upload raised
    return (*known, client.HTTPError) if client else known
