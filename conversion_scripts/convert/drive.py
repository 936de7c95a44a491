"""Retargeting of files: two head assets -> one with the second's shape, driven by the first's coefficients."""

from __future__ import annotations

import json
from pathlib import Path

from emotag_hf import ParametricHead
from emotag_hf.models.retarget import Retarget, driven_head, solve_retarget

from .asset_file import write_asset


def drive(
    target: str | Path, output: str | Path, *, source: str | Path | None = None
) -> tuple[ParametricHead, Retarget]:
    """Writes the driven head; with `source` None it answers to the open head's coefficients, as the embedded motion
    networks speak.

    Raises:
        ValueError: `target` or `source` is not a head asset.
    """
    source_head, target_head = ParametricHead.from_asset(source), ParametricHead.from_asset(target)
    retarget = solve_retarget(source_head, target_head)
    tensors, names = driven_head(target_head, retarget)
    own = target_head.metadata
    header = own | {
        "expression_names": json.dumps(list(names)),
        "provenance": f"{own['provenance']} Retargeted: expression directions and jaw answer to those of the head "
        f"{source_head.sha256[:12]} by a linear map.",
    }
    stored = {k: v.byte() if k == "region_masks" else v for k, v in tensors.items()}
    return write_asset(output, stored, header), retarget
