"""Writes a head asset to a temporary file, reads it back as a check, and renames it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from emotag_hf.models.modeling_head import FORMAT, HeadAsset, ParametricHead

from .errors import ConversionError

INTEGERS = ("faces", "landmark_faces", "pose_rows", "lid_vertices", "lid_rims")


def metadata(
    *, license: str, provenance: str, units: str, expression_names: tuple[str, ...], region_names: tuple[str, ...]
) -> dict[str, str]:
    """The metadata of a head asset."""
    return {
        "format": FORMAT,
        "version": "1",
        "license": license,
        "provenance": provenance,
        "units": units,
        "expression_names": json.dumps(list(expression_names)),
        "region_names": json.dumps(list(region_names)),
    }


def as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Arrays as a head asset stores them: indices int32, masks uint8, all else float32."""
    kinds = {**dict.fromkeys(INTEGERS, np.int32), "region_masks": np.uint8}
    return {k: torch.from_numpy(np.ascontiguousarray(v).astype(kinds.get(k, np.float32))) for k, v in arrays.items()}


def write_asset(path: str | Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> ParametricHead:
    """Writes `path` atomically; returns the head that was read back.

    Raises:
        ConversionError: what was read back is not what was written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, str(beside), header)
        head = ParametricHead(HeadAsset.load(beside))
        again = head._asset.tensors
        for name, tensor in tensors.items():
            if not torch.equal(again[name], tensor.to(again[name].dtype)):
                raise ConversionError(f"output: {name} of {path.name} came back changed; is the disk full or damaged?")
        if not bool(torch.isfinite(head().vertices).all()):
            raise ConversionError(f"output: the head of {path.name} is not finite at rest; nothing was written.")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return head
