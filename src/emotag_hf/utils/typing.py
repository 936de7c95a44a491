"""Types of what callers may pass, for annotations alone: recordings, emotions, backgrounds, paths.

In: nothing. Out: type aliases. What each kind may hold is checked where it is used; docs/speaking.md lists it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

PathLike: TypeAlias = str | os.PathLike[str]
"""The path of a file or folder."""

Recording: TypeAlias = PathLike | bytes | np.ndarray | torch.Tensor | Sequence[float] | Mapping[str, Any]
"""A path, the bytes of a file, samples `[n]` or `[n, channels]`, or `{"array": samples, "sampling_rate": Hz}`."""

AudioInput: TypeAlias = Recording | Sequence[Recording]
"""One recording, or a list of them, which is a batch."""

EmotionInput: TypeAlias = PathLike | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""A class; a mixture, valence and arousal, or action units; keyframes; any of these as JSON or a `.json` file; None
lets the network read the voice."""

Background: TypeAlias = PathLike | Image.Image | np.ndarray | torch.Tensor | None
"""A colour name, `"#rrggbb"`, the path of an image, or an image; None for the person's own background."""

__all__ = ["AudioInput", "Background", "EmotionInput", "PathLike", "Recording"]
