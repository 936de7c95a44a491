"""Streaming: frames of the recording at equal look-ahead, bounded memory, idling, interrupting, odd chunks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from emotag_hf import EmoTaGPipeline, FlameMotion, StreamedFrame, sample_path
from emotag_hf.audio.audio_io import StreamResampler, load_audio, resample
from emotag_hf.audio.audio_stream import AudioStream
from emotag_hf.audio.loudness import LoudnessStream, loudness_from_samples
from emotag_hf.motion.motion_generator import MotionGenerator

RATE = 16_000
PICTURES = dict(
    sampling_rate=RATE, size=64, emotion="happy", intensity=0.7, seed=5, background="navy", look_ahead=0.16
)  # fmt: skip
MOTION = 1e-5  # what the rounding of matrix products of other sizes may change


def slow(*values):
    """A case that runs in `make test-all`."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def pipe():
    return EmoTaGPipeline.from_pretrained()


@pytest.fixture(scope="module")
def speech():
    """2.1 seconds of the embedded sample, 16 kHz; no whole number of frames."""
    return load_audio(sample_path()).mono(RATE)[4000:37_717]


@pytest.fixture(scope="module")
def recording(pipe, speech):
    """What `PICTURES` makes of it at once, and its frames."""
    whole = pipe(speech, **PICTURES)
    return whole, list(whole.frames)


def chunked(samples: np.ndarray, *sizes: int):
    start = turn = 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        yield samples[start : start + size]
        start, turn = start + size, turn + 1


def table(frames: list[StreamedFrame]) -> torch.Tensor:
    motion = FlameMotion.cat([frame.motion for frame in frames])
    gate = torch.tensor([frame.gate for frame in frames])
    return _table(motion, gate, torch.stack([frame.emotion_logits for frame in frames]))


def _table(motion: FlameMotion, gate: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    parts = [value for value in vars(motion).values() if isinstance(value, torch.Tensor)]
    return torch.cat([*parts, gate[:, None], logits.softmax(-1)], 1)


def check(streamed: list[StreamedFrame], whole) -> None:
    """That a stream's motion, gate and emotion are a recording's."""
    torch.testing.assert_close(
        table(streamed), _table(whole.motion, whole.gate, whole.emotion_logits), rtol=0, atol=MOTION
    )


SIZES = [(320,), slow((1600,)), slow((5328,)), slow((32_000,)), (1, 77, 901, 13)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_pictures_are_those_of_the_recording(pipe, speech, recording, sizes):
    """Within one of 255 levels, for chunks of 20 ms to 2 s and odd ones."""
    whole, frames = recording
    streamed = list(pipe.stream(chunked(speech, *sizes), **PICTURES))
    assert [frame.index for frame in streamed] == list(range(len(whole.frames)))
    assert [frame.time for frame in streamed] == [i / 25 for i in range(len(whole.frames))]
    assert max(np.abs(one.image - other).max() for one, other in zip(streamed, frames)) <= 1 / 255
    check(streamed, whole)


_KEYFRAMES = [
    {"time": 0.3, "emotion": "auto"},
    {"time": 0.9, "emotion": {"AU12": 3, "AU26": 2}},
    {"time": 1.6, "emotion": {"sad": 1, "fear": 1}, "intensity": 0.5},
]


@pytest.mark.parametrize(
    "options",
    [
        slow({}),
        slow({"intensity": 0.4, "fps": 10}),
        {"emotion": _KEYFRAMES, "fps": 60, "seed": 9, "head_motion": 1.7},
        slow({"emotion": {"valence": 0.4, "arousal": 0.7}, "fps": 29.97}),
        {"look_ahead": 0.4},
        slow({"look_ahead": "full"}),
    ],
    ids=["auto", "10 fps", "keyframes at 60", "29.97", "0.4 s ahead", "full"],
)
def test_motion_is_that_of_the_recording(pipe, speech, options):
    """Emotion, keyframes over time, intensity, seed and frame rate change nothing about that."""
    options = {"sampling_rate": RATE, "output_type": "motion", "look_ahead": 0.16, **options}
    whole = pipe(speech, **options)
    for sizes in ((320,), (7777,)):
        streamed = list(pipe.stream(chunked(speech, *sizes), **options))
        check(streamed, whole)


def test_driven_motion_is_that_of_the_recording(pipe, speech):
    """A driving clip's head and brows come at the same moments, though the clip is shorter and played again."""
    rng = np.random.default_rng(0)
    clip = FlameMotion.zeros(30)
    turns = torch.from_numpy(rng.normal(size=(30, 3)).cumsum(0).astype(np.float32)) * 0.01
    clip = replace(clip, rotation=turns, eyelids=torch.rand(30, 2, generator=torch.Generator().manual_seed(0)))
    options = dict(
        sampling_rate=RATE, output_type="motion", pose_from=clip, expression_from=clip, fps=30, look_ahead=0.16
    )
    whole = pipe(speech, **options)
    streamed = list(pipe.stream(chunked(speech, 1234), **options))
    check(streamed, whole)


@pytest.mark.parametrize("rate", [slow(8000), slow(22_050), 44_100, slow(48_000)])
def test_other_sampling_rates_and_stereo(pipe, speech, rate):
    """Resampling and mixing give the same samples in any chunks, and the video its length."""
    samples = resample(speech[:, None], RATE, rate)
    samples = (np.concatenate([samples, 0.5 * samples], 1).clip(-1, 1) * 32767).astype(np.int16)
    whole = pipe(samples, sampling_rate=rate, output_type="motion", look_ahead=0.16)
    for sizes in ((rate // 50,), (997, 3, 12_345)):
        streamed = list(pipe.stream(chunked(samples, *sizes), sampling_rate=rate, output_type="motion"))
        check(streamed, whole)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 24_000, 32_000, 44_100, 96_000])
def test_resampling_in_chunks(rate):
    """A stream's resampler gives the bits of the whole, and as many samples."""
    samples = np.random.default_rng(rate).normal(size=(rate + 7, 1)).astype(np.float32)
    stream = StreamResampler(rate, RATE)
    parts = [stream.push(chunk) for chunk in chunked(samples, rate // 50, 1, 333)]
    assert np.array_equal(np.concatenate([*parts, stream.finish()]), resample(samples, rate, RATE))


def test_loudness_in_chunks(speech):
    """The loudness of a stream is `loudness_from_samples` to the bit, the last level held at the end."""
    times = np.arange(60) / 25
    for sizes in ((320,), (1, 77, 901), (40_000,)):
        stream = LoudnessStream(RATE)
        parts = [stream.push(chunk) for chunk in chunked(speech, *sizes)]
        assert np.array_equal(np.concatenate([*parts, stream.flush(60)]), loudness_from_samples(speech, RATE, times))


@pytest.mark.parametrize("fps, rate", [(25, 16_000), slow(30, 16_000), (25, 44_100)])
def test_look_ahead_is_kept(pipe, speech, fps, rate):
    """A frame comes with the chunk that ends `look_ahead` after it, at the latest."""
    samples, pushed = resample(speech[:, None], RATE, rate)[:, 0], []

    def source():
        for chunk in chunked(samples, rate // 50):
            pushed.append(len(chunk) / rate)
            yield chunk

    stream = pipe.stream(source(), sampling_rate=rate, fps=fps, output_type="motion")
    late = [sum(pushed) - frame.time for frame in stream if sum(pushed) < len(samples) / rate]
    assert stream.look_ahead <= 0.22 and len(late) > 40
    assert 0 < min(late) and max(late) <= stream.look_ahead + 0.02 + 1e-6


def test_async_source(pipe, speech):
    """An async generator gives an async iterator of the same frames, and the loop stays free meanwhile."""
    speech, ticks = speech[:20_500], 0

    async def source():
        for chunk in chunked(speech, 3200):
            await asyncio.sleep(0)
            yield chunk

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def main():
        ticker = asyncio.create_task(tick())
        frames = [frame async for frame in pipe.stream(source(), sampling_rate=RATE, size=64)]
        ticker.cancel()
        return frames

    frames = asyncio.run(main())
    whole = pipe(speech, sampling_rate=RATE, size=64, look_ahead=0.16)
    assert len(frames) == len(whole.frames) and np.abs(frames[30].image - whole.frames[30]).max() <= 1 / 255
    assert ticks > len(frames)


def held(thing, seen: set[int]) -> int:
    """Numbers that an object holds, in arrays and tensors and lists, through everything that it refers to."""
    if id(thing) in seen or isinstance(thing, (torch.nn.Module, str, bytes, type)):
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes() // 4
    if isinstance(thing, np.ndarray):
        return (thing if thing.base is None else thing.base).size if not isinstance(thing.base, bytes) else thing.size
    if isinstance(thing, dict):
        return sum(held(value, seen) for value in thing.values()) + len(thing)
    if isinstance(thing, (list, tuple, set)):
        return sum(held(value, seen) for value in thing) + len(thing)
    return held(vars(thing), seen) if hasattr(thing, "__dict__") else 0


@pytest.mark.slow
def test_memory_does_not_grow(pipe, speech):
    """Nothing that a stream holds grows: 16 seconds later it holds as many numbers; 25 more a second would show."""
    sizes, second = [], np.tile(speech, 2)[:RATE]

    def source():
        for number in range(38):
            yield np.zeros(RATE, np.float32) if number % 5 == 4 else second
            sizes.append(held(vars(stream), set()))

    stream = pipe.stream(source(), sampling_rate=RATE, output_type="motion", fps=10)
    for _ in stream:
        pass
    # What is held goes up and down with the blocks, which lie alike after 16 s.
    early, late = max(sizes[6:22]), max(sizes[22:38])
    assert early > 1000 and late < early + 150, sizes


def test_forgetting_changes_nothing():
    """What a generator forgets, no later moment needs."""
    loudness = np.random.default_rng(1).uniform(0, 1, 1000) * (np.arange(1000) % 200 > 60)
    one, other = MotionGenerator(3), MotionGenerator(3)
    one.hear(loudness)
    other.hear(loudness)
    for first in range(0, 990, 11):
        times = np.arange(first, first + 9) / 25
        other.forget(times[0])
        for field, value in vars(one.at(times)).items():
            assert torch.equal(value, getattr(other.at(times), field)), field


def opening(frames) -> np.ndarray:
    return np.array([float(frame.motion.jaw_pose[0, 0]) for frame in frames])


def test_idle_motion_in_silence(pipe):
    """Silence that never was speech: lips shut, while the head blinks, looks about and breathes."""
    frames = list(pipe.stream([None] * 100, sampling_rate=RATE, output_type="motion", fps=10))
    assert len(frames) == 100
    motion = FlameMotion.cat([frame.motion for frame in frames])
    settled = opening(frames)[10:]
    assert settled.max() < 0.03 and np.abs(np.diff(settled)).max() < 0.01
    assert motion.eyelids.max() > 0.9  # it blinks
    assert motion.translation[:, 1].std() > 2e-4 and motion.neck_pose.std(0).max() > 0.005
    assert motion.eyes_pose.std(0).max() > 0.005


def test_empty_chunks_are_nothing_and_none_is_a_frame(pipe, speech):
    """A decoder's empty first chunks must not shift the lips; None adds silence as long as a frame."""
    speech = speech[:RATE]
    options = dict(sampling_rate=RATE, output_type="motion")
    plain = table(list(pipe.stream([speech], **options)))
    empty = np.zeros(0, np.float32)
    assert torch.equal(table(list(pipe.stream([empty, speech[:500], empty, speech[500:]], **options))), plain)
    silent = np.concatenate([np.zeros(3 * 640, np.float32), speech])
    later = table(list(pipe.stream([None, None, None, speech], **options)))
    assert torch.equal(later, table(list(pipe.stream([silent], **options))))


def test_interrupt_returns_to_rest_and_speech_resumes(pipe, speech):
    """What waits is dropped, the mouth shuts without a pop, and new speech goes on from there on the same clock."""
    cut_at, clock = [], []

    def source():
        yield speech  # 2.1 s at once
        yield from [None] * 25
        yield speech

    options = dict(sampling_rate=RATE, output_type="motion", seed=2)
    stream, frames = pipe.stream(source(), **options), []
    for frame in stream:
        frames.append(frame)
        if frame.time == 0.8:
            clock.append(stream.interrupt())
            cut_at.append(frame.index)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert 0.8 + 0.1 < clock[0] < 0.8 + stream.look_ahead + 0.05
    # 0.8 s and what was heard ahead, a second of quiet, and the whole of the second speech
    assert len(frames) == np.ceil((clock[0] + 1 + len(speech) / RATE) * 25 - 1e-6)

    jaw, spoken = (
        opening(frames),
        opening(list(pipe.stream([speech], sampling_rate=RATE, output_type="motion", seed=2))),
    )
    cut = cut_at[0]
    assert np.array_equal(jaw[:cut], spoken[:cut])
    quickest = np.abs(np.diff(spoken)).max()
    assert np.abs(np.diff(jaw[cut : cut + 30])).max() <= quickest
    assert jaw[cut + 13 : cut + 25].max() < 0.03  # half a second later it is shut, where it would have spoken on
    assert spoken[cut + 13 : cut + 25].max() > 0.05
    neck = torch.cat([frame.motion.neck_pose for frame in frames])
    assert float((neck[1:] - neck[:-1]).abs().max()) < 0.05
    assert jaw[cut + 35 :].max() > 0.5 * spoken.max()  # and it speaks again
    # as it would have with the quiet in one recording
    heard = np.concatenate([speech[: round(clock[0] * RATE)], np.zeros(RATE, np.float32), speech])
    assert torch.equal(
        table(frames), table(list(pipe.stream([heard], sampling_rate=RATE, output_type="motion", seed=2)))
    )


def test_close_ends_early_and_leaves_the_source(pipe, speech):
    """After `close` there are no frames; the source can go on elsewhere."""
    source = chunked(speech, 1600)
    with pipe.stream(source, sampling_rate=RATE, output_type="motion") as stream:
        next(stream)
    assert list(stream) == [] and len(next(source)) == 1600


def test_nothing_and_hardly_anything(pipe, speech):
    """No sound is no frame, a moment is one, as `num_video_frames` has it."""
    options = dict(sampling_rate=RATE, output_type="motion")
    assert list(pipe.stream([], **options)) == []
    assert list(pipe.stream([np.zeros(0, np.float32)], **options)) == []
    assert len(list(pipe.stream([speech[:100]], **options))) == 1


def test_output_types_and_both_pipelines(pipe, speech):
    """pil and pt as offline; the transformers pipeline delegates to the same."""
    from transformers import pipeline

    options = dict(sampling_rate=RATE, size=(96, 64))
    pil, pt = (next(pipe.stream([speech], output_type=kind, **options)).image for kind in ("pil", "pt"))
    assert pil.size == (96, 64) and pt.shape == (3, 64, 96)
    theirs = next(pipeline("talking-head").stream([speech], output_type="pt", **options))
    assert torch.equal(theirs.image, pt)


@pytest.mark.parametrize(
    "chunk, message",
    [
        (b"1234", r"chunk 2: .*got bytes; numpy.frombuffer"),
        ([0.1, 0.2], "chunk 2: expected an array or tensor"),
        (np.array(["a"]), "chunk 2: expected floats"),
        (np.zeros((2, 320), np.float32), r"chunk 2: .*\(2, 320\); transpose"),
        (np.zeros((3, 2, 1), np.float32), r"chunk 2: .*\(3, 2, 1\)"),
        (np.zeros((320, 2), np.float32), "chunk 2: expected 1 channels like the chunks before, got 2"),
        (np.full(320, np.nan, np.float32), "chunk 2: expected finite samples"),
        (np.full(320, 9000.0), r"chunk 2: expected floats in \[-1, 1\], got a peak of 9000"),
    ],
)
def test_bad_chunks(pipe, speech, chunk, message):
    """One sentence that says which chunk and what to do."""
    with pytest.raises(ValueError, match=message):
        list(pipe.stream([speech[:320], chunk], sampling_rate=RATE, output_type="motion"))


def test_bad_arguments(pipe, speech):
    """Refused before any chunk is asked for."""
    for chunks in (speech, "speech.wav", 3, None):
        with pytest.raises(ValueError, match="chunks: expected a generator"):
            pipe.stream(chunks, sampling_rate=RATE)
    for rate in (None, 0, 44_100.5, "16000"):
        with pytest.raises(ValueError, match="sampling_rate: expected"):
            pipe.stream([speech], sampling_rate=rate)
    with pytest.raises(ValueError, match="intensity"):
        pipe.stream([speech], sampling_rate=RATE, intensity=3)
    with pytest.raises(ValueError, match="stream: unknown argument colour"):
        pipe.stream([speech], sampling_rate=RATE, colour="red")

    async def source():
        yield speech

    with pytest.raises(TypeError, match="async for"):
        next(pipe.stream(source(), sampling_rate=RATE, output_type="motion"))
    with pytest.raises(TypeError, match="iterate with `for`"):
        asyncio.run(anext(pipe.stream([speech], sampling_rate=RATE, output_type="motion")))


def test_sound_after_the_end_and_channels_that_cancel():
    """A queue that was finished is refused more; opposite channels would be silence and are named."""
    sound = AudioStream(RATE)
    with pytest.raises(ValueError, match="cancel each other"):
        sound.push(np.array([[0.5, -0.5]] * 100, np.float32))
    sound.finish()
    with pytest.raises(ValueError, match="has ended"):
        sound.push(np.zeros(10, np.float32))
