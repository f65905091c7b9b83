"""Send requests to the Hub with time limits, and repeat failed ones in one place.

huggingface_hub waits for some answers without a limit and repeats other requests for minutes. Here
every request has a time limit, and after several timeouts the Hub is given up. `with_retries`
repeats temporary failures, and the library is kept from repeating the same requests itself. Uploads
of bytes (PUT) are the exception: only the library can rewind the file, so it repeats them, and what
it gave up is not repeated here.
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
from inspect import signature
from typing import Any, TypeVar

from exporter.errors import ExporterError, IntegrityError, RecipeError, exhausted
from exporter.hub import replies
from exporter.hub.errors import (
    Interrupted,
    Silence,
    no_hub,
    root_of,
    root_of_upload,
    status_of,
    unsigned,
    wanted_pause_s,
)
from exporter.system.progress import Progress

Result = TypeVar("Result")

# Pauses between attempts; there is one attempt more than pauses.
PAUSES_S = (1.0, 4.0, 16.0)
SILENCES = 3
_CONNECT_S = 10.0
_SILENCE_S = 60.0  # longer than the Hub's gateway takes to answer with 504
_PLACE = "EXPORTER_HUB_TIMEOUT"
_WORTH_ANOTHER_TRY = {408, 409, 412, 429}
_CONFLICT, _TOO_MANY = 409, 429
_BUSY = "another conflicting operation is in progress"
# The library's loggers that print addresses.
_LOGS = ("huggingface_hub.utils._http", "huggingface_hub.file_download", "huggingface_hub.lfs")

_moved_at = 0.0


def moved() -> None:
    """Record that bytes were sent, so that a request that still sends does not time out."""
    global _moved_at
    _moved_at = time.monotonic()


def silence_s() -> float:
    """Return the seconds that may pass without a byte: $EXPORTER_HUB_TIMEOUT, or 60.

    Raises:
        RecipeError: The variable holds no number of seconds.
    """
    setting = os.environ.get(_PLACE) or str(_SILENCE_S)
    try:
        seconds = float(setting)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        msg = f"{_PLACE} is {setting[:40]!r}: give seconds, like 60"
        raise RecipeError(msg)
    return seconds


@contextmanager
def request_timeouts() -> Iterator[None]:
    """Set a time limit on every request of the library, and remove signed addresses from its log.

    Releases of the library below 1 use requests, later ones httpx; both are handled. A client that
    the calling program has configured is used, and is configured again afterwards.
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
    """Call `attempt` until it succeeds, fails permanently, or no pause is left.

    Calls must not be nested: the numbers of attempts would multiply.

    Args:
        attempt: Sends the requests; it checks first what the Hub has, so that it can be repeated.
        progress: Receives a message before each repetition.
        what: Name of the request for `progress`.
        explain: Turns the last failure into one of our errors.
        pauses: Seconds between attempts; `PAUSES_S` if None.
        received: Returns how many bytes have arrived: after an attempt that brought some, the
            attempts are counted anew.

    Returns:
        The result of `attempt`.

    Raises:
        ExporterError: The error of `explain`, or one that `attempt` raised.
        OSError: This machine failed, for example because its disk is full.
    """
    each = PAUSES_S if pauses is None else pauses
    left, most = iter(each), received() if received else 0
    with request_timeouts():
        while True:
            try:
                return attempt()
            except replies.NO_ANSWERS as error:
                if replies.raised_by_us(error):
                    raise
                raise no_hub(what, error) from error
            except faults() as error:  # also ours, raised in a thread of a library
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
    """Return True if a disk or the memory failed; errors of the network name no file."""
    if exhausted(error) or getattr(error, "filename", None):
        return True
    numbered = getattr(error, "errno", None) is not None
    return numbered and not isinstance(error, (ConnectionError, TimeoutError))


def _may_pass(error: BaseException) -> bool:
    """Return True if repeating may help, which excludes refusals by the Hub."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if isinstance(error, (Silence, HFValidationError, OfflineModeIsEnabled)):
        return False
    if wanted_pause_s(getattr(error, "response", None)) > silence_s():
        return False
    status = status_of(error)
    if _sent_bytes(error):  # the library has repeated it for all other statuses
        return status in _WORTH_ANOTHER_TRY and not (status == _TOO_MANY and _repeats_too_many())
    return status is None or status >= 500 or status in _WORTH_ANOTHER_TRY


def _repeats_too_many() -> bool:
    """Return True if the library itself repeats a PUT after "too many requests", as since 1.0."""
    from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]

    statuses = signature(http_backoff).parameters["retry_on_status_codes"].default
    return isinstance(statuses, tuple) and _TOO_MANY in statuses


def _sent_bytes(error: BaseException) -> bool:
    """Return True if an error of the library's client is about a PUT."""
    answer: Any = getattr(error, "response", None)
    try:
        request: Any = (error if answer is None else answer).request  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):  # httpx raises RuntimeError without a request
        return False
    return getattr(request, "method", None) == "PUT"


class _Limits:
    """Sets limits on the requests of a task and on their answers, and counts those unanswered."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._connect = min(_CONNECT_S, silence)
        self._unanswered = self._slow = 0
        self._http: Any = import_module("huggingface_hub.utils._http")
        client = _httpx(self._http)
        late, broken = _client_errors(client or self._http.requests)
        self._late: tuple[type[Exception], ...] = (late, TimeoutError)
        self._broken = broken

    def on(self, session: Any) -> Any:
        """Return the library's session or client with limits also for calls that set none."""
        if hasattr(session, "timeout"):
            session.send = self._of_client(session.send)
            session.event_hooks["response"].append(replies.check)
        else:
            session.request = self._of_session(session.request)
            session.hooks["response"].append(replies.check)
        return session

    def _of_session(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Session.request` of requests."""

        def request(*what: Any, **how: Any) -> Any:
            how |= {"timeout": how.get("timeout") or (self._connect, self._silence)}
            how["headers"] = {**(how.get("headers") or {}), **replies.UNCOMPRESSED}
            puts = "PUT" in (how.get("method"), *what[:1])
            streams = bool(how.get("stream"))
            return self._answered(lambda: ask(*what, **how), puts=puts, streams=streams)

        return request

    def _of_client(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Client.send` of httpx, which has four limits."""
        wait_s = dict.fromkeys(("connect", "pool"), self._connect)
        wait_s |= dict.fromkeys(("read", "write"), self._silence)

        def send(request: Any, **how: Any) -> Any:
            known = request.extensions.get("timeout") or {}
            own = {name: seconds for name, seconds in known.items() if seconds is not None}
            puts, streams = request.method == "PUT", bool(how.get("stream"))
            request.extensions |= {"timeout": wait_s | own, replies.STREAMS: streams}
            request.headers.update(replies.UNCOMPRESSED)
            return self._answered(lambda: ask(request, **how), puts=puts, streams=streams)

        return send

    def _answered(self, ask: Callable[[], Any], *, puts: bool, streams: bool) -> Any:
        """Return an answer that came in time.

        For a request that `puts` bytes, the client's own errors are raised, which the library
        repeats; for others `Interrupted`, which it does not.
        """
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
        elif wanted_pause_s(answer) > self._silence:
            self._http.hf_raise_for_status(answer)  # the library would wait, however long it is
        return answer

    def _refuse_to_repeat(self, answer: Any, *, streams: bool) -> None:
        """Raise an error that the library passes on, for answers after which it would repeat.

        An answer that `streams` raises it while it is read.
        """
        if answer.status_code >= 500 or answer.status_code == _TOO_MANY:
            self._http.hf_raise_for_status(answer)
        if streams:
            for name in ("iter_content", "iter_bytes"):  # in requests and httpx
                if hasattr(answer, name):
                    setattr(answer, name, self._reading(answer))
        elif answer.status_code == _CONFLICT and _BUSY in answer.text:
            raise ConnectionError(_BUSY)  # the library would repeat this for ever, without a pause

    def _reading(self, answer: Any) -> Callable[..., Iterator[bytes]]:
        """Return what reads a body as it arrives, which must be neither too long nor too slow."""

        def pieces(*_what: Any, **_how: Any) -> Iterator[bytes]:
            try:
                yield from replies.body(answer, self._silence)
            except replies.Slow as error:
                self._slow += 1
                if self._slow >= SILENCES:
                    raise Silence(str(error)) from error
                raise Interrupted(str(error)) from error
            except (*self._late, *self._broken) as error:
                raise Interrupted(str(error)) from error

        return pieces


def _httpx(http: Any) -> Any:
    """Return the httpx module that the library uses; None for releases below 1."""
    return getattr(http, "httpx2", None) or getattr(http, "httpx", None)


def _client_errors(client: Any) -> tuple[type[Exception], tuple[type[Exception], ...]]:
    """Return the errors of requests or httpx for a timeout, and for a cut connection."""
    if hasattr(client, "TimeoutException"):
        return client.TimeoutException, (client.TransportError,)
    return client.Timeout, (client.ConnectionError, client.exceptions.ChunkedEncodingError)


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return the result of `ask`; raise TimeoutError if it takes longer than `seconds`.

    The time counts from the start or from the last byte sent. `ask` runs in a thread of its own,
    because a socket's limit starts anew with every byte, so a slow answer could be read for ever.
    After a timeout the thread is left behind, and ends with its socket.
    """
    future: Future[Any] = Future()
    threading.Thread(target=_fulfil, args=(future, copy_context(), ask), daemon=True).start()
    since = time.monotonic()
    while not future.done():
        left = max(since, _moved_at) + seconds - time.monotonic()
        if left <= 0:
            msg = f"no answer within {seconds:g} s"
            raise TimeoutError(msg)
        wait([future], timeout=left)
    try:
        return future.result()
    finally:
        del future  # an error refers to this frame: without a cycle it is freed at once


def _fulfil(future: "Future[Any]", context: Context, ask: Callable[[], Any]) -> None:
    try:
        future.set_result(context.run(ask))
    except BaseException as error:
        future.set_exception(error)


def _without_signatures(record: logging.LogRecord) -> bool:
    record.msg, record.args = unsigned(record.getMessage()), ()
    return True


_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")


def hub_id(text: str) -> tuple[str, str | None] | None:
    """Split `ORG/NAME` or `ORG/NAME@REVISION`; return None for other texts."""
    match = None if text.startswith(".") or ".." in text else _ID.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


_DIGEST = re.compile(r"sha256-([0-9a-f]+)", re.IGNORECASE)


def named_digest(revision: str | None) -> str | None:
    """Return the digest, or the beginning of one, that a revision like the tags of `push` names."""
    match = _DIGEST.fullmatch(revision or "")
    return match[1].lower() if match else None


def digest_tag(digest: str) -> str:
    """Return the tag under which `push` puts an artifact of this digest."""
    return f"sha256-{digest[:12]}"


def require_digest(name: str, revision: str | None, digest: str) -> None:
    """Raise IntegrityError if a revision names another digest than that of what it leads to."""
    if not digest.startswith(named_digest(revision) or ""):
        msg = (
            f"{name}@{revision} is another artifact, with the digest {digest[:12]}: its tag was "
            "moved.\nNothing of it was used. Ask its owner, or take it under the new digest."
        )
        raise IntegrityError(msg)


def git_sha1(data: bytes) -> str:
    """Return git's blob id of a file's bytes, which the Hub lists for small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def faults() -> tuple[type[Exception], ...]:
    """Return the errors that a request may raise: the library's and the network's."""
    client = _httpx(import_module("huggingface_hub.utils._http"))
    known = (OSError, ValueError, RuntimeError)  # RuntimeError wraps the errors of an upload
    return (*known, client.HTTPError) if client else known
