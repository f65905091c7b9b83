"""The Hub on loopback: its pages and its storage under two host names, and what may go wrong.

State changes in one step under a lock; any answer can be lost, cut, damaged, refused or withheld.
Every request is noted, so a test sees what was asked, of whom, and with which token.
"""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.hub.api import Answer, Api, Refused, Request
from tests.support.hub.repos import Repo
from tests.support.hub.storage import BATCH, PLACE, Storage

# A callable gives another answer in place of the true one.
Fault = str | int | Callable[[Answer], Answer] | None
# Hung up before the request is read, or after it was done; an answer cut; refusals that pass.
FAULTS: tuple[str | int, ...] = ("before", "after", "cut", 500, 503, 504, 429)
# What reads also meet: no byte after the head; a bit turned; a wrong name for bytes; a way round.
FAULTS_OF_A_PULL: tuple[str | int, ...] = (*FAULTS, "head", "flip", "etag", "moved")
_SLOW_S = 0.7


class Hub(ThreadingHTTPServer):
    """The server; `fault` is asked about every request by its number."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, token: str, part_size: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.api = Api(token, self.endpoint, self.storage)
        self.files = Storage(self.api, part_size)
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.fault: Callable[[int, Request], Fault] = lambda _number, _request: None
        self.released = threading.Event()  # of clients that are kept waiting

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up, which takes long where there is no network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is not worth a traceback."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        """Where large files are: the same server by another name, as if it were another's."""
        return f"http://localhost:{self.server_port}"

    @property
    def repos(self) -> dict[str, Repo]:
        return self.api.repos

    @repos.setter
    def repos(self, repos: dict[str, Repo]) -> None:
        self.api.repos = repos

    @property
    def large(self) -> dict[str, bytes]:
        return self.api.large

    @large.setter
    def large(self, large: dict[str, bytes]) -> None:
        self.api.large = large

    @contextmanager
    def failing(
        self,
        how: Fault,
        where: Callable[[Request], bool] = lambda _asked: True,
        times: int | None = None,
    ) -> Iterator[None]:
        """Have requests fail, all or the first few of them."""
        left = times if times is not None else -1

        def fault(_number: int, asked: Request) -> Fault:
            nonlocal left
            if not left or not where(asked):
                return None
            left -= 1
            return how

        before, self.fault = self.fault, fault
        try:
            yield
        finally:
            self.fault = before

    def fetched(self) -> set[str]:
        """The names of the files whose bytes were asked for."""
        return {one.file for one in self.requests if one.method == "GET" and one.file}


def reads_large(asked: Request) -> bool:
    """Whether a request is for the bytes of a large file."""
    return asked.method == "GET" and asked.path.startswith("/storage/")


@contextmanager
def serving(token: str, part_size: int | None = None) -> Iterator[Hub]:
    """Run a Hub in a thread; with `part_size`, large files are sent in parts."""
    hub = Hub(token, part_size)
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every request takes 40 ms
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Silent: requests are in `Hub.requests`."""

    def do_POST(self) -> None:
        hub, url = self.server, urlsplit(self.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = (self.headers.get("Host") or "").partition(":")[0]
        query, wanted = dict(parse_qsl(url.query)), self.headers.get("Range")
        asked = Request(self.command, unquote(url.path), host, token, query, wanted)
        with hub.lock:
            number = len(hub.requests)
            hub.requests.append(asked)
        fault = hub.fault(number, asked)
        if fault == "silence":
            hub.released.wait()
        if fault in ("before", "silence"):
            self._hang_up()
            return
        body = self._read()
        if fault == "trickle":
            self._trickle()
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(self._spoilt(self._answer(asked, body, fault), fault), fault)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST

    def _answer(self, asked: Request, body: bytes, fault: Fault) -> Answer:
        if isinstance(fault, int):
            return Refused(fault, "the test wants it so").answer
        if fault == "moved":
            return Answer(307, b"", {"Location": self.path})
        if fault == "elsewhere":
            return Answer(307, b"", {"Location": self.server.storage + "/elsewhere"})
        whole = Request(**{**vars(asked), "body": body})
        with self.server.lock:
            try:
                if match := PLACE.fullmatch(asked.path):
                    return self.server.files.answer(whole, match[1], match[2])
                if BATCH.fullmatch(asked.path):
                    return self.server.files.offers(whole)
                return self.server.api.answer(whole)
            except Refused as error:
                return error.answer

    def _spoilt(self, answer: Answer, fault: Fault) -> Answer:
        """An answer whose bytes, or whose name for them, are not the right ones."""
        if callable(fault):
            return fault(answer)
        if fault == "malformed":
            return Answer(200, b"<html>not what you asked for", {"Content-Type": "text/html"})
        if fault == "flip" and answer.body:
            turned = answer.body[:-1] + bytes([answer.body[-1] ^ 1])
            return Answer(answer.status, turned, answer.headers)
        if fault == "etag":
            names = {name for name in answer.headers if name.lower().endswith("etag")}
            return Answer(
                answer.status, answer.body, answer.headers | dict.fromkeys(names, f'"{"e" * 40}"')
            )
        return answer

    def _read(self) -> bytes:
        if (self.headers.get("Transfer-Encoding") or "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while count := int(self.rfile.readline(), 16):
            whole += self.rfile.read(count)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)  # a mere close leaves the client waiting

    def _send(self, answer: Answer, fault: Fault) -> None:
        if fault == "after":
            return self._hang_up()
        if fault in ("endless", "drip"):
            return self._endless(0 if fault == "endless" else 0.02)
        body, half = answer.body, len(answer.body) // 2
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if fault in ("cut", "head"):
            self.wfile.write(body[:half] if fault == "cut" else b"")
            self.wfile.flush()
            return self._hang_up()
        self.wfile.write(body[:half])
        if fault == "slow":
            self.wfile.flush()
            time.sleep(_SLOW_S)
        self.wfile.write(body[half:])
        return None

    def _endless(self, pause_s: float) -> None:
        """Send a body that never ends, at once or a byte at a time."""
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        with suppress(OSError):
            while not self.server.released.wait(pause_s):
                self.wfile.write(b"." if pause_s else bytes(65_536))
                self.wfile.flush()

    def _trickle(self) -> None:
        """Send a head that never ends, a byte at a time: no read of it ever waits for long."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self.server.released.wait(0.02):
                self.wfile.write(b".")
                self.wfile.flush()
