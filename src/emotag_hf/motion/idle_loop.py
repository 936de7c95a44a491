"""A face that waits, as motion that repeats exactly (METHOD 6).

In: a model, an emotion, a seed, the number of frames. Out: `EmoTaGOutput` of one lap. The motion network gives one face
in silence, with its lips shut (`LipRest`); head, gaze, blinks, brows and breath come from a `MotionGenerator` whose
every curve has the lap as its period. So nothing is blended at the seam: the frame after the last is the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..audio.audio_features import FRAME_RATE
from ..outputs import EmoTaGOutput
from .emotion_direction import EmotionDirection
from .motion_generator import MotionGenerator
from .motion_stream import MotionStream, whole_face
from .motion_strengths import MotionStrengths

_SETTLED = 2  # seconds of silence after which the face keeps still and an emotion has faded in
_STILL = MotionStrengths(head=0, gaze=0, blinks=0, brows=0, breathing=0)


@torch.no_grad()
def idle_loop(
    model: Any,
    num_frames: int,
    *,
    fps: float,
    direction: EmotionDirection,
    seed: int = 0,
    head_motion: float | MotionStrengths = 1.0,
    first: int = 0,
    count: int | None = None,
) -> EmoTaGOutput:
    """The motion of a face that waits, `num_frames` long, then again.

    Args:
        model: `EmoTaGModel`.
        num_frames: frames of a lap, at `fps`; a second or more.
        direction: the emotion, the same all the time.
        seed, head_motion: of the generated motion, as in `MotionGenerator`.
        first, count: frames from `first` on, `count` of them (None: a lap); they may lie in later laps.
    """
    times = (first + np.arange(num_frames if count is None else count)) / fps
    upper = MotionGenerator(seed, head_motion, num_frames / fps).at(times)
    config = model.config.motion_config
    stream = MotionStream(model, fps=config.fps, direction=direction, head_motion=_STILL)
    stream.hear(torch.zeros(_SETTLED * FRAME_RATE, config.audio_feature_dim), np.zeros(0))
    stream.end(_SETTLED * config.fps)
    *_, last = stream.certain()
    face = {name: getattr(last.motion, name) for name in ("expression", "jaw_pose", "mouth_code")}
    face["closure"] = last.motion.eyelids[:, :1]  # the generated one is 0
    face = {name: value[-1:].expand(len(times), -1) for name, value in face.items()}
    motion = whole_face(model, face, upper, fps)
    return EmoTaGOutput(motion, last.gate[-1:].expand(len(times)), last.emotion_logits[-1:].expand(len(times), -1))


__all__ = ["idle_loop"]
