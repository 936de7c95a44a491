"""Idling: a face that waits and listens, without a recording (METHOD 6).

In: a model, seconds and controls. Out: `TalkingHeadOutput` without sound. A loop is motion that repeats exactly
(`motion/idle_loop.py`); otherwise it is what a silent recording gives.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from ..audio.audio_io import AudioClip
from ..constants import SAMPLE_RATE
from ..models.modeling_emotag import EmoTaGModel
from ..models.processing_emotag import EmoTaGProcessor
from ..motion.idle_loop import idle_loop
from .talking_head import SpeakOptions, TalkingHeadOutput, finish, hear, predict

MIN_SECONDS, MAX_SECONDS = 1.0, 600.0
_OF_SPEECH = ("pose_from", "expression_from", "look_ahead", "articulation")  # options that need a recording


def idle_options(**options: Any) -> SpeakOptions:
    """`SpeakOptions` of an idling face; an unknown name, or one that needs a recording, is a ValueError."""
    names = [field.name for field in fields(SpeakOptions) if field.name not in _OF_SPEECH]
    if unknown := sorted(set(options) - set(names)):
        raise ValueError(f"idle: unknown argument {', '.join(unknown)}; expected seconds, loop, {', '.join(names)}.")
    return SpeakOptions(**options)


def check_idle(seconds: Any, loop: Any, options: SpeakOptions) -> int:
    """The number of frames that `seconds` are, at least one second of them.

    Raises:
        ValueError: not a number from `MIN_SECONDS` to `MAX_SECONDS`; a loop of an emotion that changes; keyframes after
            the end.
    """
    number = isinstance(seconds, (int, float, np.integer, np.floating)) and not isinstance(seconds, bool)
    if not number or not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ValueError(
            f"seconds: expected a number from {MIN_SECONDS:g} to {MAX_SECONDS:g}, got {seconds!r}; a longer wait "
            "is a loop that is repeated, or a stream that is given None."
        )
    if not isinstance(loop, (bool, np.bool_)):
        raise ValueError(f"loop: expected True or False, got {loop!r}.")
    if loop and isinstance(options.emotion, list):
        raise ValueError(
            "emotion: expected one emotion for a loop, whose end meets its beginning, got keyframes; pass one emotion, "
            "or loop=False."
        )
    options.direction.check_end(float(seconds))
    return max(math.ceil(MIN_SECONDS * options.fps), round(seconds * options.fps))


def idle(
    model: EmoTaGModel,
    processor: EmoTaGProcessor,
    seconds: float,
    loop: bool,
    options: SpeakOptions,
    progress: Any = None,
) -> TalkingHeadOutput:
    """`EmoTaGPipeline.idle` for both pipelines."""
    count = check_idle(seconds, loop, options)
    if loop:
        lap = idle_loop(
            model,
            count,
            fps=options.fps,
            direction=options.direction,
            seed=int(options.seed),
            head_motion=options.head_motion,
        )
        return finish(model, None, lap, options, progress)
    silence = AudioClip(np.zeros((round(count / options.fps * SAMPLE_RATE), 1), np.float32), SAMPLE_RATE)
    return finish(model, None, predict(model, silence, hear(processor, silence), options), options, progress)


__all__ = ["MAX_SECONDS", "MIN_SECONDS", "check_idle", "idle", "idle_options"]
