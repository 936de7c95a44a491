"""The facts in avatar.json, checked when they are written and when they are read. Not in the paper.

In: facts about a recording, a training, measurements, licences, pictures: our own, or from an untrusted folder. Out:
the same as JSON values and PNG, without names and paths of this machine; or an AvatarError.
"""

from __future__ import annotations

import io
import math
import numbers
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..constants import DEFAULT_MODEL
from ..hub.avatar_card import is_open_license
from ..rights.consent import check_printable, is_sha256

if TYPE_CHECKING:
    from ..models.modeling_emotag import EmoTaGModel

PARTS = ("head", "motion", "gaussian_prior")  # the parts with a licence of their own
SOURCE = {  # key -> what it has to be; the last three may be unknown
    "sha256": "a SHA-256 as 64 digits 0-9 a-f",
    "frames_used": "a whole number from 1 on",
    "width": "a whole number from 1 on",
    "height": "a whole number from 1 on",
    "seconds": "a number above 0 or None",
    "fps": "a number above 0 or None",
    "tracker_version": "a whole number from 1 on or None",
}
_MAX_SIDE = 4096  # pixels of a picture
_MAX_DEPTH = 4  # of nested facts
_A_PATH = re.compile(r"(^|[\s\"'(=,])(~?/\w|\\\\|[A-Za-z]:[\\/]|file:)")  # of a machine


class AvatarError(ValueError):
    """The folder is not an avatar, or no avatar can be written there; the message says what is wrong and what to do."""


def source_of_clip(clip_info: dict[str, Any], frames_used: int) -> dict[str, Any]:
    """The facts about an avatar's recording, taken from a processed clip's clip.json, without names and paths.

    Args:
        clip_info: `ProcessedClip.info`.
        frames_used: how many frames were trained on.
    """
    about = clip_info["source"]
    size = {name: about.get(name) or clip_info["crop"][name] for name in ("width", "height")}
    tracker = clip_info.get("request", {}).get("tracker")
    return check_source(
        {
            "sha256": about["sha256"],
            "frames_used": frames_used,
            **size,
            "seconds": about.get("seconds"),
            "fps": about.get("fps"),
            "tracker_version": tracker,
        }
    )


def check_source(source: dict[str, Any]) -> dict[str, Any]:
    """Returns `source` if it has exactly the keys of `SOURCE`. Raises AvatarError."""
    if not isinstance(source, dict) or set(source) != set(SOURCE):
        found = ", ".join(sorted(map(str, source))) if isinstance(source, dict) else type(source).__name__
        raise AvatarError(f"source: expected {', '.join(SOURCE)} and nothing else, got {found[:200]}.")
    for key, expected in SOURCE.items():
        value = source[key]
        if key == "sha256":
            good = is_sha256(value)
        elif value is None:
            good = expected.endswith("None")
        else:
            whole = isinstance(value, int) or not expected.startswith("a whole")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            good = number and whole and 0 < value < 1e9  # NaN is not
        if not good:
            raise AvatarError(f"source.{key}: expected {expected}, got {ascii(value)[:80]}.")
    return source


def check_licenses(model: EmoTaGModel, given: dict[str, str]) -> dict[str, str]:
    """The licences of `PARTS`: those in `given`, else those in the config and in the head's asset.

    Raises:
        AvatarError: a part is unknown; or the weights would have a stricter licence than in their config.
    """
    if unknown := sorted(set(given) - set(PARTS)):
        raise AvatarError(f"licenses: unknown {', '.join(unknown)}; expected {', '.join(PARTS)}.")
    own = model.config.weights_license
    licenses = {"head": model.head.license, "motion": own, "gaussian_prior": own} | given
    for part, name in licenses.items():
        check_name(f"licenses.{part}", name)
        if part != "head" and is_open_license(own) and not is_open_license(name):  # the weights hold no head
            raise AvatarError(
                f"licenses.{part}: the weights are under {name}, but config.weights_license says {own}; "
                f"set model.config.weights_license to {name!r}."
            )
    return licenses


def check_base_model(name: str) -> str:
    """Returns `name` if it could be a name on the Hub. Raises AvatarError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise AvatarError(
            f"base_model: expected a name as on the Hub, such as {DEFAULT_MODEL!r} or 'user/name', got "
            f"{ascii(name)[:80]}; a path is of no use to others."
        ) from error
    return name


def check_name(what: str, name: Any) -> str:
    """Returns `name` if it is a short text. Raises AvatarError, naming `what`."""
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable():
        raise AvatarError(f"{what}: expected a short text, got {ascii(name)[:80]}.")
    return name


def plain_facts(what: str, value: Any, depth: int = 0) -> Any:
    """Facts as JSON values: NumPy's and torch's numbers become Python's; NaN and infinity become None, JSON has no such
    numbers, and an undefined correlation must not cost a finished avatar. Raises AvatarError, naming `what`."""
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        for key in value:
            if not isinstance(key, str) or len(key) > 100 or not key.isprintable():
                raise AvatarError(f"{what}: expected short texts as keys, got {ascii(key)[:80]}.")
        return {key: plain_facts(f"{what}.{key}", item, depth + 1) for key, item in value.items()}
    is_list = isinstance(value, (list, tuple, range)) or (isinstance(value, np.ndarray) and value.ndim)
    if is_list and 0 < depth < _MAX_DEPTH:
        return [plain_facts(what, item, depth + 1) for item in value]
    if depth and not isinstance(value, (str, bool)) and value is not None:
        with suppress(AttributeError, ValueError, RuntimeError, TypeError):
            value = value.item()  # 0-dimensional arrays and tensors, NumPy's numbers
    if depth and (value is None or isinstance(value, (bool, int))):
        return value
    if depth and isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if depth and isinstance(value, str) and len(value) <= 2000:
        if _A_PATH.search(value) or check_printable(value):
            raise AvatarError(f"{what}: expected plain text and no path, got {ascii(value)[:80]}; leave it out.")
        return value
    expected = f"numbers, texts, lists and dicts, at most {_MAX_DEPTH} deep" if depth else "a dict"
    raise AvatarError(f"{what}: expected {expected}, got a {type(value).__name__}.")


def encode_picture(argument: str, picture: np.ndarray) -> bytes:
    """The PNG of a picture `[H, W, 3]` uint8. Raises AvatarError, naming `argument`."""
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise AvatarError(f"{argument}: expected uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}.")
    if max(picture.shape) > _MAX_SIDE:
        raise AvatarError(f"{argument}: expected at most {_MAX_SIDE} pixels a side, got {list(picture.shape)}.")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


def decode_picture(content: bytes, name: str) -> np.ndarray:
    """A picture out of `read_avatar_files`: `[H, W, 3]` uint8.

    Raises:
        AvatarError: it is no PNG, is damaged, or has a side of more than 4096 pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if max(image.size) > _MAX_SIDE:  # known from the header: nothing is unpacked before
                raise ValueError(f"{image.width} x {image.height} pixels")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AvatarError(f"{name}: expected a PNG of at most {_MAX_SIDE} pixels a side ({error}).") from None


__all__ = ["AvatarError", "decode_picture", "source_of_clip"]
