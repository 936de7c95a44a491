"""A video with a face that belongs to nobody: the embedded demo person, who says a few words. Made once a session."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from emotag_hf.audio.audio_io import load_audio
from emotag_hf.utils.asset_paths import sample_path

SECONDS = 2.0
SIZE = 256


@lru_cache(maxsize=1)
def _made() -> Path:
    from emotag_hf import EmoTaGPipeline

    pipe = EmoTaGPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    audio = load_audio(sample_path())
    spoken = audio.samples[: int(SECONDS * audio.sampling_rate)]
    path = Path(mkdtemp(prefix="emotag-demo-")) / "demo.mp4"
    pipe(spoken, sampling_rate=audio.sampling_rate, size=SIZE, emotion="happy", intensity=0.6, seed=1).save(path)
    return path


def demo_video(folder: Path) -> Path:
    """The demo person's video as `folder/demo.mp4`."""
    return Path(shutil.copy(_made(), folder / "demo.mp4"))
