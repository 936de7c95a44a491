"""Export: splats of a posed frame, a viewer in one HTML file, motion with ARKit names (docs/exporting.md).

In: a model, a motion, Gaussians, sound. Out: a file; its suffix selects the format. `TalkingHeadOutput.export` calls
these functions.
"""

from __future__ import annotations

from .files import pick_format
from .motion_files import MOTION_FORMATS, load_motion, save_motion
from .splats import SPLAT_FORMATS, check_frame, write_splats
from .viewer import VIEWER_FORMATS, render_viewer

FORMATS = (*SPLAT_FORMATS, *VIEWER_FORMATS, *MOTION_FORMATS)

__all__ = [
    "FORMATS", "MOTION_FORMATS", "SPLAT_FORMATS", "VIEWER_FORMATS", "check_frame", "load_motion", "pick_format",
    "render_viewer", "save_motion", "write_splats",
]  # fmt: skip
