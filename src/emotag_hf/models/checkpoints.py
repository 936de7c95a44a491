"""Checks that a checkpoint is a complete safetensors file that matches its config.

In: a folder, or transformers' loading report. Out: nothing, or a ValueError of one sentence.
"""

from __future__ import annotations

import os

from safetensors import SafetensorError, safe_open

from ..constants import CONFIG_NAME, WEIGHTS_NAME

# First bytes of pickles (protocols 2 to 5) and of zip files, torch's pickle container.
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def check_weights_file(folder: str | os.PathLike) -> None:
    """Raises ValueError unless `folder` has a config and a readable `model.safetensors`."""
    folder = os.fspath(folder)
    path = os.path.join(folder, WEIGHTS_NAME)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not os.path.isfile(os.path.join(folder, name)):
            others = sorted(n for n in os.listdir(folder) if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
            hint = f" (found {others[0]}, but pickled weights are never loaded; convert them first)" if others else ""
            raise ValueError(
                f"model: expected {CONFIG_NAME} and {WEIGHTS_NAME} in {folder!r}, {name} is missing{hint}."
            )
    check_safetensors(path, "model")


def check_safetensors(path: str | os.PathLike, argument: str) -> None:
    """Raises ValueError naming `argument` unless `path` is a complete safetensors file."""
    with open(path, "rb") as file:
        if file.read(4).startswith(_PICKLE_STARTS):
            raise ValueError(
                f"{argument}: expected safetensors, but {os.fspath(path)!r} is a pickle, which is never loaded."
            )
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{argument}: {os.fspath(path)!r} is not a whole safetensors file ({error}); download or save it again."
        ) from None


def check_loading(path, info: dict) -> None:
    """Raises ValueError if transformers found missing, unexpected or mismatched keys in the checkpoint at `path`."""
    problems = []
    for kind, label in (("missing_keys", "missing"), ("unexpected_keys", "unexpected")):
        if keys := sorted(info.get(kind) or ()):
            problems.append(f"{label} {_some(keys)}")
    if mismatched := info.get("mismatched_keys"):
        problems.append(f"of another shape {_some(sorted(m[0] for m in mismatched))}")
    if problems:
        raise ValueError(f"model: the checkpoint {str(path)!r} does not match its config: {'; '.join(problems)}.")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
