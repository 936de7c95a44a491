"""One image of an avatar for slider values, and the 3D viewer of its last speech.

In: slider values, camera position. Out: an image; or HTML for a page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

import numpy as np
import torch

from ..constants import EMOTIONS, EXPRESSION_NAMES
from ..motion.emotion_prototypes import expression_prototypes
from ..outputs import FlameMotion
from ..pipelines.pipeline_emotag import EmoTaGPipeline
from ..pipelines.talking_head import TalkingHeadOutput
from ..rendering.compositing import make_background, to_uint8
from ..utils.torch_threads import one_torch_thread

JAW_OPEN, LOOK = 0.4, math.radians(25)  # at the maximum of a slider

# Slider -> its lowest value; the highest is 1. Names are ARKit's, or those of both sides without the side.
FACE_SLIDERS = {
    "jawOpen": 0.0, "mouthSmile": 0.0, "mouthFrown": 0.0, "mouthPucker": 0.0, "mouthFunnel": 0.0, "mouthStretch": 0.0,
    "browInnerUp": 0.0, "browDown": 0.0, "noseSneer": 0.0, "cheekPuff": 0.0, "eyeBlinkLeft": 0.0, "eyeBlinkRight": 0.0,
    "eyeWide": 0.0, "lookSide": -1.0, "lookUp": -1.0, "tongueOut": 0.0,
}  # fmt: skip
MAX_TURN, MAX_NOD = 60, 30  # maximum orbit of the camera, degrees


def face_motion(sliders: Mapping[str, float], emotion: str = "neutral", intensity: float = 0.0) -> FlameMotion:
    """One frame of motion: the face of an emotion plus the sliders.

    Args:
        sliders: of `FACE_SLIDERS`; those that are missing are 0.
        emotion: one of `EMOTIONS`; intensity: its strength, 0 to 1.

    Raises:
        ValueError: an unknown slider or emotion, or a value outside its range.
    """
    if emotion not in EMOTIONS:
        raise ValueError(f"emotion: expected one of {', '.join(EMOTIONS)}, got {emotion!r}.")
    for name, value in {**sliders, "intensity": intensity}.items():
        low = {**FACE_SLIDERS, "intensity": 0.0}.get(name)
        if low is None:
            raise ValueError(f"sliders: expected some of {', '.join(FACE_SLIDERS)}, got {name!r}.")
        if not low <= value <= 1:
            raise ValueError(f"{name}: expected a number from {low:g} to 1, got {value!r}.")
    felt = expression_prototypes()[EMOTIONS.index(emotion)] * intensity
    motion = FlameMotion.zeros(1)
    motion.expression[0], motion.jaw_pose[0] = felt[: len(EXPRESSION_NAMES)], felt[len(EXPRESSION_NAMES) :]
    motion.jaw_pose[0, 0] += JAW_OPEN * sliders.get("jawOpen", 0.0)
    motion.eyelids[0] = torch.tensor([sliders.get("eyeBlinkLeft", 0.0), sliders.get("eyeBlinkRight", 0.0)])
    up, side = sliders.get("lookUp", 0.0), sliders.get("lookSide", 0.0)
    motion.eyes_pose[0] = torch.tensor([-up, side, 0.0] * 2) * LOOK
    for name, value in sliders.items():
        for column, direction in enumerate(EXPRESSION_NAMES):
            if direction.removesuffix("_L").removesuffix("_R") == name:
                motion.expression[0, column] += value
    return motion


@torch.no_grad()
def draw_face(
    pipe: EmoTaGPipeline, motion: FlameMotion, *, turn: float = 0.0, nod: float = 0.0, size: int = 512
) -> np.ndarray:
    """Renders one frame, `[size, size, 3]` uint8.

    Args:
        turn: degrees that the camera goes to the person's left; nod: up.

    Raises:
        ValueError: more than `MAX_TURN` or `MAX_NOD` degrees.
    """
    for name, value, most in (("turn", turn, MAX_TURN), ("nod", nod, MAX_NOD)):
        if not abs(value) <= most:
            raise ValueError(f"{name}: expected degrees from -{most} to {most}, got {value!r}.")
    model = pipe.model
    background = make_background(pipe._background, size, size, model.config.backdrop)
    model.warm_up()
    with one_torch_thread():
        posed = model.pose(model.on_rest_pose(motion))
        camera = model.camera(size, yaw=math.radians(turn), pitch=math.radians(nod))
        return to_uint8(model.render(posed, camera, background).images[0])


def viewer_frame(result: TalkingHeadOutput, height: int = 560) -> str:
    """The 3D viewer as a sandboxed element for another page."""
    page = html.escape(result.viewer_page(), quote=True)
    title = "The talking head in 3D: drag to turn it"
    return (
        f'<iframe title="{title}" sandbox="allow-scripts" srcdoc="{page}" '
        f'style="width:100%;height:{height}px;border:0;border-radius:8px"></iframe>'
    )


__all__ = ["FACE_SLIDERS", "MAX_NOD", "MAX_TURN", "draw_face", "face_motion", "viewer_frame"]
