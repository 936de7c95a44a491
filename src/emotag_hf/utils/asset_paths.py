"""Paths of the embedded models and assets. In: a name. Out: a path inside the installed package."""

from __future__ import annotations

import os
from pathlib import Path

from ..constants import DEFAULT_MODEL, DEFAULT_PRIOR, OPEN_MODEL

ASSETS = Path(__file__).parents[1] / "assets"


def asset_path(name: str) -> str:
    """The path of an embedded asset. Raises FileNotFoundError with the names of those that are embedded."""
    path = ASSETS / name
    if not path.exists():
        there = ", ".join(sorted(p.name for p in ASSETS.iterdir())) if ASSETS.is_dir() else "nothing"
        raise FileNotFoundError(f"{name!r} is not embedded in emotag_hf; there is {there}.")
    return str(path)


def default_model_path() -> str:
    """The folder of the default model, `emotag-base`."""
    return asset_path(DEFAULT_MODEL)


def model_path(name: str | os.PathLike | None) -> str:
    """The folder of a model: None is the default one, `"emotag-base"` and `"emotag-base-open"` are embedded.

    Any other name is returned unchanged: a folder, or a repository on the Hub. A local folder of an embedded name takes
    precedence.
    """
    if name is None:
        return default_model_path()
    name = os.fspath(name)
    return asset_path(name) if name in (DEFAULT_MODEL, OPEN_MODEL) and not os.path.isdir(name) else name


def default_prior_path() -> str:
    """The folder of the default Gaussian prior, from which an adaptation starts."""
    return asset_path(DEFAULT_PRIOR)


def sample_path() -> str:
    """A few seconds of synthetic speech for the demo."""
    return asset_path("sample.flac")
