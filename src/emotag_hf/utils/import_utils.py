"""Optional packages: whether one is installed, and if not, an error with the command that installs it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType


def is_available(package: str) -> bool:
    """Whether `package` (the name one imports) is installed; it is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a missing parent package; a module without a spec
        return False


def require_package(package: str, *, extra: str | None = None, install: str | None = None) -> ModuleType:
    """Imports an optional package.

    Args:
        package: the name one imports, for instance `"gsplat"`.
        extra: the extra of `emotag_hf` that installs it.
        install: the full command instead, for a package that no extra can install (MediaPipe).

    Raises:
        ImportError: it is not installed (the message has the command that installs it), or its own import fails.
    """
    if not is_available(package):
        if install is None:
            install = f'pip install "emotag_hf[{extra}]"' if extra else f"pip install {package}"
        raise ImportError(f"{package} is needed for this and is not installed; install it with: {install}")
    return importlib.import_module(package)


__all__ = ["is_available", "require_package"]
