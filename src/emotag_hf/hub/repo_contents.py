"""What may be uploaded to a repository, checked before any upload. Not in the paper.

In: a model, or a folder of files for `hub_transfer`. Out: nothing, or a ValueError. Only files named in `DOWNLOADED`
are downloaded and only files named in `UPLOADED` are uploaded, pickles never. Never uploaded are the data of any head
but the package's own (FLAME is licensed to each user), speech encoders (referenced by id and revision), and avatars
without the person's consent.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..constants import CONFIG_NAME, MODEL_INDEX_NAME, OPEN_HEAD, PROCESSOR_NAME, WEIGHTS_NAME
from ..rights.consent import CONSENT_JSON
from ..utils.asset_paths import ASSETS, asset_path
from .avatar_card import LICENSE_MD
from .model_card import render_model_card, render_model_license

CARD = "README.md"
PREVIEW_VIDEO = "preview.mp4"
SHIM = "modeling_emotag_shim.py"
DOWNLOADED = (
    CONFIG_NAME, WEIGHTS_NAME, MODEL_INDEX_NAME, PROCESSOR_NAME, CONSENT_JSON, "avatar.json", "README.md", "LICENSE.md",
    "preview.png", "background.png",
)  # fmt: skip
UPLOADED = (*DOWNLOADED, PREVIEW_VIDEO, SHIM)
MAX_BYTES = 1_000_000_000  # of all files of a repository in one transfer; an avatar has seven million
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".joblib")
_REMOTE_CODE = '''"""Loads this model through the package emotag_hf; that is all it does."""

try:
    from emotag_hf import EmoTaGConfig, EmoTaGModel, EmoTaGProcessor
except ImportError as error:
    raise ImportError(
        "this model needs the package emotag_hf; its page says how to install it, then: pip install emotag_hf"
    ) from error

__all__ = ["EmoTaGConfig", "EmoTaGModel", "EmoTaGProcessor"]
'''
_AUTO_MAP = {
    CONFIG_NAME: {"AutoConfig": "EmoTaGConfig", "AutoModel": "EmoTaGModel"},
    PROCESSOR_NAME: {"AutoProcessor": "EmoTaGProcessor"},
}


def write_model_card_and_license(model, folder: Path, repo_id: str, *, whole: bool = False) -> None:
    """Writes README.md and LICENSE.md of a model that is not an avatar."""
    (folder / CARD).write_text(render_model_card(model, repo_id, whole=whole), encoding="utf-8")
    if text := render_model_license(model.config.weights_license):
        (folder / LICENSE_MD).write_text(text, encoding="utf-8")


def check_repo_id(repo_id: str) -> str:
    """Returns `repo_id` if it is a valid `"name"` or `"user/name"` of the Hub (a path is not). Raises ValueError."""
    try:
        validate_repo_id(repo_id)
        if repo_id:
            return repo_id
    except HFValidationError:
        pass
    raise ValueError(
        f"repo_id: expected a name on the Hub such as 'user/name' (letters, digits, '-', '_', '.'), got "
        f"{ascii(repo_id)[:120]}."
    )


def files_to_push(folder: Path) -> dict[str, Path]:
    """Name and path of every file in a folder to upload. Raises ValueError for a file that must not be uploaded."""
    files = {path.name: path for path in sorted(folder.iterdir())}
    for name, path in files.items():
        if name not in UPLOADED or path.is_symlink() or not path.is_file():
            raise ValueError(f"folder: expected plain files named {', '.join(UPLOADED)}, got {ascii(name)[:80]}.")
    total = sum(path.stat().st_size for path in files.values())
    if total > MAX_BYTES:
        raise ValueError(f"folder: expected at most {MAX_BYTES / 1e9:.0f} GB to push, got {total / 1e9:.1f} GB.")
    return files


def refuse_avatar(model) -> None:
    """Raises ValueError if a model is a person's avatar: it is uploaded with consent and card only."""
    camera = getattr(model.config, "camera", None) or {}
    if getattr(model, "is_avatar", False) or "K" in camera:  # only a person's model has the camera of their clip
        raise ValueError(
            "model: it is a person's avatar, which is uploaded together with its consent and card or not at all: "
            "`emotag push FOLDER user/name`, "
            "or EmoTaGPipeline.from_pretrained(FOLDER).push_to_hub('user/name')."
        )


def refuse_push(save_options: dict) -> None:
    """Raises ValueError for `save_pretrained(push_to_hub=True)`, which would bypass the checks of this module."""
    if save_options.pop("push_to_hub", False):
        raise ValueError("push_to_hub: expected nothing here; save first, then call push_to_hub('user/name').")


def check_shareable(model, processor=None) -> None:
    """Raises ValueError for a head or an ear other than an embedded one, and for a speech encoder that is not on the
    Hub."""
    head = getattr(model, "head", None)
    if head is not None:
        own = hashlib.sha256(Path(asset_path(OPEN_HEAD)).read_bytes()).hexdigest()
        if model.config.head_config.asset != "open_head" or head.sha256 != own:
            raise ValueError(
                f"model: it uses the head {model.config.head_config.asset!r} ({ascii(head.license)[1:80]}), not the "
                "open head of the package; data of such a head, and models made with it, must not be uploaded. Adapt "
                "on the open head to share an avatar."
            )
    ear = getattr(getattr(model.config, "motion_config", None), "audio_encoder", None)
    if ear is not None and not (ASSETS / f"{ear}.safetensors").is_file():
        raise ValueError(
            f"audio_encoder: expected an ear of the package, such as 'ear-base', got {ear!r}; others cannot find it, "
            "and a copy is not pushed."
        )
    extractor = getattr(processor, "feature_extractor", None)
    for holder in (getattr(model.config, "motion_config", None), extractor):
        _check_encoder(getattr(holder, "audio_model", None), getattr(holder, "audio_revision", None))


def _check_encoder(name: str | None, revision: str | None) -> None:
    if name is None:
        return
    if Path(name).is_dir():
        raise ValueError(
            f"audio_model: expected a speech encoder's name on the Hub, got the folder {name!r}; others cannot find "
            "it, and a copy is not pushed."
        )
    check_repo_id(name)
    if not revision:
        raise ValueError(
            f"audio_revision: expected the commit of {name} that the network was trained with, got nothing; "
            "`motion_config.audio_revision` and the processor's say it."
        )


def set_remote_code(folder: Path, wanted: bool) -> None:
    """Writes the remote-code file and refers to it in the JSON files, or removes such references."""
    for name, classes in _AUTO_MAP.items():
        path = folder / name
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("auto_map", None)
        if wanted:
            content["auto_map"] = {auto: f"{SHIM.removesuffix('.py')}.{own}" for auto, own in classes.items()}
        path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    if wanted:
        (folder / SHIM).write_text(_REMOTE_CODE, encoding="utf-8")


__all__ = [
    "DOWNLOADED", "PREVIEW_VIDEO", "SHIM", "UPLOADED", "refuse_avatar", "check_repo_id", "check_shareable",
    "files_to_push", "refuse_push", "set_remote_code", "write_model_card_and_license",
]  # fmt: skip
