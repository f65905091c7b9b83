"""A small Hub on loopback: models served as huggingface.co serves them, refusals and faults too.

Large files are redirected to another host's name, as the real Hub does, so that a token that
travels along shows. Every request is noted.
"""

import hashlib
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".msgpack")


@dataclass
class Repo:
    """A model's files and names of its one commit; who may read it."""

    folder: Path
    tags: tuple[str, ...] = ()
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        """A digest that is no other folder's."""
        return hashlib.sha1(str(self.folder).encode()).hexdigest()

    def knows(self, revision: str) -> bool:
        return revision in (self.commit, "main", *self.tags)

    def siblings(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.iterdir()):
            entry = {"rfilename": path.name, "size": path.stat().st_size, "blobId": etag(path)}
            if path.name.endswith(LARGE):
                entry["lfs"] = {"sha256": etag(path), "size": entry["size"], "pointerSize": 134}
            yield entry


@dataclass(frozen=True)
class Request:
    """What a client asked, of which host, and with which token."""

    method: str
    path: str
    host: str
    token: str | None
    range: str | None


@dataclass
class Faults:
    """What goes wrong: a status for every answer; bodies of large files cut so many times."""

    status: int | None = None
    cuts: int = 0
    cut_at: float = 0.5
    flip: bool = False
    pause_s: float = 0.0


class Hub(ThreadingHTTPServer):
    """The server; `repos` by id, and `token` as the only valid one."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.requests: list[Request] = []

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
        """Where large files are: the same server by another name."""
        return f"http://localhost:{self.server_port}"

    @contextmanager
    def failing(self, **faults: Any) -> Iterator[None]:
        self.faults = Faults(**faults)
        try:
            yield
        finally:
            self.faults = Faults()

    def fetched(self) -> set[str]:
        """The names of the files whose bytes were asked for."""
        got = (r.path.rpartition("/")[2] for r in self.requests if r.method == "GET")
        return {name for name in got if "." in name}


@contextmanager
def serving(token: str) -> Iterator[Hub]:
    """Run a Hub in a thread."""
    hub = Hub(token)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@cache
def etag(path: Path) -> str:
    """The Hub's name for a file's bytes: sha256 of a large file, git's own of a small one."""
    data = path.read_bytes()
    if path.name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Silent: requests are in `Hub.requests`."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = (self.headers.get("Host") or "").partition(":")[0]
        asked = Request(self.command, path, host, token, self.headers.get("Range"))
        self.server.requests.append(asked)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._route(path, token)

    def _route(self, path: str, token: str | None) -> None:
        if self.server.faults.status:
            return self._refuse(self.server.faults.status, None, "the test wants it so")
        if match := re.fullmatch(r"/storage/([\w-]+/[\w.-]+)/([^/]+)", path):
            return self._bytes(self.server.repos[match[1]].folder / match[2], {})
        if token not in (None, self.server.token):
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if match := re.fullmatch(r"/api/models/([\w-]+/[\w.-]+)(?:/(refs)|/revision/(.+))?", path):
            return self._model(match[1], bool(match[2]), match[3] or "main", token)
        if match := re.fullmatch(r"/([\w-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3], token)
        return self._refuse(404, None, "no such page")

    def _readable(self, name: str, token: str | None) -> Repo | None:
        """The repository; None, and a refusal, where there is none for this client."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and token is None):
            # The real one says so to strangers, lest they learn which private ones there are.
            if token is None:
                self._refuse(401, "RepoNotFound", "Invalid username or password.")
            else:
                self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _model(self, name: str, refs: bool, revision: str, token: str | None) -> None:
        if (repo := self._readable(name, token)) is None:
            return
        if refs:
            self._json(
                {"branches": _refs("heads", ["main"], repo), "converts": []}
                | {"tags": _refs("tags", repo.tags, repo)}
            )
        elif not repo.knows(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            siblings = list(repo.siblings())
            self._json({"id": name, "sha": repo.commit, "siblings": siblings, "tags": []})

    def _file(self, name: str, revision: str, file: str, token: str | None) -> None:
        if (repo := self._readable(name, token)) is None:
            return
        path = repo.folder / file
        told = {"X-Repo-Commit": repo.commit}
        if repo.gated:
            status = 403 if token else 401
            self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
        elif not repo.knows(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found", told)
        elif file.endswith(LARGE):
            linked = {"X-Linked-Etag": f'"{etag(path)}"', "X-Linked-Size": str(path.stat().st_size)}
            place = f"{self.server.storage}/storage/{name}/{file}"
            self._send(302, told | linked | {"Location": place}, b"")
        else:
            self._bytes(path, told)

    def _bytes(self, path: Path, told: dict[str, str]) -> None:
        data = path.read_bytes()
        if self.server.faults.flip and path.name.endswith(LARGE):
            data = data[:-1] + bytes([data[-1] ^ 1])
        told = told | {"ETag": f'"{etag(path)}"', "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            told["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(206, told, data[first : last + 1], path.name.endswith(LARGE))
        return self._send(200, told, data, path.name.endswith(LARGE))

    def _json(self, document: dict[str, Any]) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _refuse(
        self, status: int, code: str | None, message: str, told: dict[str, str] | None = None
    ) -> None:
        headers = {"X-Error-Message": message, **(told or {})}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, headers, json.dumps({"error": message}).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes, large: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        faults = self.server.faults
        if large and faults.cuts:
            faults.cuts -= 1
            self.wfile.write(body[: int(len(body) * faults.cut_at)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)  # a mere close leaves the client waiting
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        if large and faults.pause_s:
            self.wfile.flush()
            time.sleep(faults.pause_s)
        self.wfile.write(body[half:])


def _refs(kind: str, names: Any, repo: Repo) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": repo.commit} for name in names
    ]
