"""Push artifacts to the Hub: one commit each, compared with the manifest afterwards.

Every step asks the Hub for its state and does only what is missing, so an interrupted attempt can
be repeated, and files that arrived are not sent twice.
"""

import io
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifact.lookup import find
from exporter.artifact.manifest import MANIFEST
from exporter.artifact.store import MAX_MANIFEST_BYTES, SIDECAR_FILES
from exporter.errors import ExporterError, HubError, IntegrityError, RecipeError
from exporter.hub import client, replies
from exporter.hub.eligibility import CorpusHash, check_publishable, unread
from exporter.hub.errors import endpoint, unpushed
from exporter.hub.upload_plan import UploadFile, UploadPlan, plan_uploads, write_cards
from exporter.system.files import read_small, sha256_file
from exporter.system.progress import Progress, shown_bytes

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import ModelInfo

# A Hub could list pages of them without end.
_MAX_REQUESTS = 1000
# Files that a repository may hold before the first push; they stay.
_HARMLESS = {".gitattributes", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"}


@dataclass(frozen=True)
class Way:
    """The destination of a push: a branch, or a pull request to `main`."""

    revision: str = "main"
    pull_request: bool = False


@dataclass(frozen=True)
class Pushed:
    """An artifact on the Hub; `changed` is False if everything was there already."""

    plan: UploadPlan
    commit: str
    changed: bool
    tag: str | None
    pull_request: str | None

    @property
    def url(self) -> str:
        """The address of the pull request or of the commit."""
        return self.pull_request or f"{endpoint()}/{self.plan.repo}/tree/{self.commit}"


def plan_push(
    path: Path, repo: str | None, private: bool | None, corpus_hash: CorpusHash = unread
) -> list[UploadPlan]:
    """Plan the push of the artifact, or of all artifacts, at `path`; no request is sent.

    Args:
        path: An artifact, or a folder of them.
        repo: `ORG/NAME` instead of the recipe's.
        private: Visibility of a new repository, instead of the recipe's.
        corpus_hash: Hashes the clips of an artifact's recipe, where they are here.

    Returns:
        A plan for each artifact.

    Raises:
        GateError: An artifact did not pass its gate.
        IntegrityError: There is no artifact, or bytes do not match a manifest, report or signature.
        RecipeError: There is no usable repository name.
    """
    proofs = [check_publishable(folder, corpus_hash) for folder in find(path)]
    return plan_uploads(proofs, repo, private)


def push(plans: Sequence[UploadPlan], way: Way, progress: Progress) -> Iterator[Pushed]:
    """Push plans one after the other, and yield each result.

    Args:
        plans: The plans of `plan_push`.
        way: The branch, or a pull request.
        progress: Receives attempts and bytes.

    Yields:
        The commit, tag and pull request of each plan, after the Hub's hashes were compared.

    Raises:
        HubError: There is no token, or the Hub refused or could not be reached.
        IntegrityError: Files changed during the push.
        RecipeError: The repository holds something else, or is public although the plan is private.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        msg = "HF_HUB_OFFLINE is set: unset it to push"
        raise HubError(msg)
    if not get_token():
        msg = "pushing needs a token with write access: run `hf auth login`, or set HF_TOKEN"
        raise HubError(msg)
    write_cards(plans)
    for plan in plans:
        yield _Delivery(HfApi(), plan, way, progress).run()


class _Delivery:
    """The push of one plan."""

    def __init__(self, api: "HfApi", plan: UploadPlan, way: Way, progress: Progress) -> None:
        self._api, self._plan, self._way, self._progress = api, plan, way, progress
        self._repo = plan.repo
        self._changed = False

    def run(self) -> Pushed:
        """Push, and repeat after temporary failures."""
        return client.with_retries(self._tried, self._progress, self._repo, self._failed)

    def _failed(self, root: BaseException) -> ExporterError:
        """Return the error to raise: the Hub's, unless files changed during the push."""
        for item in self._plan.items:
            if isinstance(item.source, Path) and sha256_file(item.source) != item.sha256:
                return IntegrityError(_changed(item.source))
        return unpushed(root, self._repo)

    def _tried(self) -> Pushed:
        self._progress(f"{self._repo}: asking what is there", None)
        info = self._info()
        self._require_visibility(info)
        files = _files(info)
        stale = self._stale(info, files)
        lacking = [item for item in self._plan.items if not item.equals(files.get(item.path))]
        request = None
        if not lacking and not stale:
            commit = str(info.sha)
        elif self._way.pull_request:
            commit, request = self._requested(info, lacking, stale)
        else:
            commit, _ = self._committed(info, lacking, stale)
        self._require_arrival(self._plan.items, commit)
        tag = None if request else self._tagged(commit)
        return Pushed(self._plan, commit, self._changed, tag, request)

    def _info(self) -> "ModelInfo":
        """Return the state of the branch; create the repository or branch if it is missing."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return self._state(self._way.revision)
        except RepositoryNotFoundError:
            self._api.create_repo(self._repo, private=self._plan.private, exist_ok=True)
        except RevisionNotFoundError:
            self._api.create_branch(self._repo, branch=self._way.revision, exist_ok=True)
        try:
            return self._state(self._way.revision)
        except RevisionNotFoundError:  # a new repository has `main` only
            self._api.create_branch(self._repo, branch=self._way.revision, exist_ok=True)
        return self._state(self._way.revision)

    def _state(self, revision: str) -> "ModelInfo":
        info = self._api.model_info(self._repo, revision=revision, files_metadata=True)
        replies.require_plain_list(self._repo, info)
        return info

    def _require_visibility(self, info: "ModelInfo") -> None:
        if self._plan.private and info.private is False:
            msg = f"{self._repo} is public, and this is to be private: push with --public"
            raise RecipeError(msg + ", or to another --repo")

    def _stale(self, info: "ModelInfo", files: dict[str, Any]) -> list[str]:
        """Return the files of a previous artifact, which must be deleted.

        Beside the new files they would be loaded, or describe another artifact. Where the artifact
        is the same, these are a signature or a provenance that it no longer has.

        Raises:
            RecipeError: The repository holds something that is no artifact.
        """
        ours = {item.path: item for item in self._plan.items}
        if MANIFEST not in files:
            self._refuse_strangers(files.keys() - _HARMLESS)
            return []
        if ours[MANIFEST].equals(files[MANIFEST]):
            return sorted(SIDECAR_FILES & files.keys() - ours.keys())
        if (files[MANIFEST].size or 0) > MAX_MANIFEST_BYTES:
            self._refuse_strangers({MANIFEST})
        listed = replies.listed(files[MANIFEST], str(info.sha))
        with replies.expecting(listed):
            path = Path(self._api.hf_hub_download(self._repo, MANIFEST, revision=listed.commit))
        try:
            data = read_small(path, MAX_MANIFEST_BYTES, ValueError, "a manifest")
            named = {str(file["path"]) for file in json.loads(data)["files"]}
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse_strangers({MANIFEST})
        return sorted((named | SIDECAR_FILES) & files.keys() - ours.keys())

    def _refuse_strangers(self, names: Iterable[str]) -> None:
        if shown := ", ".join(sorted(names)[:3]):
            msg = f"{self._repo} holds files of no artifact ({shown}): push to another --repo"
            raise RecipeError(msg)

    def _requested(
        self, info: "ModelInfo", lacking: list[UploadFile], stale: list[str]
    ) -> tuple[str, str]:
        """Return commit and address of a pull request with the plan: an open one, or a new one."""
        open_requests = self._api.get_repo_discussions(
            self._repo, discussion_type="pull_request", discussion_status="open"
        )
        for one in islice(open_requests, _MAX_REQUESTS):
            if one.title == self._plan.title:
                there = self._state(f"refs/pr/{one.num}")
                files = _files(there)
                if all(item.equals(files.get(item.path)) for item in self._plan.items):
                    return str(there.sha), f"{endpoint()}/{self._repo}/discussions/{one.num}"
        commit, request = self._committed(info, lacking, stale)
        return commit, str(request)

    def _committed(
        self, info: "ModelInfo", lacking: list[UploadFile], stale: list[str]
    ) -> tuple[str, str | None]:
        """Send missing files and move the branch in one commit, if it was not moved meanwhile."""
        from huggingface_hub import CommitOperationDelete

        self._changed = True
        meter = _Meter(self._progress, self._repo, sum(item.size_bytes for item in lacking))
        with ExitStack() as open_files:
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                self._addition(item, open_files.enter_context(_Watched(item, meter)))
                for item in lacking
            ]
            operations += [CommitOperationDelete(name, is_folder=False) for name in stale]
            meter.begin("sending")
            commit = self._api.create_commit(
                self._repo,
                operations,
                commit_message=self._plan.title,
                revision=self._way.revision,
                parent_commit=info.sha,
                create_pr=self._way.pull_request,
            )
        return commit.oid, commit.pr_url

    def _addition(self, item: UploadFile, stream: "_Watched") -> "CommitOperationAdd":
        """Return the upload of one file; raise IntegrityError if the library's hash differs."""
        from huggingface_hub import CommitOperationAdd

        operation = CommitOperationAdd(item.path, stream)
        if operation.upload_info.sha256.hex() != item.sha256:
            raise IntegrityError(_changed(self._plan.proof.folder / item.path))
        return operation

    def _require_arrival(self, items: Sequence[UploadFile], commit: str) -> None:
        """Compare the Hub's hashes of a commit with ours; nothing is downloaded."""
        names = [item.path for item in items]
        there = {
            file.path: file for file in self._api.get_paths_info(self._repo, names, revision=commit)
        }
        wrong = [item.path for item in items if not item.equals(there.get(item.path))]
        if wrong:
            shown = ", ".join(wrong[:3])
            msg = f"{self._repo} at {commit[:12]}: {shown} are not what was pushed.\nPush again."
            raise IntegrityError(msg)

    def _tagged(self, commit: str) -> str:
        """Tag the commit; an existing tag must be on the same sealed files."""
        tag = self._plan.tag
        tags = {ref.name: ref.target_commit for ref in self._api.list_repo_refs(self._repo).tags}
        if tag not in tags:
            self._api.create_tag(self._repo, tag=tag, revision=commit, exist_ok=True)
            self._changed = True
        elif tags[tag] != commit:
            self._require_arrival(self._plan.sealed, tags[tag])
        return tag


def _changed(path: Path) -> str:
    return f"{path} changed after it was verified: nothing was pushed"


def _files(info: "ModelInfo") -> dict[str, Any]:
    return {file.rfilename: file for file in info.siblings or ()}


class _Meter:
    """Counts the bytes of a plan and reports them in at most 200 steps."""

    _STEPS = 200

    def __init__(self, progress: Progress, repo: str, total: int) -> None:
        self._progress, self._repo, self._total = progress, repo, max(total, 1)
        self._lock = threading.Lock()  # the library sends several files at once
        self.begin("reading")

    def begin(self, what: str) -> None:
        """Start another pass over all bytes."""
        self._what, self._done, self._told = what, 0, 0

    def add(self, count: int) -> None:
        """Count bytes, up to the total: some may be sent twice."""
        with self._lock:
            self._done = min(self._done + count, self._total)
            if self._done - self._told < self._total / self._STEPS:
                return
            self._told = self._done
            of = f"{shown_bytes(self._done)} of {shown_bytes(self._total)}"
            self._progress(f"{self._repo}: {self._what} {of}", self._done / self._total)


class _Watched(io.BufferedReader):
    """A file's bytes, counted while they are read.

    The library sends an open file, unlike a path, over plain HTTP also where hf_xet is installed,
    so that the hashes and time limits of this package apply.
    """

    def __init__(self, item: UploadFile, meter: _Meter) -> None:
        source = item.source
        raw: Any = io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(source)
        super().__init__(raw)
        self._item, self._meter = item, meter

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size and not data and self.tell() < self._item.size_bytes:
            # Otherwise the Hub would wait for the rest.
            raise IntegrityError(_changed(Path(str(self._item.source))))
        self._meter.add(len(data))
        client.moved()
        return data
