"""Uploads a pipeline to the Hub, an avatar with its consent (docs/sharing.md). Not in the paper.

In: a pipeline. Out: one flat repository: what `save_pretrained` writes, preview.mp4 (the avatar speaks the package's
synthetic sample, marked as AI-generated), a card rendered from the facts, and the consent. No file is uploaded
unchanged from a folder: all are read, checked and written again.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from ..hub.avatar_card import LICENSE_MD, render_card, render_license
from ..hub.hub_transfer import Pushed, complete_repo_id, push_folder
from ..hub.repo_contents import (
    PREVIEW_VIDEO,
    check_repo_id,
    check_shareable,
    refuse_avatar,
    set_remote_code,
    write_model_card_and_license,
)
from ..rights.consent import CONSENT_JSON, parse_consent
from ..utils.asset_paths import sample_path
from .avatar_facts import decode_picture
from .avatar_folder import AVATAR_JSON, BACKGROUND, CARD, PREVIEW, AvatarPipeline

PREVIEW_SIZE = 512  # pixels


def push_pipeline(
    pipeline: AvatarPipeline,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    commit_message: str | None = None,
    remote_code: bool = False,
) -> Pushed:
    """Uploads a pipeline to the Hub, an avatar with its consent.

    Args:
        pipeline: `EmoTaGPipeline`.
        repo_id, private, token, commit_message, remote_code: as `push_avatar` takes them.

    Raises:
        ConsentError: the person did not agree to publication, or the consent has expired.
        ValueError: part of it must not be uploaded, such as another head's data or a local speech encoder.
        HubError: a wrong token, no write permission or no connection; nothing was committed.
    """
    check_repo_id(repo_id)
    files = pipeline.avatar_files
    if files:
        parse_consent(files[CONSENT_JSON]).check_publication()
    else:
        refuse_avatar(pipeline.model)
    check_shareable(pipeline.model, pipeline.processor)
    repo_id = complete_repo_id(repo_id, token)
    with TemporaryDirectory(prefix="emotag_push_") as place:
        folder = Path(place)
        pipeline.save_pretrained(folder)
        _write_papers(pipeline, folder, repo_id)
        set_remote_code(folder, remote_code)
        pipeline(sample_path(), size=PREVIEW_SIZE).save(folder / PREVIEW_VIDEO)
        message = commit_message or ("Upload avatar" if files else "Upload model")
        return push_folder(folder, repo_id, private=private, token=token, message=message)


def _write_papers(pipeline: AvatarPipeline, folder: Path, repo_id: str) -> None:
    """Writes README.md and LICENSE.md from the facts, not from files of an untrusted folder."""
    files = pipeline.avatar_files
    if not files:
        write_model_card_and_license(pipeline.model, folder, repo_id, whole=True)
        return
    facts, consent = json.loads(files[AVATAR_JSON]), parse_consent(files[CONSENT_JSON])
    for name in (PREVIEW, BACKGROUND):
        if name in files:
            decode_picture(files[name], name)  # is a picture, and no file that only has its name
    card = render_card(facts, consent, has_preview=PREVIEW in files, has_video=True, repo_id=repo_id)
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / LICENSE_MD).unlink(missing_ok=True)
    if text := render_license(consent, facts["licenses"]):
        (folder / LICENSE_MD).write_text(text, encoding="utf-8")


__all__ = ["push_pipeline"]
