"""Motion of the whole head from features in chunks; recordings and streams both use it (METHOD 3 and 6).

In: feature frames and loudness, in any chunks, and the controls. Out: `EmoTaGOutput` of the frames that no later
sound can change. Every part is causal but for its stated look-ahead and keeps its state, so nothing is computed twice;
frames do not depend on the chunks, except for the rounding of matrix products (within 1e-5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..audio.audio_features import FRAME_RATE
from ..outputs import EmoTaGOutput, FlameMotion, GRMNOutput
from ..utils.torch_threads import one_torch_thread
from .driving_motion import UPPER_FACE, DrivingClip
from .emotion_direction import EmotionCurves, EmotionDirection
from .emotion_prototypes import action_unit_motions, probabilities_to_logits
from .lip_rest import LipRest
from .motion_generator import MotionGenerator, UpperFace
from .motion_strengths import MotionStrengths

CHUNK = 128  # frames that are computed at once, to bound the memory for recordings
_FIELDS = ("expression", "jaw_pose", "mouth_code", "gate", "emotion_logits")
_UPPER = "upper_"  # prefix of the fields of `UpperFace` in the rows


class MotionStream:
    """`EmoTaGModel.predict_motion` for a stream; arguments as there.

    Args:
        model: `EmoTaGModel`.

    Example:

    ```python
    >>> stream = MotionStream(model, fps=25, direction=EmotionDirection("happy"))
    >>> stream.hear(features, loudness)  # [k, 82] and [n], for each chunk
    >>> for part in stream.certain():  # EmoTaGOutput of some frames
    ...     part.motion, part.gate
    >>> stream.end(num_frames)  # then `certain` gives the rest
    ```
    """

    def __init__(
        self,
        model,
        *,
        fps: float,
        direction: EmotionDirection,
        seed: int = 0,
        head_motion: float | MotionStrengths = 1.0,
        driving: Sequence[DrivingClip] = (),
        look_ahead: float | str | None = None,
        articulation: float = 1.0,
    ):
        self._model, self._fps, self._direction, self._driving = model, fps, direction, tuple(driving)
        config = model.config.motion_config
        self._rate, self._streams, self._articulation = config.fps, model.motion.streams, articulation
        self._generator = MotionGenerator(seed, head_motion)
        self._loudness = 0.0
        self._state = model.motion.init_state(look_ahead=look_ahead) if self._streams else None
        self._pending = torch.zeros(0, config.audio_feature_dim, device=model.device, dtype=model.dtype)
        self._rest, self._sound = LipRest(), False
        self._features = self._taken = 0  # feature frames so far, and of them given to the network
        self._rows: dict[str, torch.Tensor] = {}  # [n, D] by field, a row a frame at the network's rate
        self._rows_from = self._rows_to = 0
        self._num_frames: int | None = None  # in all, known at the end
        self._done = 0

    def hear(self, features: torch.Tensor, loudness: np.ndarray) -> None:
        """The next feature frames `[k, C]`, and the next values of the loudness `[n]` in [0, 1], 25 a second."""
        self._pending = torch.cat([self._pending, features.to(self._pending)])
        self._features += len(features)
        self._sound = self._sound or bool(features.ne(0).any())
        self._generator.hear(loudness)
        if len(loudness):
            self._loudness = float(loudness[-1])

    def end(self, num_frames: int) -> None:
        """Ends the sound, with `num_frames` frames in all; the last loudness is repeated."""
        self._num_frames = num_frames if self._features else 0
        # One more than the frames: above 25 fps the last frames lie after the last loudness value.
        steps = math.ceil(num_frames * self._rate / self._fps) + 1
        self._generator.hear(np.full(max(0, steps - self._steps_heard), self._loudness))

    def certain(self) -> Iterator[EmoTaGOutput]:
        """The frames that no later sound can change any more, in order, at most `CHUNK` at a time."""
        while (part := self._next()) is not None:
            yield part

    @property
    def _steps_heard(self) -> int:
        return round(self._generator.heard_until * self._rate) + 1

    def _upper(self, times: np.ndarray) -> UpperFace:
        """Generated and driven motion at `times`; times after the last loudness value use that value."""
        upper = self._generator.at(np.minimum(times, self._generator.heard_until + 1e-6))
        for clip in self._driving:
            upper = clip.at(times).onto(upper)
        return upper

    # --- the network, at its own rate --------------------------------------------------------------------------------

    def _rows_certain(self) -> int:
        motion = self._model.motion
        if self._num_frames is not None:
            return motion.audio_net.num_frames(self._features)
        return min(motion.certain(self._features, self._state), self._steps_heard) if self._streams else 0

    def _advance(self, wanted: int) -> None:
        """Computes the network's frames up to `wanted`, as far as no later sound can change them."""
        motion, config = self._model.motion, self._model.config.motion_config
        wanted = min(wanted, self._rows_certain())
        with one_torch_thread(), evaluating(motion):  # without dropout, which is random
            while self._rows_to < wanted:
                if not self._streams:
                    self._add_rows(motion.audio_net(self._pending[None]), None)
                    continue
                # As many feature frames as determine the next frames, but no more loudness than is known.
                until = self._taken
                while motion.certain(until, self._state) <= self._rows_to and until < self._features:
                    until += 1
                until += (min(wanted, self._rows_to + CHUNK) - self._rows_to - 1) * FRAME_RATE // config.fps
                until = min(until, self._features)
                part, self._pending = self._pending[: until - self._taken], self._pending[until - self._taken :]
                self._taken = until
                flush = self._num_frames is not None and until == self._features
                self._add_rows(*motion.hear(part[None], self._state, flush))

    def _add_rows(self, audio: torch.Tensor, voice: torch.Tensor | None) -> None:
        """Adds the motion of the next frames, whose audio feature `[1, n, hidden]` is known."""
        for first in range(0, audio.shape[1], CHUNK):
            part = slice(first, first + CHUNK)
            count = audio[:, part].shape[1]
            times = np.arange(self._rows_to, self._rows_to + count) / self._rate
            rows = self._motion_at(audio[:, part], None if voice is None else voice[:, part], times)
            for name, values in rows.items():
                self._rows[name] = torch.cat([self._rows[name], values]) if name in self._rows else values
            self._rows_to += count

    def _motion_at(self, audio, voice, times: np.ndarray) -> dict[str, torch.Tensor]:
        """The network's motion at `times [n]`, `[n, D]` by field, and how far it closes the eyelids."""
        upper, curves = self._upper(times), self._direction.at(times)
        out = self._decode(audio, voice, upper.action_units[None].to(audio), curves)
        named = {name: getattr(out, name) for name in _FIELDS} | {"closure": torch.zeros_like(out.gate)}
        if curves.units.any():
            named |= self._with_units(out, curves.units)
        rest = self._rest.weights(self._speech(out))
        if rest.any():
            named |= self._at_rest(named, self._base(audio, voice, upper.action_units[None].to(audio)), rest)
        rows = {name: values[0].float().cpu() for name, values in named.items()}
        if self._fps == self._rate:  # then no resampling is needed
            rows |= {_UPPER + f.name: getattr(upper, f.name) for f in fields(upper)}
        return rows

    def _decode(self, audio, voice, units, curves: EmotionCurves) -> GRMNOutput:
        """The network's motion with the requested emotion, with the one that it hears, or with a mixture of both."""
        model = self._model

        def run(probabilities=None, gate=None) -> GRMNOutput:
            controls = self._controls(units)
            if probabilities is not None:
                controls["emotion_logits"] = probabilities_to_logits(probabilities)[None].to(audio)
                controls["gate"] = gate[None].to(audio)
            return model.motion.decode(audio, voice, **controls)

        if not curves.voice.any():
            return run(curves.probabilities, curves.gate)
        own = run()
        if curves.heard.eq(1).all():
            return own
        return run(*curves.with_voice(own.emotion_logits[0].float().cpu(), own.gate[0].float().cpu()))

    def _speech(self, out: GRMNOutput) -> list[bool]:
        """Whether each frame hears speech. Without a net that tells phonemes, only a recording of zeros has none."""
        heard = self._model.motion.hears_speech(out)
        if heard is None:
            return [self._sound or self._num_frames is None] * out.expression.shape[1]
        return heard[0].tolist()

    def _base(self, audio, voice, units) -> GRMNOutput:
        """The network's motion without an emotion."""
        return self._model.motion.decode(audio, voice, gate=0.0, **self._controls(units))

    def _controls(self, units) -> dict[str, Any]:
        """Arguments of the network that do not depend on the emotion."""
        identity = self._model.identity(1)
        return {"action_units": units, "identity_embedding": identity, "articulation": self._articulation}

    def _at_rest(self, named: dict[str, torch.Tensor], base: GRMNOutput, weight: torch.Tensor):
        """The motion `named` with lips that rest shut by `weight [n, 1]`, and the inner mouth with them."""
        face = torch.cat([named["expression"], named["jaw_pose"]], -1)
        face = self._model.motion.rest_lips(face, torch.cat([base.expression, base.jaw_pose], -1), weight[None])
        count = base.expression.shape[-1]
        code = named["mouth_code"] * (1 - weight.to(face))
        return {"expression": face[..., :count], "jaw_pose": face[..., count:], "mouth_code": code}

    def _with_units(self, out: GRMNOutput, units: torch.Tensor) -> dict[str, torch.Tensor]:
        """Adds action units `[n, 14]` to the network's motion."""
        motion = self._model.motion
        moved = (units / 5 @ action_unit_motions())[None].to(out.expression)
        count = out.expression.shape[-1]
        face, closure = F.pad(moved[..., :-1], (0, out.jaw_pose.shape[-1] - 1)), moved[..., -1:]
        # Where the Base closes the lips, AU25 and AU26 do not open them.
        residual = out.gate * motion.emotion_decoder(out.emotion_logits)[0]
        base = torch.cat([out.expression, out.jaw_pose], -1) - residual
        close = motion.close_lips
        face = close(base + face, base, out.viseme_logits) - close(base, base, out.viseme_logits)
        expression, jaw_pose = out.expression + face[..., :count], out.jaw_pose + face[..., count:]
        return {"expression": expression, "jaw_pose": jaw_pose, "closure": closure}

    # --- frames, at the requested frame rate ----------------------------------------------------------------------

    @torch.no_grad()
    def _next(self) -> EmoTaGOutput | None:
        times = np.arange(self._done, self._done + CHUNK) / self._fps
        if self._num_frames is not None:
            times = times[: self._num_frames - self._done]
        position = np.round(times * self._rate, 6)  # 3 * 0.04 * 25 is frame 3
        low = np.floor(position).astype(int)
        high = low + (position > low)
        if self._num_frames is None:
            ready = (high < self._rows_certain()) & (times <= self._generator.heard_until + 1e-6)
            times, position, low, high = (x[ready] for x in (times, position, low, high))
        if not len(times):
            return None
        self._advance(int(high[-1]) + 1)
        weight = torch.from_numpy(position - low).float()[:, None]
        below, above = (torch.from_numpy(np.clip(x, self._rows_from, self._rows_to - 1)) for x in (low, high))
        below, above = below - self._rows_from, above - self._rows_from
        at = {name: torch.lerp(rows[below], rows[above], weight) for name, rows in self._rows.items()}
        generated = {name.removeprefix(_UPPER): at.pop(name) for name in list(at) if name.startswith(_UPPER)}
        whole = self._face(at, UpperFace(**generated) if generated else self._upper(times))
        self._done += len(times)
        self._forget()
        return EmoTaGOutput(whole, at["gate"][:, 0], at["emotion_logits"])

    def _face(self, at: dict[str, torch.Tensor], upper: UpperFace) -> FlameMotion:
        if any("expression" in clip.parts for clip in self._driving):
            at["expression"][:, UPPER_FACE] = 0  # replaced by the driving clip's brows
        return whole_face(self._model, at, upper, self._fps)

    def _forget(self) -> None:
        """Drops state that no later frame needs, so that memory is bounded."""
        time = self._done / self._fps
        old = min(int(time * self._rate) - 1, self._rows_to - 1) - self._rows_from
        if old > 0:
            self._rows = {name: rows[old:].clone() for name, rows in self._rows.items()}
            self._rows_from += old
        self._generator.forget(min(time, self._rows_to / self._rate))


def whole_face(model, at: dict[str, torch.Tensor], upper: UpperFace, fps: float) -> FlameMotion:
    """The motion of the person's head: the network's, `[T, D]` by field, with the generated one."""
    motion = FlameMotion(
        expression=at["expression"] + upper.expression,
        jaw_pose=at["jaw_pose"],
        eyelids=upper.eyelids + (1 - upper.eyelids) * at["closure"],
        eyes_pose=upper.eyes_pose,
        neck_pose=upper.neck_pose,
        rotation=upper.rotation,
        translation=upper.translation,
        mouth_code=at["mouth_code"],
        fps=fps,
    )
    return model.on_rest_pose(motion)


@contextmanager
def evaluating(module: torch.nn.Module):
    """`module` in evaluation mode for as long as the block runs."""
    if not module.training:  # saves a millisecond of traversing the modules
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()


__all__ = ["CHUNK", "MotionStream", "evaluating", "whole_face"]
