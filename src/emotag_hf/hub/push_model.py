"""`EmoTaGModel.push_to_hub` and `GaussianPrior.push_to_hub`: a model without a person, with a card. Not in the paper.

In: a model that is not an avatar. Out: one commit in a repository. Avatars are uploaded by `push_pipeline`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from .hub_transfer import Pushed, complete_repo_id, push_folder
from .repo_contents import check_repo_id, check_shareable, refuse_avatar, set_remote_code, write_model_card_and_license


def push_model(
    model,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    commit_message: str | None = None,
    remote_code: bool = False,
) -> Pushed:
    """Uploads a model that is not an avatar, or a prior, with a card.

    Args:
        model: an `EmoTaGModel` that is not an avatar, or a `GaussianPrior`.
        repo_id, private, token, commit_message: as `push_folder` takes them.
        remote_code: also a file for users without `import emotag_hf` (`trust_remote_code=True`).

    Raises:
        ValueError: part of it must not be uploaded, such as another head's data or a local speech encoder.
        HubError: as `push_folder`.
    """
    check_repo_id(repo_id)
    refuse_avatar(model)
    check_shareable(model)
    repo_id = complete_repo_id(repo_id, token)
    with TemporaryDirectory(prefix="emotag_push_") as place:
        folder = Path(place)
        model.save_pretrained(folder)
        write_model_card_and_license(model, folder, repo_id)
        set_remote_code(folder, remote_code)
        message = commit_message or "Upload model"
        return push_folder(folder, repo_id, private=private, token=token, message=message, prune=False)


__all__ = ["push_model"]
