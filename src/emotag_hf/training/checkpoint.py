"""Training checkpoints: nested dicts and lists of tensors and numbers, stored in one safetensors file.

Written atomically, so that the old or the new checkpoint is complete after a kill.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = "emotag-training-state"


def save_state(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Writes `state`: dicts with string keys, lists, tensors, numbers, strings, None."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _take_apart(state, "", tensors)
    path = Path(path)
    fresh = path.with_name(path.name + ".new")
    save_file(tensors, fresh, metadata={"format": FORMAT, "tree": json.dumps(tree)})
    os.replace(fresh, path)


def load_state(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `save_state` wrote.

    Raises:
        ValueError: the file is incomplete, or not a training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: expected a training state in {path}, which cannot be read ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"path: expected a training state, but {path} is none.")
    return _put_together(json.loads(metadata["tree"]), tensors)


def _take_apart(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {key: _take_apart(part, f"{name}/{key}", tensors) for key, part in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_apart(part, f"{name}/{i}", tensors) for i, part in enumerate(value)]}
    return {"value": value}


def _put_together(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(part, tensors) for key, part in content.items()}
    return [_put_together(part, tensors) for part in content] if kind == "list" else content


__all__ = ["load_state", "save_state"]
