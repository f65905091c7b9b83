"""huggingface_hub as we use it to write: never waiting for ever, its many errors known by one name.

Both generations of the library are served: releases below 1 speak through requests, which today's
transformers wants, later ones through httpx.
"""

import hashlib
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

# Seconds for a connection, and for the next bytes of an answer: a commit of large files takes some.
TIMEOUT_S = (10.0, 120.0)
_CONFLICT = 409
_BUSY = "another conflicting operation is in progress"

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def hub_id(text: str) -> tuple[str, str | None] | None:
    """The parts of `ORG/NAME` or `ORG/NAME@REVISION`; None for other texts."""
    match = None if text.startswith(".") or ".." in text else _ID.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


def git_sha1(data: bytes) -> str:
    """Git's name for a file's bytes, by which the Hub knows its small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def limit_waiting() -> None:
    """Give every request of this process a time limit: the library's own have none."""
    library: Any = import_module("huggingface_hub")
    http: Any = import_module("huggingface_hub.utils._http")
    if hasattr(library, "set_client_factory"):
        library.set_client_factory(lambda: _limited_client(http.default_client_factory()))
    else:
        library.configure_http_backend(lambda: _limited(http._default_backend_factory(), TIMEOUT_S))


def _limited_client(client: Any) -> Any:
    connect, read = TIMEOUT_S
    client.timeout = connect, read, read, connect  # of httpx, in its order
    return _limited(client, client.timeout)


def _limited(session: Any, limit: Any) -> Any:
    """Put a limit where a call of the library asks for none, as several do by name."""
    ask: Callable[..., Any] = session.request

    def request(*what: Any, **how: Any) -> Any:
        answer = ask(*what, **(how | {"timeout": how.get("timeout") or limit}))
        if answer.status_code == _CONFLICT and _BUSY in answer.text:
            raise ConnectionError(_BUSY)  # the library would ask again for ever, without a pause
        return answer

    session.request = request
    return session


def faults() -> tuple[type[Exception], ...]:
    """What may come out of a request: the library's and the network's errors, answers cut short."""
    http: Any = import_module("huggingface_hub.utils._http")
    client = getattr(http, "httpx2", None) or getattr(http, "httpx", None)
    known = (OSError, ValueError, RuntimeError)  # RuntimeError: around whatever an upload raised
    return (*known, client.HTTPError) if client else known
