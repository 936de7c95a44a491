"""`push_avatar`: uploads an avatar's folder to the Hub (docs/sharing.md). Not in the paper.

In: a folder that `emotag adapt` wrote. Out: a repository, written by `push_pipeline` from what was read and checked.
"""

from __future__ import annotations

import os
from typing import Any

from ..avatars.avatar_folder import read_avatar_info
from ..avatars.push_pipeline import push_pipeline
from ..hub.hub_transfer import Pushed
from ..hub.repo_contents import PREVIEW_VIDEO, check_repo_id
from .pipeline_emotag import EmoTaGPipeline


def push_avatar(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    commit_message: str | None = None,
    remote_code: bool = False,
    progress: bool = True,
) -> Pushed:
    """Uploads the avatar in a folder to the Hub; a second push uploads only what changed.

    Args:
        folder: the avatar, as `emotag adapt` writes it.
        repo_id: `"user/name"`; created if it does not exist.
        private: whether a new repository is private. If the repository exists and is public, a private push is refused.
        token: with write permission; None for the user who is logged in (`hf auth login`, HF_TOKEN).
        commit_message: of the commit.
        remote_code: also a file for users without `import emotag_hf` (`trust_remote_code=True`).
        progress: show a progress bar for the preview video, on a terminal.

    Raises:
        FileNotFoundError: there is no such folder.
        ConsentError: the person did not agree to publication, or the consent has expired.
        AvatarError, ValueError: the folder is not a complete avatar, or part of it must not be uploaded, such as
            another head's data or a local speech encoder.
        HubError: a wrong token, no write permission or no connection; nothing was committed.
    """
    check_repo_id(repo_id)
    read_avatar_info(folder).consent.check_publication()
    pipeline = EmoTaGPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=None if progress else True, unit="frame", desc=PREVIEW_VIDEO)
    options: dict[str, Any] = dict(private=private, token=token, commit_message=commit_message, remote_code=remote_code)
    return push_pipeline(pipeline, repo_id, **options)


__all__ = ["push_avatar"]
