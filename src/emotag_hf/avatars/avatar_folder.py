"""The avatar folder: a model folder with the person's consent, facts about the recording and the training, and metrics.

In: a pipeline and the facts of its adaptation. Out: one flat folder with the layout of a Hub repository, written
atomically; when read, `AvatarInfo`. Beside the model's own files (`EmoTaGPipeline.save_pretrained`) it holds

- consent.json: docs/consent.md;
- avatar.json: `format`, `format_version`, `package_version`, `base_model`, `source` (of the recording its hash, lengths
  and sizes: no name, no frame), `training`, `metrics` (held-out numbers, or null), `licenses` of head, motion network
  and Gaussian prior;
- README.md, and LICENSE.md if the licence is not Apache-2.0;
- preview.png, a rendering, and background.png, the background of the video: both optional.

There is no time stamp in it: the same adaptation writes the same files. (METHOD 5; the consent is not in the paper.)
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError

from ..constants import CONFIG_NAME, DEFAULT_MODEL, MODEL_INDEX_NAME, PROCESSOR_NAME, WEIGHTS_NAME
from ..hub.avatar_card import LICENSE_MD, render_card, render_license
from ..hub.repo_contents import PREVIEW_VIDEO, SHIM
from ..models.checkpoints import check_weights_file
from ..models.modeling_emotag import EmoTaGModel
from ..models.processing_emotag import EmoTaGProcessor
from ..rights.consent import CONSENT_JSON, Consent, parse_consent
from ..rights.provenance import package_version
from .avatar_facts import (
    PARTS,
    SOURCE,
    AvatarError,
    check_base_model,
    check_licenses,
    check_name,
    check_source,
    encode_picture,
    plain_facts,
)

FORMAT = "emotag-avatar"
FORMAT_VERSION = 1
AVATAR_JSON, CARD = "avatar.json", "README.md"
PREVIEW, BACKGROUND = "preview.png", "background.png"
MAX_WEIGHTS_BYTES = 12_000_000  # of all *.safetensors of an avatar, so that it downloads in seconds

# The files that make a model folder an avatar -> how many bytes of each are read at most.
AVATAR_FILES = {
    AVATAR_JSON: 1_000_000, CONSENT_JSON: 64_000, CARD: 1_000_000, LICENSE_MD: 1_000_000,
    PREVIEW: 32_000_000, BACKGROUND: 32_000_000,
}  # fmt: skip
_MODEL_FILES = (CONFIG_NAME, WEIGHTS_NAME, MODEL_INDEX_NAME, PROCESSOR_NAME)
# The last three are of avatars that come from the Hub.
_OURS = frozenset({*AVATAR_FILES, *_MODEL_FILES, PREVIEW_VIDEO, SHIM, ".gitattributes"})


class AvatarPipeline(Protocol):
    """The part of `EmoTaGPipeline` that this folder's files need; pipelines know avatars, not the other way round."""

    model: EmoTaGModel
    processor: EmoTaGProcessor

    @property
    def avatar_files(self) -> dict[str, bytes]: ...

    def set_avatar_files(self, files: dict[str, bytes]) -> None: ...

    def save_pretrained(self, save_directory: str | os.PathLike) -> None: ...

    def __call__(self, audio: Any, *, size: int) -> Any: ...


@dataclass(frozen=True)
class AvatarInfo:
    """The facts in an avatar's folder; see the first lines of this file.

    Args:
        consent: whose face it is, and what they agreed to.
        source: `sha256`, `frames_used`, `width`, `height`, `seconds`, `fps`, `tracker_version` of the recording.
        training: numbers of its adaptation.
        metrics: held-out numbers, or None.
        licenses: of `head`, `motion` and `gaussian_prior`.
        base_model: name of the model that was adapted.
        package_version: of the emotag_hf that wrote it.
    """

    consent: Consent
    source: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any] | None
    licenses: dict[str, str]
    base_model: str
    package_version: str


def make_avatar_files(
    pipeline: AvatarPipeline,
    *,
    consent: Consent,
    source: dict[str, Any],
    training: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    preview: np.ndarray | None = None,
    background: np.ndarray | None = None,
    licenses: dict[str, str] | None = None,
    base_model: str = DEFAULT_MODEL,
) -> dict[str, bytes]:
    """Name and content of every file of an avatar except the model's own; arguments as in `write_avatar`."""
    consent = consent.for_clip(check_source(source)["sha256"])
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": package_version(),
        "base_model": check_base_model(base_model),
        "source": {key: source[key] for key in SOURCE},
        "training": plain_facts("training", training or {}),
        "metrics": None if metrics is None else plain_facts("metrics", metrics),
        "licenses": check_licenses(pipeline.model, licenses or {}),
    }
    content = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    if len(content) > AVATAR_FILES[AVATAR_JSON]:
        raise AvatarError(f"metrics: {len(content):,} bytes of facts are too many; leave out what is given per frame.")
    files = {AVATAR_JSON: content, CONSENT_JSON: consent.to_json()}
    for name, picture in ((PREVIEW, preview), (BACKGROUND, background)):
        if picture is not None:
            files[name] = encode_picture(name.removesuffix(".png"), picture)
    files[CARD] = render_card(facts, consent, has_preview=PREVIEW in files).encode()
    if license_text := render_license(consent, facts["licenses"]):
        files[LICENSE_MD] = license_text.encode()
    return files


def write_avatar(
    pipeline: AvatarPipeline,
    folder: str | os.PathLike,
    *,
    consent: Consent,
    source: dict[str, Any],
    training: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    preview: np.ndarray | None = None,
    background: np.ndarray | None = None,
    licenses: dict[str, str] | None = None,
    base_model: str = DEFAULT_MODEL,
    overwrite: bool = False,
) -> AvatarInfo:
    """Writes an avatar's folder atomically.

    Args:
        pipeline: the adapted pipeline; its avatar files become those of the folder.
        folder: the folder to write. It must not exist, be empty or, with `overwrite`, be an avatar.
        consent: of the person, for the recording in `source`.
        source: of the recording, see `source_of_clip`.
        training, metrics: JSON values without paths; NumPy's numbers become Python's, NaN and infinity null. `metrics`
            are held-out numbers only.
        preview: a rendering (not a frame of the recording), `[H, W, 3]` uint8.
        background: what was behind the person, `[H, W, 3]` uint8.
        licenses: of `motion` and `gaussian_prior`, if it differs from the config's `weights_license`; of `head`, if its
            asset has none.
        base_model: Hub name of the model that was adapted.
        overwrite: replace an existing avatar.

    Raises:
        AvatarError: the folder holds something else, the weights are too large, or an argument is invalid.
        ConsentError: no consent for this recording.
    """
    target = _real(folder)
    check_avatar_folder(target, overwrite)
    files = make_avatar_files(
        pipeline,
        consent=consent,
        source=source,
        training=training,
        metrics=metrics,
        preview=preview,
        background=background,
        licenses=licenses,
        base_model=base_model,
    )
    pipeline.set_avatar_files(files)  # which `save_pretrained` writes
    new = target.with_name(f"{target.name}.new-{secrets.token_hex(4)}")
    try:
        new.mkdir(parents=True)
        pipeline.save_pretrained(new)
        _check_size(new)
        info = read_avatar_info(new)
        _settle(new)
        check_avatar_folder(target, overwrite)  # something may have come there in the meantime
        _swap(new, target)
    except (OSError, SafetensorError) as error:  # the latter is how a full disk looks to safetensors
        reason = getattr(error, "strerror", None) or error
        raise AvatarError(f"folder: {target} cannot be written ({reason}); choose another place.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return info


def check_avatar_folder(folder: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises AvatarError if no avatar can be written at `folder`. Call it before any work; it changes nothing."""
    target = _real(folder)
    try:
        exists = target.exists()
        parent = next(place for place in target.parents if place.exists())
        if exists and not target.is_dir():
            raise AvatarError(f"folder: expected a folder or nothing, but {target} is a file; choose another name.")
        there = sorted(entry.name for entry in target.iterdir()) if exists else []
    except OSError as error:
        raise AvatarError(f"folder: {target} cannot be used ({error.strerror}); choose another place.") from error
    if there and not is_avatar(target):
        raise AvatarError(f"folder: {target} holds {', '.join(there[:3])} and is no avatar; choose another folder.")
    if there and not overwrite:
        raise AvatarError(f"folder: there is an avatar in {target}; choose another folder, or overwrite=True.")
    if strangers := [name for name in there if name not in _OURS or not (target / name).is_file()]:
        raise AvatarError(
            f"folder: {target} holds {', '.join(strangers[:3])}, which does not belong to an avatar and would be lost; "
            "move it, or choose another folder."
        )
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise AvatarError(f"folder: nothing can be written in {parent}; choose another place.")


def is_avatar(folder: str | os.PathLike) -> bool:
    """Whether a folder has an avatar.json. Whether it is complete and valid, `read_avatar_info` checks."""
    try:
        return _read_facts(Path(folder)).get("format") == FORMAT
    except (AvatarError, OSError):
        return False


def read_avatar_info(folder: str | os.PathLike) -> AvatarInfo:
    """Reads and checks the facts in an avatar's folder; warns if the consent has expired.

    Raises:
        FileNotFoundError: there is no such folder.
        AvatarError: it is not an avatar, has a newer format, or is invalid.
        ConsentError: its consent.json is invalid.
        ValueError: its model is incomplete.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder: expected an avatar, but there is no folder {folder}.")
    check_links(folder)
    facts = _read_facts(folder)
    if facts.get("format") != FORMAT:
        raise AvatarError(f"folder: expected an avatar, but {folder / AVATAR_JSON} is not one's.")
    version = facts.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise AvatarError(f"folder: {folder / AVATAR_JSON} has no format_version; make the avatar again.")
    if version > FORMAT_VERSION:
        raise AvatarError(
            f"folder: {folder} has a newer avatar format than {FORMAT_VERSION}, the newest that this emotag_hf reads; "
            "update it: pip install -U emotag_hf"
        )
    try:
        source = check_source(facts["source"])
        info = {
            "source": source,
            "training": plain_facts("training", facts["training"]),
            "metrics": None if facts["metrics"] is None else plain_facts("metrics", facts["metrics"]),
            "licenses": {part: check_name(part, facts["licenses"][part]) for part in PARTS},
            "base_model": check_base_model(facts["base_model"]),
            "package_version": check_name("package_version", facts["package_version"]),
        }
    except (KeyError, TypeError, AvatarError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AvatarError(f"folder: {folder / AVATAR_JSON} is not an avatar's ({reason})") from None
    data = _read_file(folder, CONSENT_JSON)
    if data is None:
        raise AvatarError(f"folder: {folder} has no {CONSENT_JSON}; an avatar without consent is not used.")
    consent = parse_consent(data, str(folder / CONSENT_JSON))
    if consent.clip_sha256 != source["sha256"]:
        raise AvatarError(f"folder: the consent in {folder} is for another recording than the avatar; ask again.")
    check_weights_file(folder)
    consent.warn_if_expired()
    return AvatarInfo(consent=consent, **info)


def check_links(folder: Path) -> None:
    """Raises AvatarError if a link in an untrusted folder points outside it.

    In the Hub's cache every file is a link to `blobs` next to `snapshots`; these links are allowed.
    """
    own = Path(os.path.realpath(folder))
    inside = [own]
    blobs = own.parent.parent / "blobs"
    if own.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
        inside.append(blobs)
    for path in folder.iterdir():
        if path.is_symlink() and not any(Path(os.path.realpath(path)).is_relative_to(place) for place in inside):
            raise AvatarError(f"folder: {path} is a link out of the avatar's folder; put the file itself there.")


def read_avatar_files(folder: str | os.PathLike) -> dict[str, bytes]:
    """Name and content of the files of `AVATAR_FILES` in a folder; {} if it is not an avatar. Raises as
    `read_avatar_info` if it is an incomplete one."""
    folder = Path(folder)
    if not is_avatar(folder):
        return {}
    read_avatar_info(folder)
    found = {name: _read_file(folder, name) for name in AVATAR_FILES}
    return {name: content for name, content in found.items() if content is not None}


def _read_facts(folder: Path) -> dict[str, Any]:
    data = _read_file(folder, AVATAR_JSON)
    if data is None:
        raise AvatarError(f"folder: expected an avatar, but {folder} has no {AVATAR_JSON}; `emotag adapt` makes one.")
    try:
        facts = json.loads(data)
        if not isinstance(facts, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise AvatarError(f"folder: {folder / AVATAR_JSON} is not whole ({error}); copy it again.") from None
    return facts


def _read_file(folder: Path, name: str) -> bytes | None:
    path, limit = folder / name, AVATAR_FILES[name]
    if not path.is_file():
        return None
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise AvatarError(f"folder: {path} has more than {limit:,} bytes, too large for an avatar.")
    return content


def _check_size(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.glob("**/*.safetensors"))
    if size > MAX_WEIGHTS_BYTES:
        raise AvatarError(
            f"pipeline: expected at most {MAX_WEIGHTS_BYTES / 1e6:.0f} MB of safetensors, got {size / 1e6:.1f} MB; use "
            "fewer Gaussians or correctives, or store them in 16 bit."
        )


def _settle(folder: Path) -> None:
    """Gives every file the default permissions (safetensors makes files private) and syncs it to disk."""
    mode = (folder / AVATAR_JSON).stat().st_mode & 0o777
    for path in folder.iterdir():
        with suppress(PermissionError):  # drives without modes
            path.chmod(mode)
        with path.open("r+b") as file:
            os.fsync(file.fileno())


def _swap(new: Path, target: Path) -> None:
    """Renames `new` to `target`. An existing avatar is renamed first, and restored if that fails."""
    old = None
    if target.exists():
        old = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old is not None:
            os.rename(old, target)
        raise
    if old is not None:
        for name in _OURS:  # not rmtree: files that another process has added must stay
            (old / name).unlink(missing_ok=True)
        with suppress(OSError):
            old.rmdir()


def _real(folder: str | os.PathLike) -> Path:
    """The path of the avatar, with links resolved."""
    return Path(os.path.realpath(folder))


__all__ = [
    "AvatarError",
    "AvatarInfo",
    "AvatarPipeline",
    "check_avatar_folder",
    "is_avatar",
    "make_avatar_files",
    "read_avatar_files",
    "read_avatar_info",
    "write_avatar",
]
