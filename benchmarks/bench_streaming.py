"""Streaming: latency and time per frame, equality with the recording, memory.

    python benchmarks/bench_streaming.py [--model FOLDER] [--size 512] [--seconds 10]

Sound is pushed in 20 ms chunks, as from a microphone. Prints the latency of the first frame, the time per frame (median
and 95th percentile, and the share of motion), the time per frame of the whole recording, the largest pixel difference
to it for chunks of 20 ms to 2 s, the time for the motion of one minute, and whether memory grows. Both wall time and
CPU time are given, because other processes affect wall time.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np

from emotag_hf import EmoTaGPipeline, sample_path
from emotag_hf.audio.audio_io import load_audio

RATE = 16_000


def chunked(samples: np.ndarray, seconds: float) -> Iterator[np.ndarray]:
    step = round(seconds * RATE)
    for start in range(0, len(samples), step):
        yield samples[start : start + step]


def first_frame(pipe: EmoTaGPipeline, samples: np.ndarray, size: int) -> float:
    """Milliseconds from pushing the chunk that completes the first frame's sound to having the frame."""
    pushed = []

    def source() -> Iterator[np.ndarray]:
        for chunk in chunked(samples, 0.02):
            pushed.append(time.perf_counter())
            yield chunk

    next(pipe.stream(source(), sampling_rate=RATE, size=size))
    return (time.perf_counter() - pushed[-1]) * 1000


def per_frame(pipe: EmoTaGPipeline, samples: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """Wall and CPU milliseconds that each frame of a stream of 20 ms chunks takes, its share of the sound included."""
    stream = pipe.stream(chunked(samples, 0.02), sampling_rate=RATE, **options)
    marks = [(time.perf_counter(), time.process_time())]
    for _ in stream:
        marks.append((time.perf_counter(), time.process_time()))
    took = np.diff(np.array(marks), axis=0)[1:] * 1000  # the first one waits for its look-ahead of sound
    return took[:, 0], took[:, 1]


def say(name: str, wall: np.ndarray, cpu: np.ndarray) -> None:
    print(
        f"  {name:34s} median {np.median(wall):6.1f} ms   p95 {np.percentile(wall, 95):6.1f} ms   "
        f"CPU time: median {np.median(cpu):6.1f} ms   p95 {np.percentile(cpu, 95):6.1f} ms"
    )


def minute(pipe: EmoTaGPipeline, samples: np.ndarray) -> None:
    """The motion of 60 s of sound, in one go and in chunks."""
    samples = np.tile(samples, 1 + 60 * RATE // len(samples))[: 60 * RATE]
    runs = []
    for _ in range(3):
        began = time.perf_counter(), time.process_time()
        pipe(samples, sampling_rate=RATE, output_type="motion")
        runs.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = np.median(runs, axis=0)
    print(f"  motion of a minute, in one go      {wall:.2f} s (CPU time {cpu:.2f} s); aim 2 s")
    for seconds in (0.02, 2.0):
        began = time.perf_counter(), time.process_time()
        for _ in pipe.stream(chunked(samples, seconds), sampling_rate=RATE, output_type="motion"):
            pass
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        print(f"  the same streamed by {seconds * 1000:4.0f} ms        {took[0]:.2f} s (CPU time {took[1]:.2f} s)")


def memory(pipe: EmoTaGPipeline, samples: np.ndarray) -> None:
    """What Python and numpy hold more after 30 s of a stream than after 10 s."""
    samples, held = np.tile(samples, 1 + 32 * RATE // len(samples))[: 32 * RATE], []
    tracemalloc.start()
    for frame in pipe.stream(chunked(samples, 0.02), sampling_rate=RATE, output_type="motion"):
        if frame.index in (250, 750):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  held at 30 s against 10 s          {(held[1] - held[0]) / 1024:+.0f} KiB")
    print(f"  peak memory of this process        {peak:.0f} MiB, libraries, model and the recording to compare with")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of an avatar")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    pipe = EmoTaGPipeline.from_pretrained(args.model)
    samples = load_audio(sample_path()).mono(RATE)
    samples = np.tile(samples, 1 + int(args.seconds * RATE) // len(samples))[: int(args.seconds * RATE)]
    first_frame(pipe, samples, args.size)  # compile, warm up
    print(f"{args.seconds:.0f} s of speech, {args.size}x{args.size}, {pipe.model.gaussians}")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; a frame lasts 40 ms, half of one 20 ms")

    stream = pipe.stream([], sampling_rate=RATE)
    firsts = [first_frame(pipe, samples, args.size) for _ in range(5)]
    print(f"  stated look-ahead                  {stream.look_ahead * 1000:.0f} ms of sound")
    print(
        f"  first frame after its sound        median {np.median(firsts):.0f} ms, worst {max(firsts):.0f}; aim 300 ms"
    )
    say("a frame, streamed by 20 ms", *per_frame(pipe, samples, size=args.size))
    say("of that, sound to motion", *per_frame(pipe, samples, output_type="motion"))

    began = time.perf_counter(), time.process_time()
    whole = pipe(samples, sampling_rate=RATE, size=args.size, look_ahead=0.16)
    wanted = list(whole.frames)
    took = [(now - then) * 1000 / len(wanted) for now, then in zip((time.perf_counter(), time.process_time()), began)]
    print(f"  a frame of the recording in one go {took[0]:.1f} ms (CPU time {took[1]:.1f} ms)")
    for seconds in (0.02, 0.1, 0.333, 2.0):
        frames = pipe.stream(chunked(samples, seconds), sampling_rate=RATE, size=args.size)
        worst = max(float(np.abs(a.image - b).max()) for a, b in zip(frames, wanted, strict=True))
        print(f"  greatest pixel difference, {seconds * 1000:4.0f} ms chunks: {worst:g}")
    minute(pipe, samples)
    memory(pipe, samples)


if __name__ == "__main__":
    main()
