"""What the Hub answers: repositories, commits, branches, tags, pull requests, files.

Pages as huggingface_hub asks for them, refusals worded and coded as huggingface.co does it.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import parse_qs, quote

from tests.support.hub.repos import File, Repo, mode

DATE = "2026-01-01T00:00:00.000Z"
NAME = r"((?:datasets/)?[\w-]+/[\w.-]+)"
# Stands for what a storage signs its addresses with: whoever has one, may read.
SIGNATURE = "c4n4ry5ign4ture"


@dataclass(frozen=True)
class Request:
    """What a client asked, of which host, and with which token; `file` is one that it reads."""

    method: str
    path: str
    host: str
    token: str | None
    query: dict[str, str] = field(default_factory=dict)
    range: str | None = None
    body: bytes = b""

    @property
    def file(self) -> str | None:
        """The name of the file that is read, from the Hub or its storage."""
        if "/resolve/" in self.path:
            return self.path.rpartition("/")[2]
        return self.query.get("filename")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is a refusal, with the code by which clients know it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    @property
    def answer(self) -> Answer:
        told = {"X-Error-Message": self.message, "X-Error-Code": self.code}
        body = json.dumps({"error": self.message}).encode()
        return Answer(self.status, body, {name: text for name, text in told.items() if text})


def refuse(status: int, message: str, code: str = "") -> NoReturn:
    """Answer a request like that, from wherever it is dealt with."""
    raise Refused(status, message, code)


def document(told: Any) -> Answer:
    return Answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})


def content(asked: Request, file: File, told: dict[str, str]) -> Answer:
    """A file's bytes, or the range of them that is asked for."""
    data, headers = file.data, told | {"ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.range or ""):
        first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Answer(206, data[first : last + 1], headers)
    return Answer(200, data, headers)


class Api:
    """Repositories by id, and who may do what to them: `token` is the only valid one.

    The id of a dataset begins with `datasets/`, as in its address.
    """

    def __init__(self, token: str, endpoint: str, storage: str) -> None:
        self.token, self.endpoint, self.storage = token, endpoint, storage
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self._pages: dict[str, Callable[[str, Repo, str, Request], Answer]] = {
            "refs": lambda _name, repo, _rest, _asked: document(repo.listed_refs()),
            "discussions": self._discussions,
            "branch": self._branch,
            "tag": self._tag,
            "commit": self._commit,
        }

    def create(
        self,
        name: str,
        private: bool = False,
        gated: bool = False,
        files: dict[str, File] | None = None,
        tags: tuple[str, ...] = (),
    ) -> Repo:
        repo = self.repos[name] = Repo(private, gated)
        given = files if files is not None else {".gitattributes": File(b"* text\n", False)}
        sha = repo.add("refs/heads/main", "initial commit", given)
        repo.refs |= {f"refs/tags/{tag}": sha for tag in tags}
        self.large |= {file.oid: file.data for file in given.values() if file.large}
        return repo

    def answer(self, asked: Request) -> Answer:
        """Do what is asked; raises Refused."""
        if asked.token not in (None, self.token):
            refuse(401, "Invalid credentials in Authorization header")
        if asked.method == "POST" and asked.token is None:
            refuse(401, "Invalid username or password.")
        if asked.path == "/api/repos/create":
            return self._create(asked)
        if asked.path == "/api/validate-yaml":
            return document({"errors": [], "warnings": []})
        if match := re.fullmatch(rf"/{NAME}/resolve/([^/]+|refs/pr/\d+)/(.+)", asked.path):
            return self._resolve(self._readable(match[1], asked), match[2], match[3], asked)
        api = rf"/api/(?:models/|(?=datasets/)){NAME}(?:/(revision|refs|tree|[a-z-]+)(?:/(.+))?)?"
        if match := re.fullmatch(api, asked.path):
            name, what, rest = match[1], match[2] or "revision", match[3] or "main"
            repo = self._readable(name, asked)
            return self._pages.get(what, self._of_commit(what))(name, repo, rest, asked)
        refuse(404, "no such page")

    def _readable(self, name: str, asked: Request) -> Repo:
        repo = self.repos.get(name)
        if repo is not None and (asked.token or not repo.private):
            return repo
        # The real one says so to strangers, lest they learn which private ones there are.
        if asked.token is None:
            refuse(401, "Invalid username or password.", "RepoNotFound")
        refuse(404, "Repository not found", "RepoNotFound")

    def _create(self, asked: Request) -> Answer:
        wanted = json.loads(asked.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "org":
            refuse(403, "You have no rights in this namespace")
        if name in self.repos:
            refuse(409, "You already created this model repo")
        # Releases of the library from 1 on name the visibility.
        private = wanted.get("visibility", "private" if wanted.get("private") else "") == "private"
        self.create(name, private)
        return document({"url": f"{self.endpoint}/{name}", "name": name})

    def _of_commit(self, what: str) -> Callable[[str, Repo, str, Request], Answer]:
        """A page that tells what a commit holds, in the form that was asked for."""

        def page(name: str, repo: Repo, rest: str, asked: Request) -> Answer:
            revision, _, below = rest.partition("/") if what == "tree" else (rest, "", "")
            sha = self._found(repo, revision)
            if below:
                refuse(404, f"{below} does not exist", "EntryNotFound")
            return document(_told(name, repo, what, sha, asked.body))

        return page

    def _found(self, repo: Repo, revision: str) -> str:
        return repo.find(revision) or refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def _discussions(self, name: str, repo: Repo, _rest: str, _asked: Request) -> Answer:
        found = [
            {"num": int(number), "title": repo.commits[sha].title, "status": "open"}
            | {"isPullRequest": True, "author": {"name": "user"}, "createdAt": DATE}
            | {"repo": {"name": name, "type": "model"}}
            for number, sha in repo.names("pr").items()
        ]
        return document({"discussions": found, "count": len(found), "start": 0})

    def _branch(self, _name: str, repo: Repo, rest: str, _asked: Request) -> Answer:
        return self._point(repo, f"refs/heads/{rest}", "main")

    def _tag(self, _name: str, repo: Repo, rest: str, asked: Request) -> Answer:
        return self._point(repo, f"refs/tags/{json.loads(asked.body)['tag']}", rest)

    def _point(self, repo: Repo, ref: str, at: str) -> Answer:
        if ref in repo.refs:
            refuse(409, "Reference already exists")
        repo.refs[ref] = self._found(repo, at)
        return document({})

    def _commit(self, name: str, repo: Repo, revision: str, asked: Request) -> Answer:
        base = self._found(repo, revision)
        head, *lines = [json.loads(line) for line in asked.body.splitlines() if line.strip()]
        if head["value"].get("parentCommit", base) != base:
            refuse(412, "The branch was updated since you opened this page.")
        files = dict(repo.commits[base].files)
        for line in lines:
            self._change(files, line["key"], line["value"])
        ref, request = revision if revision.startswith("refs/") else f"refs/heads/{revision}", None
        if asked.query.get("create_pr"):
            number = len(repo.names("pr")) + 1
            ref, request = f"refs/pr/{number}", f"{self.endpoint}/{name}/discussions/{number}"
            repo.refs[ref] = base
        sha = repo.add(ref, head["value"]["summary"], files)
        url = f"{self.endpoint}/{name}/commit/{sha}"
        return document({"commitOid": sha, "commitUrl": url, "pullRequestUrl": request})

    def _change(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = File(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in self.large:
                refuse(400, f"LFS object {value['oid']} was never sent")
            files[value["path"]] = File(self.large[value["oid"]], True)
        else:
            assert key == "deletedFile"
            del files[value["path"]]

    def _resolve(self, repo: Repo, revision: str, path: str, asked: Request) -> Answer:
        if repo.gated:
            status = 403 if asked.token else 401
            refuse(status, "Access to this model is restricted.", "GatedRepo")
        sha = self._found(repo, revision)
        file, told = repo.commits[sha].files.get(path), {"X-Repo-Commit": sha}
        if file is None:
            refused = Refused(404, "Entry not found", "EntryNotFound").answer
            return Answer(404, refused.body, refused.headers | told)
        if not file.large:
            return content(asked, file, told)
        place = f"{self.storage}/storage/{file.oid}?filename={quote(path)}&Signature={SIGNATURE}"
        linked = {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        return Answer(302, b"", told | linked | {"Location": place})


def _told(name: str, repo: Repo, what: str, sha: str, body: bytes) -> Any:
    files = repo.commits[sha].files
    if what == "revision":
        siblings = [file.sibling(path) for path, file in sorted(files.items())]
        about = {
            "id": name.removeprefix("datasets/"),
            "sha": sha,
            "private": repo.private,
            "tags": [],
        }
        return {**about, "siblings": siblings}
    if what == "tree":
        return [file.listed(path) for path, file in sorted(files.items())]
    if what == "paths-info":
        paths = parse_qs(body.decode())["paths"]
        return [files[path].listed(path) for path in paths if path in files]
    if what == "preupload":
        return {"files": [mode(one, files) for one in json.loads(body)["files"]]}
    refuse(404, "no such page")
