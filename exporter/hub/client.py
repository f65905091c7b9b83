"""How long the Hub is waited for, and how often it is asked again.

huggingface_hub waits for ever for some answers and repeats others for minutes. Here every answer
has to come within a time, a Hub that stays silent is given up, and what may pass is tried anew as
a whole: whoever calls `with_retries` asks first what is there, and does what is lacking.
"""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import Context, copy_context
from importlib import import_module
from typing import Any, TypeVar

from exporter.errors import ExporterError, RecipeError, exhausted
from exporter.hub.errors import Silence, root_of, root_of_upload, status_of, unsigned
from exporter.system.progress import Progress

Result = TypeVar("Result")

# Between the tries, which are one more.
PAUSES_S = (1.0, 4.0, 16.0)
SILENCES = 3
_CONNECT_S = 10.0
_SILENCE_S = 60.0  # the Hub's own gateway answers, if only with 504, before that
_PLACE = "EXPORTER_HUB_TIMEOUT"
_WORTH_ANOTHER_TRY = {408, 409, 412, 429}
_CONFLICT = 409
_BUSY = "another conflicting operation is in progress"
# Where the library cites addresses.
_LOGS = ("huggingface_hub.utils._http", "huggingface_hub.file_download", "huggingface_hub.lfs")

_moved_at = 0.0


def moved() -> None:
    """Note that bytes are on their way: a request that still sends is not waiting."""
    global _moved_at
    _moved_at = time.monotonic()


def silence_s() -> float:
    """Seconds that may pass without a byte: $EXPORTER_HUB_TIMEOUT, or a minute."""
    asked = os.environ.get(_PLACE) or str(_SILENCE_S)
    try:
        seconds = float(asked)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        msg = f"{_PLACE} is {asked[:40]!r}: give seconds, like 60"
        raise RecipeError(msg)
    return seconds


@contextmanager
def request_timeouts() -> Iterator[None]:
    """Give every request of the library a time limit, and its log no signed addresses.

    Both generations of it are served: releases below 1 speak through requests, later ones through
    httpx. Whatever client the calling program has configured is used, and stays.
    """
    http: Any = import_module("huggingface_hub.utils._http")
    limits, logs = _Limits(silence_s()), [logging.getLogger(name) for name in _LOGS]
    if hasattr(http, "set_client_factory"):
        configure, before = http.set_client_factory, http._GLOBAL_CLIENT_FACTORY
    else:
        configure, before = http.configure_http_backend, http._GLOBAL_BACKEND_FACTORY
    configure(lambda: limits.on(before()))
    for log in logs:
        log.addFilter(_without_signatures)
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(_without_signatures)
        configure(before)


def with_retries(
    attempt: Callable[[], Result],
    progress: Progress,
    what: str,
    told: Callable[[BaseException], ExporterError],
    pauses: Sequence[float] | None = None,
) -> Result:
    """What `attempt` gives, tried anew after what may pass; `told` makes an error of the rest."""
    left = iter(PAUSES_S if pauses is None else pauses)
    with request_timeouts():
        while True:
            try:
                return attempt()
            except faults() as error:  # one of ours may come out of a library's thread
                root = root_of(root_of_upload(error))
                if isinstance(root, ExporterError):
                    raise root from None
                if _of_this_machine(root):
                    raise
                pause = next(left, None)
                if pause is None or not _may_pass(root):
                    raise told(root) from error
            progress(f"{what}: trying again in {pause:g} s", None)
            time.sleep(pause)


def _of_this_machine(error: BaseException) -> bool:
    """Whether a disk or the memory is the trouble: the network's errors are about no file."""
    if exhausted(error) or getattr(error, "filename", None):
        return True
    numbered = getattr(error, "errno", None) is not None
    return numbered and not isinstance(error, (ConnectionError, TimeoutError))


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: not where the Hub has understood, and says no."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if isinstance(error, (Silence, HFValidationError, OfflineModeIsEnabled)):
        return False
    status = status_of(error)
    return status is None or status >= 500 or status in _WORTH_ANOTHER_TRY


class _Limits:
    """The time limits of a task's requests, and how many of them got no answer."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._connect = min(_CONNECT_S, silence)
        self._unanswered = 0
        http: Any = import_module("huggingface_hub.utils._http")
        client = getattr(http, "httpx2", None) or getattr(http, "httpx", None)
        late = client.TimeoutException if client else http.requests.Timeout
        self._late: tuple[type[Exception], ...] = (late, TimeoutError)

    def on(self, session: Any) -> Any:
        """The library's session, or client, with a limit also where a call asks for none."""
        if hasattr(session, "timeout"):
            session.send = self._of_client(session.send)
        else:
            session.request = self._of_session(session.request)
        return session

    def _of_session(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """As requests asks."""

        def request(*what: Any, **how: Any) -> Any:
            how |= {"timeout": how.get("timeout") or (self._connect, self._silence)}
            carries = "PUT" in (how.get("method"), *what[:1]) or bool(how.get("stream"))
            return self._answered(lambda: ask(*what, **how), carries=carries)

        return request

    def _of_client(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """As httpx asks, which knows four limits."""
        wait_s = dict.fromkeys(("connect", "pool"), self._connect)
        wait_s |= dict.fromkeys(("read", "write"), self._silence)

        def send(request: Any, **how: Any) -> Any:
            known = request.extensions.get("timeout") or {}
            given = {name: seconds for name, seconds in known.items() if seconds is not None}
            request.extensions["timeout"] = wait_s | given
            carries = request.method == "PUT" or bool(how.get("stream"))
            return self._answered(lambda: ask(request, **how), carries=carries)

        return send

    def _answered(self, ask: Callable[[], Any], *, carries: bool) -> Any:
        """An answer in time; one that `carries` a piece of a file, which is not moved again."""
        try:
            answer = _within(self._connect + self._silence, ask)
        except self._late as error:
            self._unanswered += 1
            if self._unanswered < SILENCES:
                raise
            msg = f"{SILENCES} requests, {self._silence:g} s each"
            raise Silence(msg) from error
        if carries:
            self._unanswered = 0
        elif answer.status_code == _CONFLICT and _BUSY in answer.text:
            raise ConnectionError(_BUSY)  # the library would ask for ever, without a pause
        return answer


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask` gives; TimeoutError where for so long nothing was sent, and no answer was whole.

    In a thread of its own, because a socket's limit starts anew with every byte: an answer that
    comes in drops would be read for ever. Such a thread is left behind, and ends with its socket.
    """
    asked: Future[Any] = Future()
    threading.Thread(target=_fulfil, args=(asked, copy_context(), ask), daemon=True).start()
    since = time.monotonic()
    while not asked.done():
        left = max(since, _moved_at) + seconds - time.monotonic()
        if left <= 0:
            msg = f"no answer within {seconds:g} s"
            raise TimeoutError(msg)
        wait([asked], timeout=left)
    try:
        return asked.result()
    finally:
        del asked  # an error holds this frame: no circle, so that what it holds goes at once


def _fulfil(asked: "Future[Any]", context: Context, ask: Callable[[], Any]) -> None:
    try:
        asked.set_result(context.run(ask))
    except BaseException as error:
        asked.set_exception(error)


def _without_signatures(record: logging.LogRecord) -> bool:
    record.msg, record.args = unsigned(record.getMessage()), ()
    return True


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
