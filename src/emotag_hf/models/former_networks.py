"""Avatars of version 0.1, whose motion networks heard log-mel features without an ear: they speak with an embedded one.

In: the folder of a model. Out: what `from_pretrained` needs so that the person, head and Gaussians are the file's, and
the motion network is that of `emotag-base-open`, or of `emotag-base` for weights that real recordings touched.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import torch
from safetensors.torch import load_file

from ..constants import CONFIG_NAME, DEFAULT_MODEL, OPEN_MODEL, WEIGHTS_NAME
from ..hub.avatar_card import is_open_license
from ..utils.asset_paths import asset_path

logger = logging.getLogger(__name__)

FORMER_FRONTEND = "log_mel"
_MOTION = "motion."


def is_former(motion_config: Any) -> bool:
    """Whether a motion config, as a dict, is of version 0.1."""
    return isinstance(motion_config, dict) and motion_config.get("frontend") == FORMER_FRONTEND


def embedded_motion(weights_license: str) -> dict[str, Any]:
    """The motion config of the embedded model that takes over."""
    with open(os.path.join(asset_path(_successor(weights_license)), CONFIG_NAME), encoding="utf-8") as file:
        return json.load(file)["motion_config"]


def embedded_weights(folder: str | os.PathLike) -> dict[str, torch.Tensor] | None:
    """The folder's weights with the motion network that takes over; None if its own network is of today."""
    try:
        with open(os.path.join(folder, CONFIG_NAME), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return None  # which `from_pretrained` says better
    if not isinstance(config, dict) or not is_former(config.get("motion_config")):
        return None
    successor = _successor(config.get("weights_license", ""))
    logger.warning(
        "%s is an avatar of version 0.1: its looks stay; its motion network, which heard without an ear, is replaced "
        "by that of %r. Save it to keep it so, or adapt it again to speak in the person's own manner.",
        os.fspath(folder),
        successor,
    )
    own = load_file(os.path.join(folder, WEIGHTS_NAME))
    kept = {name: values for name, values in own.items() if not name.startswith(_MOTION)}
    new = load_file(os.path.join(asset_path(successor), WEIGHTS_NAME))
    return kept | {name: values for name, values in new.items() if name.startswith(_MOTION)}


def _successor(weights_license: str) -> str:
    return OPEN_MODEL if is_open_license(weights_license) else DEFAULT_MODEL


__all__ = ["FORMER_FRONTEND", "embedded_motion", "embedded_weights", "is_former"]
