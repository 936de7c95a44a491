"""Command-line options from a dataclass: `--steps`, `--learning-rate`, `--refine / --no-refine`.

In: a parser's group and a dataclass whose fields carry `metadata["help"]`. Out: the options, and what was given.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints


def add_fields(group: argparse._ArgumentGroup, cls: type, without: Sequence[str] = ()) -> None:
    """Adds one option per field; options that are not given stay None, to be filled from a preset."""
    kinds = get_type_hints(cls)
    for item in fields(cls):
        if item.name in without:
            continue
        text = f"{item.metadata['help']} (default: {item.default})".replace("%", "%%")
        is_switch = kinds[item.name] is bool
        how = {"action": argparse.BooleanOptionalAction} if is_switch else {"type": kinds[item.name], "metavar": "N"}
        group.add_argument(f"--{item.name.replace('_', '-')}", dest=item.name, default=None, help=text, **how)


def given_fields(args: argparse.Namespace, cls: type, without: Sequence[str] = ()) -> dict[str, Any]:
    """The fields that were given on the command line."""
    names = [item.name for item in fields(cls) if item.name not in without]
    return {name: value for name in names if (value := getattr(args, name)) is not None}


__all__ = ["add_fields", "given_fields"]
