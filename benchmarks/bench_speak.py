"""Speed from recording to mp4, by stage.

    python benchmarks/bench_speak.py [speech.wav] [--size 512] [--seconds 10] [--repeats 3] [--yardstick DIR]

Prints the real-time factor (seconds of video per second of work) and milliseconds per frame of each stage: audio
features, motion network and generators, posing, rasterising with compositing, and what encoding adds (it runs in
parallel). `--yardstick DIR` also times the prototype rasteriser's kernels on this machine, for comparison.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from emotag_hf import EmoTaGPipeline, sample_path
from emotag_hf.audio.audio_io import AudioClip, load_audio
from emotag_hf.pipelines.talking_head import SpeakOptions, finish, predict


def run_once(pipe: EmoTaGPipeline, clip: AudioClip, size: int) -> dict[str, float]:
    """Seconds per stage for one recording, and in all."""
    began = time.perf_counter()
    samples = clip.mono(16000)
    features = pipe.processor(audio=samples, sampling_rate=16000)
    inputs = {"input_features": features["input_features"], "samples": samples}
    featured = time.perf_counter()
    options = SpeakOptions(size=size)
    predicted = predict(pipe.model, clip, inputs, options)
    moved = time.perf_counter()
    out = finish(pipe.model, clip, predicted, options)
    with tempfile.TemporaryDirectory() as folder:
        out.save(os.path.join(folder, "out.mp4"))
    ended = time.perf_counter()
    stages = {"features": featured - began, "motion": moved - featured, **out.frames.seconds}
    return stages | {"encode and rest": ended - began - sum(stages.values()), "total": ended - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="?", default=sample_path())
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--yardstick", help="folder of the prototype rasteriser")
    args = parser.parse_args()
    pipe = EmoTaGPipeline.from_pretrained()
    clip = load_audio(args.audio)
    clip = AudioClip(clip.samples[: int(args.seconds * clip.sampling_rate)], clip.sampling_rate)
    run_once(pipe, AudioClip(clip.samples[: clip.sampling_rate], clip.sampling_rate), args.size)  # compile, warm up
    runs = [run_once(pipe, clip, args.size) for _ in range(args.repeats)]
    frames = int(np.ceil(clip.duration * 25))
    print(f"{clip.duration:.1f} s of speech, {frames} frames of {args.size}x{args.size}, {pipe.model.gaussians}")
    for stage in runs[0]:
        median = float(np.median([r[stage] for r in runs]))
        print(f"  {stage:16s} {median * 1000 / frames:7.2f} ms/frame")
    total = float(np.median([r["total"] for r in runs]))
    print(f"  real-time factor {clip.duration / total:.2f} (median of {args.repeats}), {os.cpu_count()} cores")
    if args.yardstick:
        print("yardstick, kernels from 2D only, same machine:")
        command = [sys.executable, "bench.py", "nbvec,nbplain", "7"]
        library = os.path.join(sys.prefix, "lib")
        done = subprocess.run(
            command, cwd=args.yardstick, capture_output=True, text=True,
            env={**os.environ, "LD_LIBRARY_PATH": library, "NUMBA_CACHE_DIR": tempfile.mkdtemp()},
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if f" {args.size} " in line]
        print("\n".join(f"  {line.split('{')[0]}" for line in lines) or done.stderr[-500:])


if __name__ == "__main__":
    main()
