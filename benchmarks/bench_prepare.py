"""Time per stage and frame, and memory, of preparing videos of increasing length.

    python benchmarks/bench_prepare.py [--seconds 5 30 300] [--video ME.mp4]

Without `--video` the embedded demo person speaks the embedded sample. Longer videos repeat it forwards and backwards,
so that only the length changes. Every length runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_RUN = """
import json, logging, resource, sys, time
from emotag_hf.preprocessing.data import stages
from emotag_hf.preprocessing.data.prepare import prepare
times = {}
def timed(name):
    inner = getattr(stages._Maker, name)
    def run(self):
        began = time.perf_counter(); inner(self); times[name] = time.perf_counter() - began
    setattr(stages._Maker, name, run)
for name in ("landmarks", "track", "pictures", "sound", "features", "geometry"):
    timed(name)
began = time.perf_counter()
clip = prepare(sys.argv[1], sys.argv[2], progress=False, max_seconds=3600)
total = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"frames": len(clip), "total": total, "peak_mb": peak, "stages": times}))
"""


def lengthened(source: Path, seconds: float, target: Path) -> None:
    """`source` forwards and backwards until it is `seconds` long, with repeated sound."""
    from emotag_hf.audio.audio_io import AudioClip
    from emotag_hf.video.video_reader import read_video
    from emotag_hf.video.video_writer import VideoWriter

    video = read_video(source)
    frames = list(video.frames(25.0, 5.0))
    there_and_back = frames + frames[-2:0:-1]
    count = round(seconds * 25)
    sound = video.audio
    if sound is not None:
        samples = np.resize(sound.samples, (round(seconds * sound.sampling_rate), sound.samples.shape[1]))
        sound = AudioClip(samples, sound.sampling_rate)
    height, width = frames[0].shape[:2]
    with VideoWriter(target, width, height, 25, audio=sound) as writer:
        for index in range(count):
            writer.write(there_and_back[index % len(there_and_back)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 30])
    parser.add_argument("--video", type=Path, help="a video of your own")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = args.video
        if source is None:
            from emotag_hf import EmoTaGPipeline, sample_path

            source = folder / "demo.mp4"
            EmoTaGPipeline.from_pretrained()(sample_path()).save(source)
        print(f"{'length':>8}{'frames':>8}{'total s':>9}{'ms/frame':>10}{'peak MB':>9}  ms/frame of each stage")
        for seconds in args.seconds:
            video = folder / f"{seconds:g}s.mp4"
            lengthened(source, seconds, video)
            command = [sys.executable, "-c", _RUN, str(video), str(folder / f"{seconds:g}s_clip")]
            began = time.perf_counter()
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode != 0:
                sys.exit(run.stderr[-2000:])
            row = json.loads(run.stdout.splitlines()[-1]) | {"seconds": seconds, "wall": time.perf_counter() - began}
            rows.append(row)
            each = ", ".join(f"{name} {1000 * t / row['frames']:.1f}" for name, t in row["stages"].items())
            print(
                f"{seconds:>6g} s{row['frames']:>8}{row['wall']:>9.1f}{1000 * row['total'] / row['frames']:>10.1f}"
                f"{row['peak_mb']:>9.0f}  {each}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
