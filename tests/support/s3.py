"""A small S3 on loopback: objects with ranges, and lists, as AWS' protocol has them.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Store:
    """The objects of one bucket by key.

    `address` is what comes after `s3://bucket/KEY`. While `broken`, every answer is an error.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    broken: bool = False

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

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        store, parts = self.server.store, urlsplit(self.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if store.broken:
            self._send(403, _error("AccessDenied"))
        elif not key:
            self._send(200, _listed(store.objects, query))
        elif key not in store.objects:
            self._send(404, _error("NoSuchKey"))
        else:
            self._object(store.objects[key])

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
        if self.command == "GET":
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


def _listed(objects: dict[str, bytes], query: dict[str, str]) -> bytes:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most = int(query.get("max-keys", "1000"))
    keys, folders = [], []
    for key in sorted(key for key in objects if key.startswith(prefix)):
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
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
        f"<Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>"
        f"<KeyCount>{len(keys[:most])}</KeyCount><IsTruncated>false</IsTruncated>"
        f"{contents}{common}</ListBucketResult>"
    ).encode()


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
