"""Upload to and download from the Hub: the only module that connects to it. Not in the paper.

In: a folder of files with known names, or a repository's name. Out: one commit, or a folder in the cache. Only files
named in `DOWNLOADED` are downloaded and only files named in `UPLOADED` are uploaded, pickles never. A failure is a
HubError of one sentence.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..constants import WEIGHTS_NAME
from .repo_contents import DOWNLOADED, MAX_BYTES, PICKLES, UPLOADED, check_repo_id, files_to_push

logger = logging.getLogger(__name__)

_TROUBLES = (HTTPError, OSError, RuntimeError, ValueError)  # all that huggingface_hub raises


class HubError(OSError):
    """The Hub refused, or could not be reached; the message says what is in the repository now and what to do."""


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Args:
        repo_id: `user/name`.
        url: of the repository.
        commit: the commit that holds what was pushed.
        private: whether the repository is.
        changed: False if the repository had the same files already, so that no commit was made.
        files: name -> size in bytes, of the files of `UPLOADED` in the repository now.
    """

    repo_id: str
    url: str
    commit: str
    private: bool
    changed: bool
    files: dict[str, int]


def complete_repo_id(repo_id: str, token: str | None = None) -> str:
    """`"user/name"` for `"name"`: a name alone is completed by the user whose token it is. Raises ValueError,
    HubError."""
    if "/" in check_repo_id(repo_id):
        return repo_id
    with _in_words(repo_id, "nothing was pushed"):
        return f"{HfApi(token=token).whoami()['name']}/{repo_id}"


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Upload",
    prune: bool = True,
) -> Pushed:
    """Uploads the files of a flat folder to a repository in one commit.

    Args:
        folder: holds files with names of `UPLOADED`, and nothing else.
        repo_id: `"user/name"`; created if it does not exist.
        private: of a new repository. If the repository exists and is public, a private push is refused.
        token: of the user; None for the one that is logged in.
        message: of the commit.
        prune: in the same commit, delete files of `UPLOADED` that the repository has and the folder lacks. Files of
            other names are never touched.

    Raises:
        ValueError: the name is invalid, or the folder holds other files or too many bytes.
        HubError: a wrong token, no write permission or no connection; nothing was committed.
    """
    check_repo_id(repo_id)
    files = files_to_push(Path(folder))
    api = HfApi(token=token, library_name="emotag_hf")
    with _in_words(repo_id, f"{repo_id} is as it was, nothing was committed"):
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        repo_id = url.repo_id
        before = api.model_info(repo_id, files_metadata=True)
        if private and before.private is False:
            raise HubError(
                f"private: {repo_id} is there and is public; choose another name, make it private on its settings "
                "page, or push to a public repository (--public, private=False). Nothing was pushed."
            )
        if not private and before.private:
            logger.warning("%s is there and is private, and stays so; its settings page makes it public.", repo_id)
        operations: list = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        there = {sibling.rfilename for sibling in before.siblings or ()} if prune else set()
        operations += [CommitOperationDelete(name) for name in UPLOADED if name in there and name not in files]
        commit = api.create_commit(repo_id, operations, commit_message=message)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return Pushed(repo_id, str(url), commit.oid, bool(before.private), commit.oid != before.sha, sizes)


def fetch(
    repo_id: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> str:
    """The local folder of a repository, downloaded if it is not in the cache. A local folder is returned unchanged.

    Args:
        repo_id: a folder, or `"user/name"`.
        revision, token, cache_dir, local_files_only, force_download: as in huggingface_hub.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be reached.
        ValueError: the repository has no safetensors weights, or is larger than `MAX_BYTES`.
    """
    name = os.fspath(repo_id)
    if os.path.isdir(name):
        return name
    api = HfApi(token=token, library_name="emotag_hf")
    options = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
    try:
        validate_repo_id(name)
        if not local_files_only:
            local_files_only = not _is_safe(api, name, revision)
        return api.snapshot_download(
            name, allow_patterns=list(DOWNLOADED), local_files_only=local_files_only, **options
        )
    except RefusedRepository:
        raise
    except _TROUBLES as error:
        raise FileNotFoundError(
            f"model: expected a folder or a repository 'user/name' on the Hub; there is no folder {name!r}, and the "
            f"Hub says: {_reason(error, name)}"
        ) from error


class RefusedRepository(ValueError):
    """A repository that is not downloaded: it has no safetensors weights, or is too large."""


def _is_safe(api: HfApi, name: str, revision: str | None) -> bool:
    """Checks a repository's file list before any download; False if the Hub cannot be reached, so that only the cache
    is used. Raises RefusedRepository."""
    try:
        info = api.model_info(name, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except OfflineModeIsEnabled:
        return False
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return False
    except HTTPError:  # no connection
        return False
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    pickles = sorted(file for file in sizes if file.lower().endswith(PICKLES))
    if WEIGHTS_NAME not in sizes:
        hint = f" (it has {ascii(pickles[0])[:80]}, but pickled weights are never loaded)" if pickles else ""
        raise RefusedRepository(f"model: the repository {name} has no {WEIGHTS_NAME}{hint}; nothing was downloaded.")
    if pickles:
        logger.warning("%s also holds %s: pickles can run anything, it was not downloaded.", name, ascii(pickles[0]))
    total = sum(size for file, size in sizes.items() if file in DOWNLOADED)
    if total > MAX_BYTES:
        raise RefusedRepository(
            f"model: the repository {name} has {total / 1e9:.1f} GB, more than the {MAX_BYTES / 1e9:.0f} GB that is "
            "downloaded at most; nothing was downloaded."
        )
    return True


@contextmanager
def _in_words(repo_id: str, state: str) -> Iterator[None]:
    """Turns what huggingface_hub raises in the block into a `HubError` of one sentence."""
    try:
        yield
    except HubError:
        raise
    except _TROUBLES as error:
        raise HubError(f"{_reason(error, repo_id)} ({state}.)") from error


def _reason(error: BaseException, repo_id: str) -> str:
    """Why it failed and what to do. A server's message is shortened and its control characters are escaped."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading" hides the cause
        error = error.__cause__
    endpoint = HfApi().endpoint
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError):
        return "token: the Hub wants to know who you are; run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page, then come back with your token."
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"token: {endpoint} does not take this token; `hf auth login` stores a new one with the right to write."
    if status == 403:
        return f"token: this token may not write to {repo_id}; it needs the right to write there."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision."
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository {repo_id}, or it is private and this token may not see it."
    if status is not None and status >= 500:
        return f"{endpoint} has trouble of its own (error {status}); try again later."
    text = ascii(" ".join(str(error).split())[:200])[1:-1] or type(error).__name__
    if status is None and isinstance(error, HTTPError):
        return f"the connection to {endpoint} broke ({text}); try again."
    return text


__all__ = ["HubError", "Pushed", "fetch", "complete_repo_id", "push_folder"]
