"""Streaming, `pipe.stream(chunks)`: speech in while it arrives, frames out as soon as later sound cannot change them
(METHOD 6).

In: chunks of sound from a generator or an async one. Out: `StreamedFrame`s, `look_ahead` seconds behind the sound; with
the same look-ahead a whole recording gives the same, within 1e-5 of the motion. Memory does not grow with time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from ..audio.audio_features import num_video_frames
from ..audio.audio_stream import AudioStream
from ..audio.loudness import LoudnessStream
from ..models.modeling_emotag import EmoTaGModel
from ..models.processing_emotag import EmoTaGProcessor
from ..motion.motion_stream import MotionStream
from ..outputs import FlameMotion
from ..rights.provenance import make_provenance
from .talking_head import FrameRenderer, SpeakOptions, as_output, scene

LOOK_AHEAD = 0.16  # seconds, if none is given
_PIECE = 0.04  # seconds of sound that are processed at once; sound queued behind them can still be interrupted
_RESAMPLING = 0.015  # seconds of delay where the sound has to be resampled


@dataclass
class StreamedFrame:
    """A frame and the time at which it is shown.

    Args:
        index: from 0 on, without gaps.
        time: seconds in the sound that was pushed and not dropped: `index / fps`.
        image: of the kind of `output_type`; None with "motion".
        motion: `FlameMotion` of this one frame.
        gate: g, strength of the emotion, 0 to 1.
        emotion_logits: `[7]`, z_e in the order of `EMOTIONS`.
    """

    index: int
    time: float
    image: Any
    motion: FlameMotion
    gate: float
    emotion_logits: torch.Tensor


class TalkingHeadStream:
    """An iterator of `StreamedFrame`s, made by `pipe.stream`; an async iterator if the source is async.

    Args:
        model, processor: `EmoTaGModel` and `EmoTaGProcessor`.
        chunks: iterable, or async iterable, of samples `[n]` or `[n, channels]`; an empty chunk has no effect, None
            stands for one frame of silence.
        sampling_rate: Hz of all chunks.
        options: `SpeakOptions`.

    Raises:
        ValueError: an invalid argument, at once; an invalid chunk, when it is read. The speech encoders of the
            "transformers" front end need the whole recording and cannot be streamed.
    """

    def __init__(
        self,
        model: EmoTaGModel,
        processor: EmoTaGProcessor,
        chunks: Iterable[Any] | AsyncIterable[Any],
        sampling_rate: int,
        options: SpeakOptions,
    ) -> None:
        if not isinstance(chunks, (Iterable, AsyncIterable)) or isinstance(chunks, (str, bytes, np.ndarray, dict)):
            raise ValueError(
                f"chunks: expected a generator or another iterable of arrays of samples, got {type(chunks).__name__}; "
                "pipe(audio) takes a whole recording."
            )
        self._model, self._chunks, self._options, self.fps = model, chunks, options, options.fps
        extractor = processor.feature_extractor
        self._sound = AudioStream(sampling_rate, extractor.sampling_rate)
        self._features = extractor.stream()
        self._loudness = LoudnessStream(extractor.sampling_rate)
        look_ahead = LOOK_AHEAD if options.look_ahead is None else options.look_ahead
        self._motion = MotionStream(
            model,
            fps=options.fps,
            direction=options.direction,
            seed=int(options.seed),
            head_motion=options.head_motion,
            driving=options.driving,
            look_ahead=look_ahead,
            articulation=options.articulation,
        )
        self._renderer = None
        if options.output_type != "motion":
            self._renderer = FrameRenderer(model, *scene(model, options))
            self._renderer.prepare()
        config = model.config.motion_config
        # At another frame rate, frames are interpolated between two of the network's.
        between = 0.0 if options.fps == config.fps else 1 / config.fps
        late = 0.0 if sampling_rate == extractor.sampling_rate else _RESAMPLING
        self.look_ahead = model.motion.look_ahead(look_ahead) + between + late
        self.metadata = make_provenance(
            model=model.config.avatar_name, emotion=options.emotion, intensity=options.intensity, seed=int(options.seed)
        )
        self._heard = 0  # samples at the rate of the front end
        self._index = 0
        is_async = isinstance(chunks, AsyncIterable)
        self._frames: Any = None if is_async else self._run()
        self._async_frames: Any = self._run_async() if is_async else None

    # --- iteration ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[StreamedFrame]:
        return self

    def __next__(self) -> StreamedFrame:
        if self._frames is None:
            raise TypeError("stream: these chunks come from an async generator; iterate with `async for`.")
        return next(self._frames)

    def __aiter__(self) -> AsyncIterator[StreamedFrame]:
        return self

    async def __anext__(self) -> StreamedFrame:
        if self._async_frames is None:
            raise TypeError("stream: these chunks come from an ordinary iterable; iterate with `for`.")
        return await self._async_frames.__anext__()

    def close(self) -> None:
        """Ends a stream early; the source is not read further."""
        if self._frames is not None:
            self._frames.close()

    async def aclose(self) -> None:
        """Ends an async stream early; the source is not read further."""
        if self._async_frames is not None:
            await self._async_frames.aclose()

    def __enter__(self) -> TalkingHeadStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> TalkingHeadStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- control -----------------------------------------------------------------------------------------------------

    def interrupt(self) -> float:
        """Drops the sound that was pushed but not processed yet. May be called from any thread.

        The mouth finishes the syllable that it has begun (`look_ahead`) and closes as at the end of a sentence. Head,
        eyelids, seed and time continue. Further frames need further chunks: silence, or None.

        Returns:
            The stream's time in seconds at which the next chunk begins.
        """
        self._sound.clear()
        return self._sound.num_samples / self._sound.sampling_rate

    # --- sound to frames ---------------------------------------------------------------------------------------------

    def _run(self) -> Iterator[StreamedFrame]:
        for chunk in self._chunks:
            self._push(chunk)
            yield from self._ready()
        yield from self._rest()

    async def _run_async(self) -> AsyncIterator[StreamedFrame]:
        async for chunk in self._chunks:
            self._push(chunk)
            ready = self._ready()
            while (frame := await asyncio.to_thread(next, ready, None)) is not None:
                yield frame
        rest = self._rest()
        while (frame := await asyncio.to_thread(next, rest, None)) is not None:
            yield frame

    def _push(self, chunk: Any) -> None:
        if chunk is None:
            self._sound.push_silence(1 / self.fps)
        else:
            self._sound.push(chunk)

    def _ready(self) -> Iterator[StreamedFrame]:
        """The frames that the queued sound determines."""
        while len(samples := self._sound.take(round(_PIECE * self._sound.target_rate))):
            self._heard += len(samples)
            self._hear(self._features.push(samples), self._loudness.push(samples))
            yield from self._certain()

    def _rest(self) -> Iterator[StreamedFrame]:
        """The remaining frames after the end of the source."""
        self._sound.finish()
        yield from self._ready()
        if not self._heard:
            return
        count = num_video_frames(self._sound.num_samples, self.fps, self._sound.sampling_rate)  # type: ignore[arg-type]
        steps = len(self._model.native_times(count, self.fps))
        self._hear(self._features.flush(), self._loudness.flush(steps))
        self._motion.end(count)
        yield from self._certain()

    def _hear(self, features: np.ndarray, loudness: np.ndarray) -> None:
        self._motion.hear(torch.from_numpy(features), loudness)

    def _certain(self) -> Iterator[StreamedFrame]:
        for part in self._motion.certain():
            for i in range(len(part.gate)):
                motion = part.motion[i : i + 1]
                image = None
                if self._renderer is not None:
                    image = as_output(self._renderer.draw(motion), self._options.output_type)
                frame = StreamedFrame(
                    self._index, self._index / self.fps, image, motion, float(part.gate[i]), part.emotion_logits[i]
                )
                self._index += 1
                yield frame


def speak_options(**options: Any) -> SpeakOptions:
    """`SpeakOptions` of keyword arguments; an unknown name is a ValueError."""
    names = [field.name for field in fields(SpeakOptions)]
    if unknown := sorted(set(options) - set(names)):
        raise ValueError(f"stream: unknown argument {', '.join(unknown)}; expected sampling_rate, {', '.join(names)}.")
    return SpeakOptions(**options)


__all__ = ["StreamedFrame", "TalkingHeadStream", "speak_options"]
