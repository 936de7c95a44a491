"""A 3D viewer of a talking head in one HTML file, without server or network.

In: a model, its motion, a camera, a background, the sound and metadata. Out: a page that contains all of it, and a
small WebGL 2 renderer (assets/viewer) with `rasterize`'s conventions.
"""

from __future__ import annotations

import base64
import html
import io
import json
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from ..audio.audio_io import AudioClip, resample
from ..hub.avatar_card import is_open_license
from ..models.modeling_emotag import EmoTaGModel
from ..outputs import FlameMotion
from ..rendering import Camera
from ..rendering.compositing import to_uint8
from ..rights.provenance import STATEMENT
from ..utils.asset_paths import asset_path
from .viewer_data import pack_motion

logger = logging.getLogger(__name__)

VIEWER_FORMATS = ("html",)
_SCRIPTS = ("data.js", "pose.js", "splats.js", "player.js")
_SOUND_RATE = 48_000  # Hz, supported by the AAC decoder of every browser
_BIT_RATE = 96_000  # of both channels together
_JPEG = {"quality": 92, "subsampling": 0}


def render_viewer(
    model: EmoTaGModel,
    motion: FlameMotion,
    *,
    camera: Camera,
    background: torch.Tensor,
    audio: AudioClip,
    fps: float,
    metadata: dict[str, Any],
) -> str:
    """The page as text.

    The page contains the person's 3D head: whoever has the file can view and extract it.

    Args:
        model: whose Gaussians.
        motion: T frames of it, at `fps`.
        camera: the initial view.
        background: `[H, W, 3]` in [0, 1], in the size of the page's canvas.
        audio: what is spoken.
        metadata: JSON values that mark it as AI-generated.

    Raises:
        ValueError: more than `viewer_data.MAX_FRAMES` frames.
    """
    if not is_open_license(model.head.license):
        logger.warning(
            "The page holds this head's posed vertices, and the head's licence is %s: check that it lets you pass "
            "them on.",
            model.head.license,
        )
    packed = pack_motion(model, motion)
    facts = {
        "name": model.config.avatar_name or "",
        "fps": fps,
        "frames": len(motion),
        "gaussians": model.gaussians.num_gaussians,
        "sh_degree": model.gaussians.config.sh_degree,
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "viewmat": camera.viewmat.tolist(),
        "pivot": _pivot(motion),
        "arrays": packed.header,
        "provenance": metadata,
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
            "SOUND": base64.b64encode(_encode_sound(audio)).decode("ascii"),
            "BACKGROUND": base64.b64encode(_encode_picture(to_uint8(background))).decode("ascii"),
        },
    )


def _pivot(motion: FlameMotion) -> list[float]:
    """Centre of rotation: the middle of the head, a little behind its origin between the eyes."""
    middle = motion.translation.detach().cpu().float().mean(0)
    return [float(x) for x in middle + middle.new_tensor([0.0, -0.02, -0.05])]


def _fill(template: str, parts: dict[str, str]) -> str:
    """Replaces each `{{NAME}}` by its part, in one pass."""
    pieces = template.split("{{")
    done = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        done += [parts[name], rest]
    return "".join(done)


def _asset(name: str) -> str:
    return Path(asset_path("viewer"), name).read_text(encoding="utf-8")


def _for_script(values: Any) -> str:
    """JSON that is escaped so that it cannot end the surrounding script element."""
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


__all__ = ["VIEWER_FORMATS", "render_viewer"]
