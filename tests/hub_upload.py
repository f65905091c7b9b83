"""A Hub on loopback that can be written to: commits, branches, tags, pull requests, large files.

Refs move in one step under a lock, and every commit's files are kept, so a test can look at each
moment in between. Any request can be cut, lost, refused or left without an answer.
"""

import base64
import hashlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from tests.hub_repos import File, Repo, git_sha1, mode

DATE = "2026-01-01T00:00:00.000Z"
# Cut before the request is read; answer lost after it was done; answer cut; a status.
FAULTS: tuple[str | int, ...] = ("before", "after", "cut", 500, 503, 504, 429)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    host: str
    token: str | None


class Hub(ThreadingHTTPServer):
    """The server; `fault` is asked about every request by its number."""

    daemon_threads = True

    def __init__(self, token: str, part_size: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.part_size = token, part_size
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.fault: Callable[[int, Request], str | int | None] = lambda _number, _request: None
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

    def create(self, name: str, private: bool = False) -> Repo:
        repo = self.repos[name] = Repo(private)
        repo.add("refs/heads/main", "initial commit", {".gitattributes": File(b"* text\n", False)})
        return repo


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


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def refuse(status: int, message: str) -> NoReturn:
    """Answer a request like that, from wherever it is dealt with."""
    raise _Refused(status, message)


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every request takes 40 ms
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Silent: requests are in `Hub.requests`."""

    def do_POST(self) -> None:
        hub = self.server
        self.url = urlsplit(self.path)
        self.query = dict(parse_qsl(self.url.query))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = (self.headers.get("Host") or "").partition(":")[0]
        asked = Request(self.command, self.url.path, host, token)
        with hub.lock:
            number = len(hub.requests)
            hub.requests.append(asked)
        self.fault = hub.fault(number, asked)
        if self.fault == "before":
            return self._hang_up()
        if self.fault == "silence":
            hub.released.wait()
            return self._hang_up()
        self.body = self._read()
        with suppress(BrokenPipeError, ConnectionResetError):
            try:
                if isinstance(self.fault, int):
                    raise _Refused(self.fault, "the test wants it so")
                with hub.lock:
                    self._route(unquote(self.url.path), token)
            except _Refused as error:
                told = {"X-Error-Message": str(error), "X-Error-Code": error.code}
                headers = {name: text for name, text in told.items() if text}
                self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)  # a mere close leaves the client waiting

    def _read(self) -> bytes:
        if (self.headers.get("Transfer-Encoding") or "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while count := int(self.rfile.readline(), 16):
            whole += self.rfile.read(count)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.fault == "after":
            return self._hang_up()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self._hang_up()
        self.wfile.write(body)
        return None

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode())

    def _route(self, path: str, token: str | None) -> None:
        if match := re.fullmatch(r"/storage/(\w+)(?:/(\d+|verify|complete))?", path):
            return self._storage(match[1], match[2])
        if token not in (None, self.server.token):
            raise _Refused(401, "Invalid credentials in Authorization header")
        if self.command == "POST" and token is None:
            raise _Refused(401, "Invalid username or password.")
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/([\w-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._batch()
        if match := re.fullmatch(r"/([\w-]+/[\w.-]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", path):
            return self._resolve(self._repo(match[1], token), match[2], match[3])
        api = r"/api/models/([\w-]+/[\w.-]+)(?:/(revision|refs|tree|[a-z-]+)(?:/(.+))?)?"
        if match := re.fullmatch(api, path):
            name, what, rest = match[1], match[2] or "revision", match[3] or "main"
            return self._model(name, self._repo(name, token), what, rest)
        raise _Refused(404, "no such page")

    def _repo(self, name: str, token: str | None) -> Repo:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and token is None):
            raise _Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        return repo

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "org":
            raise _Refused(403, "You have no rights in this namespace")
        if name in self.server.repos:
            raise _Refused(409, "You already created this model repo")
        # Releases of the library from 1 on name the visibility.
        private = asked.get("visibility", "private" if asked.get("private") else "") == "private"
        self.server.create(name, private)
        self._json({"url": f"{self.server.endpoint}/{name}", "name": name})

    def _model(self, name: str, repo: Repo, what: str, rest: str) -> None:
        if what == "refs":
            return self._json(repo.listed_refs())
        if what == "discussions":
            return self._discussions(name, repo)
        if what == "branch":
            return self._point(repo, f"refs/heads/{rest}", "main")
        if what == "tag":
            return self._point(repo, f"refs/tags/{json.loads(self.body)['tag']}", rest)
        revision, _, below = rest.partition("/") if what == "tree" else (rest, "", "")
        sha = repo.find(revision)
        if sha is None:
            raise _Refused(404, f"Invalid rev id: {rest}", "RevisionNotFound")
        if below:
            raise _Refused(404, f"{below} does not exist", "EntryNotFound")
        if what == "commit":
            return self._commit(name, repo, revision, sha)
        return self._json(self._told(name, repo, what, sha))

    def _told(self, name: str, repo: Repo, what: str, sha: str) -> Any:
        """What a commit holds, in the form that was asked for."""
        files = repo.commits[sha].files
        if what == "revision":
            siblings = [file.sibling(path) for path, file in sorted(files.items())]
            about = {"id": name, "sha": sha, "private": repo.private, "tags": []}
            return {**about, "siblings": siblings}
        if what == "tree":
            return [file.listed(path) for path, file in sorted(files.items())]
        if what == "paths-info":
            paths = parse_qs(self.body.decode())["paths"]
            return [files[path].listed(path) for path in paths if path in files]
        assert what == "preupload"
        return {"files": [mode(one, files) for one in json.loads(self.body)["files"]]}

    def _discussions(self, name: str, repo: Repo) -> None:
        found = [
            {"num": int(number), "title": repo.commits[sha].title, "status": "open"}
            | {"isPullRequest": True, "author": {"name": "user"}, "createdAt": DATE}
            | {"repo": {"name": name, "type": "model"}}
            for number, sha in repo.names("pr").items()
        ]
        self._json({"discussions": found, "count": len(found), "start": 0})

    def _point(self, repo: Repo, ref: str, at: str) -> None:
        if ref in repo.refs:
            raise _Refused(409, "Reference already exists")
        sha = repo.find(at)
        assert sha is not None
        repo.refs[ref] = sha
        self._json({})

    def _commit(self, name: str, repo: Repo, revision: str, base: str) -> None:
        head, *lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        if head["value"].get("parentCommit", base) != base:
            raise _Refused(412, "The branch was updated since you opened this page.")
        files = dict(repo.commits[base].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = File(self.server.large[value["oid"]], True)
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        ref, request = revision if revision.startswith("refs/") else f"refs/heads/{revision}", None
        if self.query.get("create_pr"):
            number = len(repo.names("pr")) + 1
            ref, request = (
                f"refs/pr/{number}",
                f"{self.server.endpoint}/{name}/discussions/{number}",
            )
            repo.refs[ref] = base
        sha = repo.add(ref, head["value"]["summary"], files)
        url = f"{self.server.endpoint}/{name}/commit/{sha}"
        self._json({"commitOid": sha, "commitUrl": url, "pullRequestUrl": request})

    def _batch(self) -> None:
        whole = "multipart" if self.server.part_size else "basic"
        objects = [self._offer(one) for one in json.loads(self.body)["objects"]]
        self._json({"transfer": whole, "objects": objects})

    def _offer(self, asked: dict[str, Any]) -> dict[str, Any]:
        oid, size, part = asked["oid"], asked["size"], self.server.part_size
        told = {"oid": oid, "size": size}
        if oid in self.server.large:
            return told
        place = f"{self.server.endpoint}/storage/{oid}"
        upload: dict[str, Any] = {"href": place}
        if part:
            numbers = range(1, -(-size // part) + 1)
            upload["href"] = f"{place}/complete"
            upload["header"] = {"chunk_size": str(part)} | {str(n): f"{place}/{n}" for n in numbers}
        return {**told, "actions": {"upload": upload, "verify": {"href": f"{place}/verify"}}}

    def _storage(self, oid: str, what: str | None) -> None:
        """Large files: written whole or in parts, read from another host's name."""
        hub = self.server
        if self.command in ("GET", "HEAD"):
            assert "Authorization" not in self.headers, "the token went to the storage"
            return self._bytes(hub.large[oid], oid, {})
        if what == "verify":
            return self._json({}) if oid in hub.large else self._send(404, b"{}")
        if what and what.isdecimal():
            hub.parts[oid, int(what)] = self.body
            return self._send(200, b"", {"ETag": f'"{git_sha1(self.body)}"'})
        data = self.body
        if what == "complete":
            numbers = [part["partNumber"] for part in json.loads(self.body)["parts"]]
            data = b"".join(hub.parts[oid, number] for number in numbers)
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refused(400, "these are other bytes")
        hub.large[oid] = data
        return self._json({})

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        sha = repo.find(revision)
        if sha is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        file, told = repo.commits[sha].files.get(path), {"X-Repo-Commit": sha}
        if file is None:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        if not file.large:
            return self._bytes(file.data, file.oid, told)
        place = f"http://localhost:{self.server.server_port}/storage/{file.oid}"
        linked = {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        return self._send(302, b"", told | linked | {"Location": place})

    def _bytes(self, data: bytes, oid: str, told: dict[str, str]) -> None:
        headers = told | {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(206, data[first : last + 1], headers)
        return self._send(200, data, headers)
