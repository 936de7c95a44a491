"""The error for a file that cannot be converted: one sentence, no traceback."""

from __future__ import annotations

from collections.abc import Collection


class ConversionError(ValueError):
    """A file that cannot be converted; the message says why."""


def check_keys(found: Collection[str], required: Collection[str], optional: Collection[str], what: str) -> None:
    """Raises ConversionError unless `found` holds every required key and nothing beyond the optional ones."""
    missing = sorted(set(required) - set(found))
    unexpected = sorted(set(found) - set(required) - set(optional))
    if missing or unexpected:
        raise ConversionError(f"{what}: missing keys {missing}, unexpected keys {unexpected}; nothing was written.")
