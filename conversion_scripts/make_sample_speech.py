"""Makes the demo's recording with espeak-ng, a synthetic voice that may be distributed.

    python conversion_scripts/make_sample_speech.py -o src/emotag_hf/assets/sample.flac

Needs `espeak-ng` on the PATH (Debian: `apt install espeak-ng`); only its output is used.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess

import av
import numpy as np

TEXT = (
    "Hello! I am made of a few thousand little Gaussians. Give me your voice, and I will move my lips, my brows and my "
    "eyes with it, on any computer."
)


def synthesise(text: str, voice: str, words_per_minute: int, pitch: int) -> tuple[np.ndarray, int]:
    """Samples `[n]` float32 in [-1, 1] and their rate, as espeak-ng speaks `text`."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # espeak-ng streams a header with a length it does not know; PyAV reads the samples all the same.
    with av.open(io.BytesIO(wav)) as container:
        rate = container.streams.audio[0].rate
        samples = np.concatenate([f.to_ndarray().reshape(-1) for f in container.decode(audio=0)])
    return samples.astype(np.float32) / 32768, rate


def write_flac(path: str, samples: np.ndarray, rate: int) -> None:
    """Writes 16-bit mono flac with a third of a second of quiet at both ends."""
    quiet = np.zeros(rate // 3, np.float32)
    samples = np.concatenate([quiet, 0.8 * samples / np.abs(samples).max(), quiet])
    pcm = (samples * 32767).round().astype(np.int16)
    with av.open(path, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.rate = rate
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="flac to write")
    parser.add_argument("--voice", default="en-us+m3")
    parser.add_argument("--text", default=TEXT)
    args = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        parser.error("espeak-ng is not on the PATH; on Debian: apt install espeak-ng")
    samples, rate = synthesise(args.text, args.voice, 150, 42)
    write_flac(args.output, samples, rate)
    print(f"{args.output}: {len(samples) / rate:.1f} s of speech at {rate} Hz")


if __name__ == "__main__":
    main()
