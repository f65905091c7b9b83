"""Turn errors of the Hub and the network into messages that say what to do.

The libraries' own texts are not passed on: they are long, and some hold signed addresses.
"""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from exporter.errors import ExporterError, HubError, IntegrityError

_OVERLOADED = 429
_MOVED = 412
_MAX_SAID = 200
_SECONDS, _RESET = re.compile(r"(\d{1,9})"), re.compile(r";\s*r=0;\s*t=(\d{1,9})")
# The query of a signed address, which grants access to whoever knows it.
_QUERY = re.compile(r"(?<=\?)[^\s'\"<>()]*=[^\s'\"<>()]*")


class Silence(ConnectionError):
    """The Hub left several requests without an answer."""


class Interrupted(ConnectionError):
    """A connection that was refused, cut, or late; the cause is the HTTP client's own error.

    Not one of the client's own errors, because the library repeats requests that raise those.
    """


class Mislabelled(ConnectionError):
    """A reply that names other bytes or another commit than the Hub's list of files."""


def explained(
    error: BaseException, repo: str, revision: str, repo_type: str = "model"
) -> ExporterError:
    """Turn an error of huggingface_hub into one of ours.

    Args:
        error: The error of the library or of `with_retries`.
        repo: `ORG/NAME`.
        revision: The requested branch, tag or commit.
        repo_type: `model` or `dataset`.

    Returns:
        The error to raise.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    root = root_of(error)
    status = status_of(root)
    if isinstance(root, Mislabelled):
        msg = f"{repo}: {root}.\nNothing was written. Is {endpoint()} a true Hub?"
        return IntegrityError(msg)
    if isinstance(root, RevisionNotFoundError):
        known = _revisions(repo, repo_type)
        msg = f"{repo} has no revision {revision!r}.\nGive a commit, or one of: {known}"
        return HubError(msg)
    if status is None:
        return HubError(_unreached(root, repo, revision, repo_type))
    return HubError(_answered(root, status, repo, repo_type))


def unpushed(error: BaseException, repo: str) -> HubError:
    """Turn an error of a push to `repo` into one of ours, and return it.

    A push is one commit, so that an interrupted one changes nothing that readers see.
    """
    status = status_of(error)
    if isinstance(error, Silence):
        return HubError(_silent(error))
    if status is None:
        what = f"the Hub at {endpoint()} cannot be reached, or breaks off ({kind_of(error)})"
        return HubError(f"{what}.\nPush again: uploaded files are not sent again.")
    if status in (403, 404):
        return HubError(
            f"the Hub does not let this token write to {repo}{_said(error)}.\n"
            "Check the name, and use a token with write access: `hf auth login`, or HF_TOKEN."
        )
    if status == _MOVED:
        return HubError(f"others keep changing {repo}.\nPush again later.")
    return HubError(_answered(error, status, repo))


def no_hub(what: str, error: BaseException) -> HubError:
    """Return the error for a reply that the library cannot read: it is not the Hub's."""
    msg = (
        f"{what}: the reply from {endpoint()} is not what a Hub answers ({kind_of(error)}).\n"
        "Check HF_ENDPOINT and the network (a proxy?), or try again later."
    )
    return HubError(msg)


def root_of_upload(error: BaseException) -> BaseException:
    """Return the cause of the library's "Error while uploading"."""
    return (error.__cause__ if isinstance(error, RuntimeError) else None) or error


def root_of(error: BaseException) -> BaseException:
    """Return the cause of the library's "not in the cache, and the Hub did not answer"."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    behind = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return behind or error


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the Hub's answer; None if there was no answer."""
    response: Any = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def wanted_pause_s(answer: Any) -> int:
    """Return the seconds that a reply asks to wait before the next request; 0 if it asks for none.

    The Hub tells them as `Retry-After`, or in `RateLimit: "api";r=0;t=SECONDS`.
    """
    if answer is None or answer.status_code < 400:
        return 0
    after = _SECONDS.fullmatch(answer.headers.get("Retry-After", "").strip())
    reset = _RESET.search(answer.headers.get("RateLimit", ""))
    return max(int(found[1]) if found else 0 for found in (after, reset))


def kind_of(error: BaseException) -> str:
    """Return the name of an error's class; of an `Interrupted`, its cause's."""
    return type((isinstance(error, Interrupted) and error.__cause__) or error).__name__


def interrupted(error: BaseException) -> bool:
    """Return True if a transfer was cut without an answer of the Hub, so that it can continue."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    permanent = isinstance(error, (Silence, Mislabelled, HFValidationError, OfflineModeIsEnabled))
    return not permanent and status_of(error) is None


def unavailable(error: BaseException) -> bool:
    """Return True if the Hub could not be reached or failed, so that a cached copy may be used."""
    from huggingface_hub.errors import HFValidationError

    root = root_of(error)
    status = status_of(root)
    if status is None:
        return not isinstance(root, HFValidationError)
    return status >= 500 or status == _OVERLOADED


def _answered(error: BaseException, status: int, repo: str, repo_type: str = "model") -> str:
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        place = f"datasets/{repo}" if repo_type == "dataset" else repo
        return (
            f"{repo} is gated: its authors want their terms accepted first.\n"
            f"Accept them at {endpoint()}/{place}, then run `hf auth login` or set HF_TOKEN."
        )
    if status == 401 and get_token():
        return (
            f"the Hub refuses the token{_said(error)}: it is wrong or has expired.\n"
            "Run `hf auth login` again, or set HF_TOKEN to a new one (or unset it)."
        )
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub has no {repo_type} {repo}, or it is private and not yours to read.\n"
            "Check the id; for a private one run `hf auth login`, or set HF_TOKEN."
        )
    if status == 403:
        return (
            f"the Hub forbids reading {repo}{_said(error)}.\n"
            "Use a token with read access to it: `hf auth login`, or HF_TOKEN."
        )
    pause = wanted_pause_s(getattr(error, "response", None))
    if status == _OVERLOADED:
        return (
            "the Hub wants fewer requests (HTTP 429).\n"
            f"Wait {f'{pause} s' if pause else 'some minutes'}; logged in (`hf auth login`, or "
            "HF_TOKEN) the limit is higher."
        )
    if status >= 500:
        later = f"in {pause} s, as it asks" if pause else "later"
        return f"the Hub fails (HTTP {status}) on {repo}.\nTry again {later}."
    return f"the Hub refuses {repo} (HTTP {status}{_said(error)}).\nCheck the id and the token."


def unsigned(text: str) -> str:
    """Return a text without the queries of the addresses in it, which may be keys."""
    return _QUERY.sub("...", text)


def endpoint() -> str:
    """Return the Hub's address without the user name and password that it may hold."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))


def _silent(error: Silence) -> str:
    return (
        f"the Hub at {endpoint()} does not answer ({error}).\n"
        "Run this again later, or wait longer with EXPORTER_HUB_TIMEOUT=SECONDS."
    )


def _unreached(error: BaseException, repo: str, revision: str, repo_type: str) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    local = "local clips" if repo_type == "dataset" else "a local folder"
    if isinstance(error, Silence):
        return _silent(error)
    if isinstance(error, HFValidationError):
        return f"{repo} is not a Hub id.\nGive one like ORG/NAME, or {local}."
    wanted = f"{repo} at {revision} is not wholly in the cache {constants.HF_HUB_CACHE}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, and {wanted}.\nUnset it, or give {local}."
    return (
        f"the Hub at {endpoint()} cannot be reached ({kind_of(error)}), and {wanted}."
        f"\nCheck the network (and proxy), or give {local}."
    )


def _revisions(repo: str, repo_type: str) -> str:
    """Return up to twelve branches and tags in one line; "main" if they cannot be listed."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo, repo_type=repo_type)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # the reply is unchecked
        return "main"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")


def _said(error: BaseException) -> str:
    """Return the Hub's own reason in parentheses; empty if it gave none."""
    lines = (getattr(error, "server_message", None) or "").splitlines()
    return f" ({lines[0][:_MAX_SAID].rstrip('.')})" if lines else ""
