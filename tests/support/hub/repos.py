"""What a Hub for tests keeps: repositories with every commit's files, and the refs to them."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

LARGE = (".onnx", ".onnx_data", ".pt2", ".bin", ".safetensors", ".msgpack")
MAIN = "refs/heads/main"


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a commit; of a large one, git holds a pointer only."""

    data: bytes
    large: bool

    @cached_property
    def oid(self) -> str:
        """The Hub's name for these bytes."""
        return hashlib.sha256(self.data).hexdigest() if self.large else git_sha1(self.data)

    def listed(self, path: str) -> dict[str, Any]:
        """The file as tree and paths-info tell it."""
        told: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid}
        told["size"] = len(self.data)
        if self.large:
            told["oid"] = self._pointer
            told["lfs"] = {"oid": self.oid, "size": len(self.data), "pointerSize": 134}
        return told

    def sibling(self, path: str) -> dict[str, Any]:
        """The file as the repository's own page tells it."""
        told: dict[str, Any] = {"rfilename": path, "size": len(self.data), "blobId": self.oid}
        if self.large:
            told["blobId"] = self._pointer
            told["lfs"] = {"sha256": self.oid, "size": len(self.data), "pointerSize": 134}
        return told

    @property
    def _pointer(self) -> str:
        """Git's name for the pointer."""
        head = "version https://git-lfs.github.com/spec/v1"
        return git_sha1(f"{head}\noid sha256:{self.oid}\nsize {len(self.data)}\n".encode())


def of_folder(folder: Path) -> dict[str, File]:
    """A folder's files as a commit has them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return {name: File((folder / name).read_bytes(), name.endswith(LARGE)) for name in names}


@dataclass(frozen=True)
class Commit:
    parent: str | None
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """A model's commits, the refs that name some of them, and who may read it."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def add(self, ref: str, title: str, files: dict[str, File]) -> str:
        parent = self.refs.get(ref)
        told = [parent, title, len(self.commits), sorted((n, f.oid) for n, f in files.items())]
        sha = hashlib.sha1(json.dumps(told).encode()).hexdigest()
        self.commits[sha] = Commit(parent, title, files)
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        return revision if revision in self.commits else None

    def names(self, kind: str) -> dict[str, str]:
        start = f"refs/{kind}/"
        return {
            ref.removeprefix(start): sha for ref, sha in self.refs.items() if ref.startswith(start)
        }

    def listed_refs(self) -> dict[str, Any]:
        told: dict[str, Any] = {"converts": [], "pullRequests": []}
        for title, kind in (("branches", "heads"), ("tags", "tags")):
            told[title] = [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in self.names(kind).items()
            ]
        return told

    @property
    def commit(self) -> str:
        """Where `main` is."""
        return self.refs[MAIN]

    @property
    def files(self) -> dict[str, File]:
        """What is on `main`."""
        return self.commits[self.commit].files


def mode(asked: dict[str, Any], files: dict[str, File]) -> dict[str, Any]:
    """How a file is to be sent, and what is there now."""
    path = asked["path"]
    large = path.endswith(LARGE) or asked["size"] > 10_000_000
    there = files[path].oid if path in files else None
    mode = "lfs" if large else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": there}
