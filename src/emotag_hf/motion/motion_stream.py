"""Motion of the whole head from features in chunks; recordings and streams both use it (METHOD 3 and 6).

In: feature frames and loudness, in any chunks, and the controls. Out: `EmoTaGOutput` of the frames that no later
sound can change, bit-identical for any chunks.

Causal parts alone do not give that, because a matrix product rounds a row differently for other numbers of rows. So
everything is computed in blocks of `BLOCK` frames at fixed positions. A stream pads an incomplete block, on a copy of
the network's state, and computes it again when more is known.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import torch
from torch.nn import functional as F

from ..outputs import EmoTaGOutput, FlameMotion, GRMNOutput
from ..utils.torch_threads import one_torch_thread
from .driving_motion import UPPER_FACE, DrivingClip
from .emotion_direction import EmotionCurves, EmotionDirection
from .emotion_prototypes import action_unit_motions, probabilities_to_logits
from .motion_generator import MotionGenerator, UpperFace
from .motion_strengths import MotionStrengths

BLOCK = 16  # frames: twice as fast as 8 for a recording, hardly slower for a stream


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
    ):
        self._model, self._fps, self._direction, self._driving = model, fps, direction, tuple(driving)
        config = model.config.motion_config
        self._rate, self._streams = config.fps, config.frontend == "log_mel"
        self._generator = MotionGenerator(seed, head_motion)
        self._loudness = 0.0
        self._state = model.motion.init_state() if self._streams else None
        self._pending = torch.zeros(0, config.audio_feature_dim, device=model.device, dtype=model.dtype)
        self._features = self._blocks = 0  # feature frames so far, blocks that are complete
        self._whole = 0  # frames, at the network's rate, of those blocks: where the next block starts
        self._rows: dict[str, torch.Tensor] = {}  # [n, D] by field, a row a frame at the network's rate
        self._rows_from = self._rows_to = 0
        self._num_frames: int | None = None  # in all, known at the end
        self._done = 0

    def hear(self, features: torch.Tensor, loudness: np.ndarray) -> None:
        """The next feature frames `[k, C]`, and the next values of the loudness `[n]` in [0, 1], 25 a second."""
        self._pending = torch.cat([self._pending, features.to(self._pending)])
        self._features += len(features)
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
        """The frames that no later sound can change any more, in order, at most a block at a time."""
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
        net = self._model.motion.audio_net
        if self._num_frames is not None:
            return net.num_frames(self._features)
        return min(net.certain(self._features), self._steps_heard) if self._streams else 0

    def _advance(self, wanted: int) -> None:
        """Computes the network's frames up to `wanted`, as far as no later sound can change them."""
        net = self._model.motion.audio_net
        wanted = min(wanted, self._rows_certain())
        while self._rows_to < wanted:
            size = BLOCK * net.per_frame if self._streams else self._features
            after = net.certain(size * (self._blocks + 1)) if self._streams else net.num_frames(size)
            # Padded with zeros, which mean silence.
            features = F.pad(self._pending[:size], (0, 0, 0, max(0, size - len(self._pending))))
            complete = self._num_frames is not None or (len(self._pending) >= size and self._rows_certain() >= after)
            state = self._state if complete else copy.deepcopy(self._state)
            rows = self._block(features[None], state, np.arange(self._whole, after) / self._rate)
            until = min(after, self._rows_certain())
            for name, values in rows.items():
                fresh = values[self._rows_to - self._whole : until - self._whole]
                self._rows[name] = torch.cat([self._rows[name], fresh]) if name in self._rows else fresh
            self._rows_to = until
            if complete:
                self._pending = self._pending[size:]
                self._blocks, self._whole = self._blocks + 1, after

    def _block(self, features: torch.Tensor, state, times: np.ndarray) -> dict[str, torch.Tensor]:
        """The network's motion at `times [n]`, `[n, D]` by field, and how far it closes the eyelids."""
        upper, curves = self._upper(times), self._direction.at(times)
        out = self._listen(features, state, upper.action_units[None].to(features), curves)
        named = {name: getattr(out, name) for name in _FIELDS} | {"closure": torch.zeros_like(out.gate)}
        if curves.units.any():
            named |= self._with_units(out, curves.units)
        rows = {name: values[0].float().cpu() for name, values in named.items()}
        if self._fps == self._rate:  # then no resampling is needed
            rows |= {_UPPER + f.name: getattr(upper, f.name) for f in fields(upper)}
        return rows

    def _listen(self, features, state, units, curves: EmotionCurves) -> GRMNOutput:
        """Runs the network with the requested emotion, with the one that it hears, or with a mixture of both."""

        def run(state, probabilities=None, gate=None) -> GRMNOutput:
            controls = {"action_units": units}
            if probabilities is not None:
                controls["emotion_logits"] = probabilities_to_logits(probabilities)[None].to(features)
                controls["gate"] = gate[None].to(features)
            if state is None:
                return self._model(features, **controls)
            return self._model.step(features, state, controls_from=self._whole, **controls)

        if not curves.voice.any():
            return run(state, curves.probabilities, curves.gate)
        if curves.heard.eq(1).all():
            return run(state)
        # The stream's state is advanced without the requested emotion, which is applied to a copy of it.
        told = copy.deepcopy(state)
        own = run(state)
        return run(told, *curves.with_voice(own.emotion_logits[0].float().cpu(), own.gate[0].float().cpu()))

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
        first = self._done - self._done % BLOCK
        times = np.arange(first, first + BLOCK) / self._fps
        position = np.round(times * self._rate, 6)  # 3 * 0.04 * 25 is frame 3
        low = np.floor(position).astype(int)
        weight = torch.from_numpy(position - low).float()[:, None]
        high = low + (position > low)
        if self._num_frames is None:
            ready = (high < self._rows_certain()) & (times <= self._generator.heard_until + 1e-6)
            until = first + int(ready.sum())
        else:
            until = min(first + BLOCK, self._num_frames)
        if until <= self._done:
            return None
        with one_torch_thread(), evaluating(self._model.motion):  # without dropout, which is random
            self._advance(int(high[until - first - 1]) + 1)
            below, above = (torch.from_numpy(np.clip(x, self._rows_from, self._rows_to - 1)) for x in (low, high))
            below, above = below - self._rows_from, above - self._rows_from
            at = {name: torch.lerp(rows[below], rows[above], weight) for name, rows in self._rows.items()}
            generated = {name.removeprefix(_UPPER): at.pop(name) for name in list(at) if name.startswith(_UPPER)}
            whole = self._face(at, UpperFace(**generated) if generated else self._upper(times))
        part = slice(self._done - first, until - first)
        self._done = until
        self._forget()
        return EmoTaGOutput(whole[part], at["gate"][part, 0], at["emotion_logits"][part])

    def _face(self, at: dict[str, torch.Tensor], upper: UpperFace) -> FlameMotion:
        expression = at["expression"]
        if any("expression" in clip.parts for clip in self._driving):
            expression[:, UPPER_FACE] = 0  # replaced by the driving clip's brows
        motion = FlameMotion(
            expression=expression + upper.expression,
            jaw_pose=at["jaw_pose"],
            eyelids=upper.eyelids + (1 - upper.eyelids) * at["closure"],
            eyes_pose=upper.eyes_pose,
            neck_pose=upper.neck_pose,
            rotation=upper.rotation,
            translation=upper.translation,
            mouth_code=at["mouth_code"],
            fps=self._fps,
        )
        return self._model.on_rest_pose(motion)

    def _forget(self) -> None:
        """Drops state that no later block needs, so that memory is bounded."""
        time = (self._done - self._done % BLOCK) / self._fps
        old = min(int(time * self._rate) - 1, self._rows_to - 1) - self._rows_from
        if old > 0:
            self._rows = {name: rows[old:].clone() for name, rows in self._rows.items()}
            self._rows_from += old
        self._generator.forget(min(time, self._whole / self._rate))


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


__all__ = ["BLOCK", "MotionStream", "evaluating"]
