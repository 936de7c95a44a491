"""`EmoTaGModel.push_to_hub` and `GaussianPrior.push_to_hub`: a mere model, with a card. Not in the paper.

In: a model that is nobody's avatar. Out: one commit in a repository. An avatar goes through `push_pipeline`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from .hub_transfer import Pushed, full_repo_id, push_folder
from .repo_contents import check_nobody, check_repo_id, check_shareable, settle_remote_code, write_model_papers


def push_model(
    model,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    commit_message: str | None = None,
    remote_code: bool = False,
) -> Pushed:
    """Uploads a mere model or prior with a card.

    Args:
        model: an `EmoTaGModel` that is nobody's avatar, or a `GaussianPrior`.
        repo_id, private, token, commit_message: as `push_folder` takes them.
        remote_code: also a file for users without `import emotag_hf` (`trust_remote_code=True`).

    Raises:
        ValueError: something of it may not leave this machine.
        HubError: as `push_folder`.
    """
    check_repo_id(repo_id)
    check_nobody(model)
    check_shareable(model)
    repo_id = full_repo_id(repo_id, token)
    with TemporaryDirectory(prefix="emotag_push_") as place:
        folder = Path(place)
        model.save_pretrained(folder)
        write_model_papers(model, folder, repo_id)
        settle_remote_code(folder, remote_code)
        message = commit_message or "Upload model"
        return push_folder(folder, repo_id, private=private, token=token, message=message, prune=False)


__all__ = ["push_model"]
