"""`save_splats` and `save_viewer`: export of a talking head for other programs (docs/exporting.md).

In: a `TalkingHeadOutput`, or posed Gaussians. Out: a file. The formats are in `export/`, which does not depend on
pipelines.
"""

from __future__ import annotations

import os

from ..export.files import pick_format
from ..export.splats import SPLAT_FORMATS, write_splats
from ..export.viewer import VIEWER_FORMATS
from ..outputs import PosedGaussians
from .talking_head import TalkingHeadOutput


def save_splats(
    source: TalkingHeadOutput | PosedGaussians,
    path: str | os.PathLike,
    *,
    frame: int = 0,
    format: str | None = None,
    y_down: bool = False,
) -> str:
    """Writes the Gaussians of one frame for splat viewers and editors; returns the path.

    Args:
        source: a pipeline's output, or what `EmoTaGModel.pose` gave.
        path, frame, format, y_down: as `export.splats.write_splats` takes them.

    Raises:
        ValueError: no such frame or format; an output with `output_type="motion"`.
        FileNotFoundError, PermissionError, OSError: it cannot be written; no partial file is left.
    """
    kind = pick_format(path, format, SPLAT_FORMATS)
    if isinstance(source, PosedGaussians):
        return write_splats(source, path, frame=frame, format=kind, y_down=y_down)
    return source.export(path, format=kind, frame=frame, y_down=y_down)


def save_viewer(output: TalkingHeadOutput, path: str | os.PathLike, *, format: str | None = None) -> str:
    """Writes a page that plays a talking head in 3D; returns its path.

    The page contains the person's 3D head: whoever has the file can view and extract it.

    Args:
        output: of a pipeline, not with `output_type="motion"`; the page has its frame size and background.
        path: `.html`; an existing file is replaced only when the new one is complete.
        format: `"html"` for a file with another suffix; None uses the suffix.

    Raises:
        ValueError: another suffix; an output with `output_type="motion"`, or with more than `viewer_data.MAX_FRAMES`
            frames.
        FileNotFoundError, PermissionError, OSError: it cannot be written; no partial file is left.
    """
    return output.export(path, format=pick_format(path, format, VIEWER_FORMATS))


__all__ = ["save_splats", "save_viewer"]
