"""A small S3 on loopback: objects with ranges, lists and uploads, as AWS' protocol has them.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
"""

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Store:
    """The objects of one bucket by key.

    Attributes:
        objects: The objects. Parts of an upload are none of them until it is completed.
        uploads: The parts by number of each upload that was begun, and not completed or aborted.
        address: What comes after `s3://bucket/KEY`.
        broken: Whether every answer is an error.
        refused: A regular expression for requests that are refused, like `PUT .*partNumber=2`.
        requests: The method and path, with its query, of each request.
        arrived: Called with each of them before it is answered.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    address: str = ""
    broken: bool = False
    refused: str | None = None
    requests: list[str] = field(default_factory=list)
    arrived: Callable[[str], object] = lambda _request: None

    def url(self, key: str) -> str:
        """Return the address of a key, or of what begins with it."""
        return f"s3://bucket/{key}{self.address}"


class _Server(ThreadingHTTPServer):
    """A server of a store."""

    daemon_threads = True

    def __init__(self, store: Store) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def handle_one_request(self) -> None:
        """Answer a request, unless its client has died."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        store, parts = self.server.store, urlsplit(self.path)
        store.arrived(f"{self.command} {self.path}")
        body = self._body()
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        found = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[0] for name, values in found.items()}
        request = f"{self.command} {self.path}"
        store.requests.append(request)
        if store.broken or (store.refused and re.match(store.refused, request)):
            self._send(403, _error("AccessDenied"))
        elif self.command not in ("GET", "HEAD"):
            self._change(key, query, body)
        elif not key:
            self._send(200, _listed(store.objects, query))
        elif key not in store.objects:
            self._send(404, _error("NoSuchKey"))
        else:
            self._object(store.objects[key])

    def _change(self, key: str, query: dict[str, str], body: bytes) -> None:
        store, upload = self.server.store, query.get("uploadId", "")
        if "uploads" in query:
            upload = f"{len(store.requests)}"
            store.uploads[upload] = {}
            self._send(200, _tagged("InitiateMultipartUploadResult", UploadId=upload))
        elif upload and upload not in store.uploads:
            self._send(404, _error("NoSuchUpload"))
        elif self.command == "PUT" and upload:
            store.uploads[upload][int(query["partNumber"])] = body
            self._send(200, b"")
        elif self.command == "PUT":
            store.objects[key] = body
            self._send(200, b"")
        elif self.command == "POST":
            self._complete(key, store.uploads[upload], body)
            del store.uploads[upload]
        else:
            store.uploads.pop(upload, None) if upload else store.objects.pop(key, None)
            self._send(204, b"")

    def _complete(self, key: str, uploaded: dict[int, bytes], body: bytes) -> None:
        """Join the parts that a request lists, which may be fewer than were uploaded."""
        numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)<", body)]
        if not set(numbers) <= set(uploaded):
            self._send(400, _error("InvalidPart"))
            return
        self.server.store.objects[key] = b"".join(uploaded[number] for number in numbers)
        self._send(200, _tagged("CompleteMultipartUploadResult", Key=key))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = _joined(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = self.headers.get("Content-Encoding") == "aws-chunked"
        return _joined(io.BytesIO(body)) if signed else body

    def _object(self, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, content)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        part = content[first : last + 1]
        self._send(206, part, f"bytes {first}-{first + len(part) - 1}/{len(content)}")

    def _send(self, code: int, body: bytes, where: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        if where:
            self.send_header("Content-Range", where)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Store]:
    """Yield a store that is served while the block runs."""
    store = Store()
    server = _Server(store)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    where = f"127.0.0.1:{server.server_port}"
    store.address = f"?region=us-east-1&scheme=http&endpoint_override={where}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _joined(chunks: io.BufferedIOBase) -> bytes:
    """Join the chunks of a body, and skip what trails it, like a checksum."""
    body = b""
    while line := chunks.readline():
        if not (size := int(line.split(b";")[0], 16)):
            break
        body += chunks.read(size)
        chunks.readline()
    else:
        msg = "the client has died"
        raise ConnectionError(msg)
    while chunks.readline().strip():
        pass
    return body


def _listed(objects: dict[str, bytes], query: dict[str, str]) -> bytes:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most, after = int(query.get("max-keys", "1000")), query.get("continuation-token", "")
    keys, folders = [], []
    for key in sorted(key for key in objects if key.startswith(prefix) and key > after):
        head, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        if mark and prefix + head + mark not in folders:
            folders.append(prefix + head + mark)
        elif not mark:
            keys.append(key)
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[key])}</Size>"
        "<LastModified>1970-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys[:most]
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in folders
    )
    more = ""
    if len(keys) > most:
        more = f"<NextContinuationToken>{escape(keys[most - 1])}</NextContinuationToken>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
        f"<Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>"
        f"<KeyCount>{len(keys[:most])}</KeyCount><IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        f"{more}{contents}{common}</ListBucketResult>"
    ).encode()


def _tagged(name: str, **values: str) -> bytes:
    inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in values.items())
    return f"<{name}>{inner}</{name}>".encode()


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
