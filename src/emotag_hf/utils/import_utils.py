"""Optional packages: is one there, and if not, the line that installs it. Imports nothing of them."""

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
        extra: the extra of `emotag_hf` that brings it.
        install: the whole command instead, for a package that no extra can bring (MediaPipe).

    Raises:
        ImportError: it is not installed, with the line that installs it; or it is broken, with its own message.
    """
    if not is_available(package):
        if install is None:
            install = f'pip install "emotag_hf[{extra}]"' if extra else f"pip install {package}"
        raise ImportError(f"{package} is needed for this and is not installed; install it with: {install}")
    return importlib.import_module(package)


__all__ = ["is_available", "require_package"]
