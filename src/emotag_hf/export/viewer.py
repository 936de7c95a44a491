"""A talking head as one HTML file that opens from disk: turn it while it speaks, no server and no network.

In: a `TalkingHeadOutput`. Out: a page with the avatar, its motion, its sound and its background inside, and a small
renderer of our own (assets/viewer) in WebGL 2 that follows `rasterize`'s conventions.
"""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..audio_io import AudioClip, resample
from ..avatar_card import is_open_license
from ..compositing import to_uint8
from ..hub_paths import asset_path
from ..provenance import STATEMENT
from ..talking_head import TalkingHeadOutput
from .files import check_target, pick_format, write_whole
from .viewer_data import pack_motion

logger = logging.getLogger(__name__)

VIEWER_FORMATS = ("html",)
_SCRIPTS = ("data.js", "pose.js", "splats.js", "player.js")
_SOUND_RATE = 48_000  # Hz, one that every browser's AAC decoder plays
_BIT_RATE = 96_000  # of both channels together
_JPEG = {"quality": 92, "subsampling": 0}


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
    pick_format(path, format, VIEWER_FORMATS)
    check_target(path)
    if output.frames is None:
        raise ValueError("save_viewer: this result holds motion only; ask for output_type 'np', 'pil' or 'pt'.")
    return os.fspath(write_whole(path, [render_viewer(output).encode()]))


def render_viewer(output: TalkingHeadOutput) -> str:
    """The page as text; see `save_viewer`."""
    model, camera = output.frames._model, output.frames._camera
    if not is_open_license(model.head.license):
        logger.warning(
            "The page holds this head's posed vertices, and the head's licence is %s: check that it lets you pass "
            "them on.",
            model.head.license,
        )
    packed = pack_motion(model, output.motion)
    facts = {
        "name": model.config.avatar_name or "",
        "fps": output.fps,
        "frames": len(output.motion),
        "gaussians": model.gaussians.num_gaussians,
        "sh_degree": model.gaussians.config.sh_degree,
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "viewmat": camera.viewmat.tolist(),
        "pivot": _pivot(output),
        "arrays": packed.header,
        "provenance": output.metadata,
    }
    title = html.escape(facts["name"] or "Talking head")
    return _fill(
        _asset("page.html"),
        {
            "TITLE": title,
            "STATEMENT": html.escape(STATEMENT.replace(" video:", ":")),
            "STYLE": _asset("page.css"),
            "SCRIPT": "\n".join(_asset(name) for name in _SCRIPTS),
            "FACTS": _for_script(facts),
            "DATA": base64.b64encode(packed.deflated()).decode("ascii"),
            "SOUND": base64.b64encode(_encode_sound(output.audio)).decode("ascii"),
            "BACKGROUND": base64.b64encode(_encode_picture(to_uint8(output.frames._background))).decode("ascii"),
        },
    )


def _pivot(output: TalkingHeadOutput) -> list[float]:
    """What the mouse turns the view about: the middle of the head, a little behind its origin between the eyes."""
    middle = output.motion.translation.detach().cpu().float().mean(0)
    return [float(x) for x in middle + middle.new_tensor([0.0, -0.02, -0.05])]


def _fill(template: str, parts: dict[str, str]) -> str:
    """Puts each part where its `{{NAME}}` stands; what a part holds is not looked at again."""
    pieces = template.split("{{")
    done = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        done += [parts[name], rest]
    return "".join(done)


def _asset(name: str) -> str:
    return Path(asset_path("viewer"), name).read_text(encoding="utf-8")


def _for_script(values: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever a name holds."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))  # ASCII: no line separators of Unicode either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _encode_picture(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", **_JPEG)
    return file.getvalue()


def _encode_sound(audio: AudioClip) -> bytes:
    """The sound as AAC in an mp4, which every browser plays and seeks in."""
    samples = resample(audio.samples, audio.sampling_rate, _SOUND_RATE)
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=_SOUND_RATE, layout=layout)
        track.bit_rate = _BIT_RATE
        for start in range(0, len(samples), _SOUND_RATE):
            piece = np.ascontiguousarray(samples[start : start + _SOUND_RATE], np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = _SOUND_RATE, start, Fraction(1, _SOUND_RATE)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return file.getvalue()


__all__ = ["VIEWER_FORMATS", "render_viewer", "save_viewer"]
