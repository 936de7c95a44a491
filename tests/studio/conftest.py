"""The page in a process of its own, at toy sizes, and what visitors upload to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from demo_video import demo_video

from emotag_hf.audio.audio_io import AudioClip, load_audio
from emotag_hf.preprocessing.data.sound_file import write_flac
from emotag_hf.utils.asset_paths import sample_path
from emotag_hf.video.video_writer import VideoWriter

ROOT = Path(__file__).parents[2]
SERVE = """
import sys
from pathlib import Path
import app
from emotag_hf.studio import Settings
from emotag_hf.training.gaussians.adapt_arguments import AdaptArguments

tiny = AdaptArguments.preset(
    "fast", steps=12, num_surface=1500, num_beside=200, num_correctives=2, size=128, crop=64, trial_steps=2
)
settings = Settings(size=128, preview_size=64, max_recording_s=40, arguments=tiny)
page = app.Page(settings, folder=Path(sys.argv[2]))
page.avatars.demo().model.warm_up()
page.build().launch(server_port=int(sys.argv[1]), max_file_size=settings.max_upload_bytes, **app.LAUNCH)
"""


def speech(path: Path, seconds: float) -> Path:
    """The first seconds of the embedded sample."""
    clip = load_audio(sample_path())
    samples = np.tile(clip.samples, (1 + int(seconds // clip.duration), 1))  # again and again, where it is longer
    write_flac(path, AudioClip(samples[: round(seconds * clip.sampling_rate)], clip.sampling_rate))
    return path


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Path:
    """Files to upload: speech of some lengths, silence, text that calls itself sound or video, videos."""
    folder = tmp_path_factory.mktemp("uploads")
    for seconds in (1.0, 1.6, 36.0, 45.0):
        speech(folder / f"{seconds}.flac", seconds)
    write_flac(folder / "silence.flac", AudioClip(np.zeros((16000, 1), np.float32), 16000))
    (folder / "letter.wav").write_text("dear")
    (folder / "letter.mp4").write_text("dear")
    random = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), dtype=np.uint8)
    with VideoWriter(folder / "noface.mp4", 128, 96, 25) as writer:
        for frame in random:
            writer.write(frame)
    with VideoWriter(folder / "long.mp4", 64, 48, 10) as writer:
        for i in range(260):
            writer.write(random[i % 40, :48, :64])
    return folder


@pytest.fixture(scope="session")
def person(uploads) -> Path:
    """A video of the demo person."""
    return demo_video(uploads)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """`(address, folder of the visitors' folders)` of a served page."""
    folder = tmp_path_factory.mktemp("visitors")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "space"))
    # Gradio keeps uploads where it is told; a proxy is not for this machine's own address.
    environment = os.environ | {
        "PYTHONPATH": paths,
        "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("gradio")),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    log = folder.parent / "space.log"
    with log.open("w") as file:
        command = [sys.executable, "-c", SERVE, str(port), str(folder)]
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, server, log)
        yield address, folder
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        server.terminate()
        server.wait(20)


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            opener.open(address, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the page did not come up: {log.read_text()}")
