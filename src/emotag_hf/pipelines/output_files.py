"""`save_splats` and `save_viewer`: a talking head as files for other programs (docs/exporting.md).

In: a `TalkingHeadOutput`, or posed Gaussians. Out: a file. The formats are in `export/`, which knows no pipeline.
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
    """Writes one frame for viewers and editors of Gaussian splats; returns the path.

    Args:
        source: a pipeline's output, or what `EmoTaGModel.pose` gave.
        path, frame, format, y_down: as `export.splats.write_splats` takes them.

    Raises:
        ValueError: no such frame or format; an output without pictures.
        FileNotFoundError, PermissionError, OSError: it cannot be written; nothing half-written is left.
    """
    kind = pick_format(path, format, SPLAT_FORMATS)
    if isinstance(source, PosedGaussians):
        return write_splats(source, path, frame=frame, format=kind, y_down=y_down)
    return source.export(path, format=kind, frame=frame, y_down=y_down)


def save_viewer(output: TalkingHeadOutput, path: str | os.PathLike, *, format: str | None = None) -> str:
    """Writes a page that plays a talking head in 3D; returns its path.

    The page holds the person's head: whoever gets it can look at it from all sides and take it apart.

    Args:
        output: of a pipeline, with pictures; their size and background are the page's.
        path: `.html`; a file that exists is replaced once the new one is whole.
        format: `"html"` for a page of another name; None goes by the name.

    Raises:
        ValueError: another kind of file; an output without pictures, or of more than `viewer_data.MAX_FRAMES` frames.
        FileNotFoundError, PermissionError, OSError: it cannot be written; nothing half-written is left.
    """
    return output.export(path, format=pick_format(path, format, VIEWER_FORMATS))


__all__ = ["save_splats", "save_viewer"]
