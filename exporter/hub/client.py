"""How requests to the Hub are made: within time limits, and repeated in one place.

huggingface_hub waits for ever for some answers and repeats others for minutes. Here every answer
has to come within a time, and a Hub that stays silent is given up. What may pass is tried anew by
`with_retries`, and the library is kept from repeating the same requests below it. One kind is left
to the library: the sending of bytes (PUT), since only it can rewind the file; what it has repeated
in vain is not tried anew here.
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
from exporter.hub.errors import Interrupted, Silence, root_of, root_of_upload, status_of, unsigned
from exporter.system.progress import Progress

Result = TypeVar("Result")

# Between the tries, which are one more.
PAUSES_S = (1.0, 4.0, 16.0)
SILENCES = 3
_CONNECT_S = 10.0
_SILENCE_S = 60.0  # the Hub's own gateway answers, if only with 504, before that
_PLACE = "EXPORTER_HUB_TIMEOUT"
_WORTH_ANOTHER_TRY = {408, 409, 412, 429}
_CONFLICT, _TOO_MANY = 409, 429
_BUSY = "another conflicting operation is in progress"
# Where the library cites addresses.
_LOGS = ("huggingface_hub.utils._http", "huggingface_hub.file_download", "huggingface_hub.lfs")

_moved_at = 0.0


def moved() -> None:
    """Note that bytes are on their way: a request that still sends is not waiting."""
    global _moved_at
    _moved_at = time.monotonic()


def silence_s() -> float:
    """Return the seconds that may pass without a byte: $EXPORTER_HUB_TIMEOUT, or a minute.

    Raises:
        RecipeError: Where the variable holds no number of seconds.
    """
    given = os.environ.get(_PLACE) or str(_SILENCE_S)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        msg = f"{_PLACE} is {given[:40]!r}: give seconds, like 60"
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
    explain: Callable[[BaseException], ExporterError],
    *,
    pauses: Sequence[float] | None = None,
    received: Callable[[], int] | None = None,
) -> Result:
    """Call `attempt` until it succeeds, fails for good, or has failed once more than `pauses`.

    Calls must not be nested: the numbers of tries would multiply.

    Args:
        attempt: Asks the Hub; it looks first what is there, so that it can be called again.
        progress: Is told that another try follows.
        what: What is tried, for `progress`.
        explain: Makes an error of ours of the failure that was the last.
        pauses: Seconds between the tries; `PAUSES_S` if None.
        received: Tells how many bytes have arrived: after a try that brought some, the tries are
            counted anew.

    Returns:
        What `attempt` returns.

    Raises:
        ExporterError: What `explain` made, or what `attempt` itself raised.
        OSError: A trouble of this machine, like a full disk.
    """
    each = PAUSES_S if pauses is None else pauses
    left, most = iter(each), received() if received else 0
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
                count = received() if received else 0
                if count > most:
                    left, most = iter(each), count
                pause = next(left, None)
                if pause is None or not _may_pass(root):
                    raise explain(root) from error
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
    if _sent_bytes(error):  # and the library has repeated it for all but these
        return status in _WORTH_ANOTHER_TRY
    return status is None or status >= 500 or status in _WORTH_ANOTHER_TRY


def _sent_bytes(error: BaseException) -> bool:
    """Whether an error of the library's client is about a PUT."""
    answer: Any = getattr(error, "response", None)
    try:
        request: Any = (error if answer is None else answer).request  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):  # httpx raises the latter where none was noted
        return False
    return getattr(request, "method", None) == "PUT"


class _Limits:
    """The time limits of a task's requests, and how many of them got no answer."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._connect = min(_CONNECT_S, silence)
        self._unanswered = 0
        self._http: Any = import_module("huggingface_hub.utils._http")
        client = _httpx(self._http)
        late, broken = _client_errors(client or self._http.requests)
        self._late: tuple[type[Exception], ...] = (late, TimeoutError)
        self._broken = broken

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
            puts = "PUT" in (how.get("method"), *what[:1])
            streams = bool(how.get("stream"))
            return self._answered(lambda: ask(*what, **how), puts=puts, streams=streams)

        return request

    def _of_client(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """As httpx asks, which knows four limits."""
        wait_s = dict.fromkeys(("connect", "pool"), self._connect)
        wait_s |= dict.fromkeys(("read", "write"), self._silence)

        def send(request: Any, **how: Any) -> Any:
            known = request.extensions.get("timeout") or {}
            given = {name: seconds for name, seconds in known.items() if seconds is not None}
            request.extensions["timeout"] = wait_s | given
            puts, streams = request.method == "PUT", bool(how.get("stream"))
            return self._answered(lambda: ask(request, **how), puts=puts, streams=streams)

        return send

    def _answered(self, ask: Callable[[], Any], *, puts: bool, streams: bool) -> Any:
        """An answer in time; of a request that `puts` bytes, as the library repeats it."""
        try:
            answer = _within(self._connect + self._silence, ask)
        except self._late as error:
            self._unanswered += 1
            if self._unanswered >= SILENCES:
                msg = f"{SILENCES} requests, {self._silence:g} s each"
                raise Silence(msg) from error
            if puts:
                raise
            raise Interrupted(str(error)) from error
        except self._broken as error:
            if puts:
                raise
            raise Interrupted(str(error)) from error
        if puts or streams:
            self._unanswered = 0
        if not puts:
            self._refuse_to_repeat(answer, streams=streams)
        return answer

    def _refuse_to_repeat(self, answer: Any, *, streams: bool) -> None:
        """Raise, for an answer that the library would ask for again, what it passes on.

        Of an answer that `streams`, do so while it is read.
        """
        if answer.status_code >= 500 or answer.status_code == _TOO_MANY:
            self._http.hf_raise_for_status(answer)
        if streams:
            for name in ("iter_content", "iter_bytes"):  # of requests, of httpx
                if hasattr(answer, name):
                    setattr(answer, name, self._reading(getattr(answer, name)))
        elif answer.status_code == _CONFLICT and _BUSY in answer.text:
            raise ConnectionError(_BUSY)  # it would ask for ever, without a pause

    def _reading(self, read: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def pieces(*what: Any, **how: Any) -> Iterator[bytes]:
            try:
                yield from read(*what, **how)
            except (*self._late, *self._broken) as error:
                raise Interrupted(str(error)) from error

        return pieces


def _httpx(http: Any) -> Any:
    """The module that releases of the library from 1 on speak through; None for those before."""
    return getattr(http, "httpx2", None) or getattr(http, "httpx", None)


def _client_errors(client: Any) -> tuple[type[Exception], tuple[type[Exception], ...]]:
    """What a client, requests or httpx, raises for no answer in time, and for a cut connection."""
    if hasattr(client, "TimeoutException"):
        return client.TimeoutException, (client.TransportError,)
    return client.Timeout, (client.ConnectionError, client.exceptions.ChunkedEncodingError)


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
    """Split `ORG/NAME` or `ORG/NAME@REVISION`; None for other texts."""
    match = None if text.startswith(".") or ".." in text else _ID.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


def git_sha1(data: bytes) -> str:
    """Return git's name for a file's bytes, by which the Hub knows its small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def faults() -> tuple[type[Exception], ...]:
    """Return what may come out of a request: the library's and the network's errors."""
    client = _httpx(import_module("huggingface_hub.utils._http"))
    known = (OSError, ValueError, RuntimeError)  # RuntimeError: around whatever an upload raised
    return (*known, client.HTTPError) if client else known
