"""The ways out: splats of a posed frame, a viewer in one HTML file, motion with ARKit names (docs/exporting.md).

In: a `TalkingHeadOutput`. Out: a file, of a kind that its name tells.
"""

from __future__ import annotations

import os

from ..talking_head import TalkingHeadOutput
from .files import pick_format
from .motion_files import MOTION_FORMATS, load_motion, save_motion
from .splats import SPLAT_FORMATS, save_splats
from .viewer import VIEWER_FORMATS, save_viewer

FORMATS = (*SPLAT_FORMATS, *VIEWER_FORMATS, *MOTION_FORMATS)


def export_output(
    output: TalkingHeadOutput,
    path: str | os.PathLike,
    *,
    format: str | None = None,
    frame: int = 0,
    y_down: bool = False,
) -> str:
    """Writes a talking head for other programs; see `TalkingHeadOutput.export`."""
    kind = pick_format(path, format, FORMATS)
    if kind in SPLAT_FORMATS:
        return save_splats(output, path, frame=frame, format=kind, y_down=y_down)
    if kind in MOTION_FORMATS:
        return save_motion(output.motion, path, format=kind, metadata=output.metadata)
    return save_viewer(output, path, format=kind)


__all__ = ["FORMATS", "export_output", "load_motion", "pick_format", "save_motion", "save_splats", "save_viewer"]
