"""Check every reply of the Hub before the library uses it: its size, its pace, and its names.

The library stores a download under the name that a header tells, and reads other replies whole. So
headers that become paths must be hexadecimal and those of the Hub's own list, nothing may arrive
compressed, and every body has a limit.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from exporter.errors import HubError, IntegrityError
from exporter.hub.errors import Mislabelled, endpoint

# A list of 50,000 files has 16 MB; read as JSON, it takes some twenty times as much.
MAX_REPLY_BYTES = 16 << 20
_MAX_REFUSAL_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10
_LEAST_BYTES_PER_S = 1024
_MAX_NAME_BYTES = 255

UNCOMPRESSED: Mapping[str, str] = {"Accept-Encoding": "identity"}
# Where a request of httpx notes that its reply is read piece by piece.
STREAMS = "exporter_streams"
# What the library raises for a reply of another form, because it checks none.
NO_ANSWERS = (TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)

_COMMIT, _ETAG, _LINKED = "X-Repo-Commit", "ETag", "X-Linked-Etag"
_SHA1, _SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
_NAME = re.compile("(?:[0-9a-f]{40}|[0-9a-f]{64})")


class Slow(ConnectionError):
    """A body that arrives so slowly that it would take for ever."""


@dataclass(frozen=True)
class Listed:
    """A file in the Hub's list: its name, the name and size of its bytes, and its commit."""

    name: str
    blob: str
    size_bytes: int
    commit: str


def listed(file: Any, commit: str) -> Listed:
    """Return what the Hub's list says of a file, given as the library's `RepoSibling`."""
    blob = file.lfs.sha256 if file.lfs else file.blob_id
    return Listed(file.rfilename, str(blob), file.size or 0, commit)


_expected: ContextVar[Listed | None] = ContextVar("_expected", default=None)


@contextmanager
def expecting(file: Listed) -> Iterator[None]:
    """Require that replies in this block are about one listed file, and no longer than it."""
    token = _expected.set(file)
    try:
        yield
    finally:
        _expected.reset(token)


def require_plain_list(repo: str, info: Any) -> None:
    """Check the names, hashes and sizes in the Hub's list of a repository's files.

    Args:
        repo: `ORG/NAME`.
        info: The library's `ModelInfo` or `DatasetInfo`, whose fields are unchecked.

    Raises:
        IntegrityError: A name leads outside the repository, or a hash is not hexadecimal.
        HubError: A size or a hash is missing.
    """
    named: list[tuple[str, re.Pattern[str], object]] = [("the commit", _SHA1, info.sha)]
    for file in info.siblings or ():
        name, size = file.rfilename, file.size
        if not isinstance(name, str) or not _stays_inside(name):
            msg = f"{repo} lists a file {name!r:.80}, which leads outside the repository.\n"
            raise IntegrityError(msg + f"Nothing was fetched. Is {endpoint()} a true Hub?")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            msg = f"{repo} lists {name!r:.80} without a size: the reply is not what a Hub answers"
            raise HubError(msg)
        named.append((name, _SHA256, file.lfs.sha256) if file.lfs else (name, _SHA1, file.blob_id))
    for name, form, text in named:
        if not isinstance(text, str) or not form.fullmatch(text):
            msg = f"{repo} lists {name!r:.80} with a hash that is none: {text!r:.80}.\n"
            raise IntegrityError(msg + f"Nothing was fetched. Is {endpoint()} a true Hub?")


def _stays_inside(name: str) -> bool:
    """Return True if a file of this name, joined to a folder, is in it and can be stored."""
    try:
        parts = [part.encode() for part in name.split("/")]
    except UnicodeEncodeError:
        return False
    bad = {b"", b".", b".."}
    plain = all(part not in bad and len(part) <= _MAX_NAME_BYTES for part in parts)
    return plain and "\0" not in name and not PurePosixPath(name).is_absolute()


def check(answer: Any, **how: Any) -> None:
    """Check a reply's headers, and read its body unless the library reads it piece by piece.

    This is a hook of requests and of httpx, which call it for redirects too, before their bodies
    are read.

    Args:
        answer: The reply of either library.
        how: The arguments of the request in requests.

    Raises:
        IntegrityError: A header that becomes a path is not hexadecimal.
        Mislabelled: It names other bytes than the Hub's list.
        HubError: The reply is compressed, or too long.
    """
    if (packed := answer.headers.get("Content-Encoding", "identity")).lower() != "identity":
        msg = f"{endpoint()} answers in {packed!r:.40}, though asked for plain bytes.\n"
        raise HubError(msg + "Check HF_ENDPOINT and the network (a proxy?).")
    _check_names(answer)
    # hf_xet would fetch the bytes itself, past these limits.
    answer.headers.pop("X-Xet-Hash", None)
    streams = how.get("stream", getattr(answer.request, "extensions", {}).get(STREAMS))
    if not streams or answer.status_code >= 300:
        most = MAX_REPLY_BYTES if answer.status_code < 400 else _MAX_REFUSAL_BYTES
        answer._content = b"".join(_bounded(_pieces(answer), most))


def _check_names(answer: Any) -> None:
    told = {
        header: answer.headers[header].removeprefix("W/").strip('"')
        for header in (_COMMIT, _LINKED, _ETAG)
        if header in answer.headers
    }
    if not _names_bytes(answer):  # the ETag is of a page
        told.pop(_ETAG, None)
    for header, text in told.items():
        if not (_SHA1 if header == _COMMIT else _NAME).fullmatch(text):
            msg = f"{endpoint()} answers with the {header} {text!r:.80}, which is no hash.\n"
            raise IntegrityError(msg + "Nothing was written. Is it a true Hub? Check HF_ENDPOINT.")
    file = _expected.get()
    if file is None or not _names_bytes(answer):
        return
    blob = told.get(_LINKED, told.get(_ETAG, file.blob))
    size = answer.headers.get("X-Linked-Size", str(file.size_bytes))
    facts = (blob, told.get(_COMMIT, file.commit), size)
    if facts != (file.blob, file.commit, str(file.size_bytes)):
        msg = f"the reply about {file.name!r:.80} names other bytes than the Hub's list"
        raise Mislabelled(msg)


def _names_bytes(answer: Any) -> bool:
    """Return True for a reply whose ETag the library takes as the name of a file's bytes."""
    asks = answer.request.method == "HEAD" and answer.status_code < 400
    moved = 300 <= answer.status_code < 400
    return asks and not (moved and not urlsplit(answer.headers.get("Location", "")).netloc)


def body(answer: Any, window_s: float) -> Iterator[bytes]:
    """Yield a reply's body as it arrives.

    Args:
        answer: The reply of requests or of httpx.
        window_s: Seconds over which the pace is measured.

    Raises:
        Slow: Less than 1 KiB/s arrived.
        HubError: More bytes arrived than the list says.
    """
    file = _expected.get()
    most = MAX_REPLY_BYTES if file is None else file.size_bytes
    return _paced(_bounded(_pieces(answer), most), window_s)


def _paced(pieces: Iterator[bytes], window_s: float) -> Iterator[bytes]:
    waited, count = 0.0, 0
    while True:
        before = time.monotonic()
        piece = next(pieces, b"")
        waited, count = waited + time.monotonic() - before, count + len(piece)
        if not piece:
            return
        if waited >= window_s:
            if count < _LEAST_BYTES_PER_S * waited:
                msg = f"only {count} bytes in {waited:.0f} s"
                raise Slow(msg)
            waited, count = 0.0, 0
        yield piece


def _bounded(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    count = 0
    for piece in pieces:
        count += len(piece)
        if count > most:
            msg = f"{endpoint()} sends more than the {most} bytes that were expected.\n"
            raise HubError(msg + "Check HF_ENDPOINT, or try again later.")
        yield piece


def _pieces(answer: Any) -> Iterator[bytes]:
    """Yield what arrives at once, without waiting for a piece of a certain size."""
    if hasattr(answer, "iter_raw"):
        yield from answer.iter_raw()
        return
    client: Any = import_module("huggingface_hub.utils._http").requests
    below: Any = client.packages.urllib3.exceptions
    try:
        while piece := answer.raw.read1(_PIECE_BYTES, decode_content=False):
            yield piece
    except below.ReadTimeoutError as error:
        raise client.ReadTimeout(error, request=answer.request) from error
    except below.HTTPError as error:
        raise client.ConnectionError(error, request=answer.request) from error


def raised_by_us(error: BaseException) -> bool:
    """Return True if an error's last frame is of this package, so that it is our own bug."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = frame.tb_frame.f_globals.get("__name__", "") if frame else "exporter"
    return str(where).partition(".")[0] == "exporter"
