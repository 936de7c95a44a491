"""Video out: sync, colours, the AI-generated mark, and that a failed write leaves nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

import emotag_hf
from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.rights.provenance import DIGITAL_SOURCE_TYPE, make_provenance, read_provenance
from emotag_hf.video.video_reader import read_video
from emotag_hf.video.video_writer import VideoWriteError, VideoWriter

WIDTH, HEIGHT = 64, 48
COLOUR = (200, 30, 90)


def tone(rate: int, channels: int = 1, seconds: float = 2.0) -> AudioClip:
    """Half a second of silence, then a tone."""
    t = np.arange(int(rate * seconds)) / rate
    x = ((t >= 0.5) * 0.5 * np.sin(2 * np.pi * 500 * t)).astype(np.float32)
    return AudioClip(np.repeat(x[:, None], channels, axis=1), rate)


def write(path, num_frames=50, fps=25, **kwargs):
    """Black, then from 0.5 s on one colour, together with the tone."""
    with VideoWriter(path, WIDTH, HEIGHT, fps, **kwargs) as writer:
        for i in range(num_frames):
            lit = i >= 0.5 * fps
            writer.write(np.full((HEIGHT, WIDTH, 3), COLOUR if lit else 0, np.uint8))


@pytest.mark.parametrize(
    ("fps", "rate", "channels"),
    [(25, 48_000, 2), (25, 16_000, 1), (10, 44_100, 2), (30_000 / 1001, 44_100, 1), (60, 7_000, 1), (25, 96_000, 2)],
)
def test_sync(tmp_path, fps, rate, channels):
    """As many frames as were written, the sound whole and beside its frames, at any frame and sample rate."""
    num_frames = round(2 * fps)
    write(tmp_path / "out.mp4", num_frames, fps, audio=tone(rate, channels))
    clip = read_video(tmp_path / "out.mp4")
    frames = list(clip.frames())
    assert len(frames) == clip.num_frames == num_frames
    assert clip.fps == pytest.approx(fps)
    first_lit = next(i for i, frame in enumerate(frames) if frame.mean() > 50)
    assert first_lit == int(np.ceil(0.5 * fps))
    assert clip.audio.duration == pytest.approx(2.0, abs=0.001)
    mono = clip.audio.mono()
    assert np.argmax(np.abs(mono) > 0.1) / 16_000 == pytest.approx(0.5, abs=0.002)
    assert mono[10_000:30_000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        assert float(video.duration * video.time_base) == pytest.approx(num_frames / fps, abs=1e-3)
        assert container.streams.audio[0].channels == channels


def test_streams_are_interleaved(tmp_path):
    """Sound and picture of a moment lie beside each other in the file, or a player on a slow line would stall."""
    write(tmp_path / "out.mp4", 250, audio=tone(48_000, seconds=10.0))
    latest = {"video": 0.0, "audio": 0.0}
    with av.open(str(tmp_path / "out.mp4")) as container:
        for packet in container.demux():
            if packet.dts is not None:
                latest[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(latest["video"] - latest["audio"]) < 1.1


def test_colours(tmp_path):
    """Colours come back within 3 of 255, tagged BT.709, from bytes, floats and tensors alike."""
    values = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (190, 140, 120), (12, 34, 56)]
    with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, 25, crf=10) as writer:
        for value in values:
            frame = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
            writer.write(frame)
            writer.write(frame.astype(np.float32) / 255)
            writer.write(torch.from_numpy(frame).to(torch.float32) / 255)
    for i, frame in enumerate(read_video(tmp_path / "out.mp4").frames()):
        assert np.abs(frame.astype(int) - values[i // 3]).max() <= 3
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range, context.pix_fmt)
        assert tags == (1, 1, 1, 1, "yuv420p")


def test_written_frame_is_copied(tmp_path):
    """A renderer may reuse its buffer: the encoder's thread must not see what is drawn into it next."""
    buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, 25) as writer:
        for i in range(40):
            buffer[:] = 5 * i
            writer.write(buffer)
            buffer[:] = 255
    levels = [frame.mean() for frame in read_video(tmp_path / "out.mp4").frames()]
    np.testing.assert_allclose(levels, 5 * np.arange(40), atol=3)


def test_mark(tmp_path):
    """What was said about the video is read back, for programs, for people, and where IPTC's readers look (XMP)."""
    path = tmp_path / "out.mp4"
    said = make_provenance(model="demo", emotion="happy", intensity=0.7, seed=3, avatar=None)
    write(path, metadata=said)
    assert read_provenance(path) == said
    assert said["ai_generated"] is True and said["seed"] == 3 and "avatar" not in said
    assert said["digital_source_type"] == DIGITAL_SOURCE_TYPE
    assert read_video(path).metadata["description"].startswith("AI-generated")
    data = path.read_bytes()
    xmp = data[data.index(b"uuid\xbe\x7a\xcf\xcb") :]
    assert DIGITAL_SOURCE_TYPE.encode() in xmp and b"Iptc4xmpExt:DigitalSourceType" in xmp
    assert data.index(b"moov") < data.index(b"mdat"), "a player must be able to start before the file is whole"


def test_no_mark(tmp_path):
    """A video that nobody marked reads as unmarked; a caller cannot unsay the mark."""
    write(tmp_path / "out.mp4", metadata={"note": "a real recording"})
    assert read_provenance(tmp_path / "out.mp4") == {}
    assert make_provenance(ai_generated=False)["ai_generated"] is True
    with pytest.raises(FileNotFoundError, match="no file"):
        read_provenance(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        read_provenance(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"path": "nowhere/out.mp4"}, "path: expected a folder that exists"),
        ({"path": "out.avi"}, "path: expected a name that ends in .mp4"),
        ({"width": 65}, "width: expected an even number"),
        ({"height": 0}, "height: expected an even number"),
        ({"fps": 0}, "fps: expected"),
        ({"fps": float("nan")}, "fps: expected"),
    ],
)
def test_bad_arguments(tmp_path, kwargs, words):
    arguments = {"path": "out.mp4", "width": WIDTH, "height": HEIGHT, "fps": 25} | kwargs
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises((ValueError, OSError), match=words):
        VideoWriter(**arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((HEIGHT, WIDTH, 4), np.uint8), "shape"),
        (np.zeros((WIDTH, HEIGHT, 3), np.uint8), "shape"),
        (np.zeros((HEIGHT, WIDTH, 3), np.int32), "int32"),
        (np.full((HEIGHT, WIDTH, 3), np.nan, np.float32), "nan"),
        (np.full((HEIGHT, WIDTH, 3), 255.0, np.float32), "255"),
    ],
)
def test_bad_frames(tmp_path, frame, words):
    """A frame that cannot be is refused, and the file that was begun goes away."""
    with pytest.raises(ValueError, match=f"^frame: .*{words}"):
        with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, 25) as writer:
            writer.write(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
            writer.write(frame)
    assert list(tmp_path.iterdir()) == []


def test_no_frames(tmp_path):
    with pytest.raises(ValueError, match="none was written"):
        with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, 25):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing_call", [1, 20, 45])
def test_disk_full(tmp_path, monkeypatch, failing_call):
    """ENOSPC from the encoder's thread at any time: one sentence, nothing half-written, the older file still there."""
    (tmp_path / "out.mp4").write_bytes(b"the older file")
    calls = 0
    mux = av.container.OutputContainer.mux

    class FullContainer:
        """The real container, whose disk fills up."""

        def __init__(self, container):
            self._real = container

        def __getattr__(self, name):
            return getattr(self._real, name)

        def mux(self, packets):
            nonlocal calls
            calls += 1
            if calls >= failing_call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            mux(self._real, packets)

    av_open = av.open
    monkeypatch.setattr(
        "emotag_hf.video.video_writer.av.open", lambda *args, **kwargs: FullContainer(av_open(*args, **kwargs))
    )
    with pytest.raises(VideoWriteError, match="out.mp4 could not be written .No space left on device.; nothing"):
        write(tmp_path / "out.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"the older file"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a process's files")
def test_write_that_really_fails(tmp_path):
    """The operating system itself refuses to let the file grow: FFmpeg's buffered error must not get lost."""
    code = f"""
import resource, sys, types
package = types.ModuleType("emotag_hf")  # the writer alone, without what `import emotag_hf` registers
package.__path__ = {emotag_hf.__path__!r}
sys.modules["emotag_hf"] = package
import numpy
from emotag_hf.video.video_writer import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = numpy.random.default_rng(0)
with VideoWriter({str(tmp_path / "out.mp4")!r}, 128, 128, 25) as writer:
    for _ in range(60):
        writer.write(noise.integers(0, 255, (128, 128, 3), dtype=numpy.uint8))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    assert "VideoWriteError" in run.stderr and "could not be written (File too large)" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_failure_of_the_caller(tmp_path):
    """When the renderer fails half-way, its own error comes through and no file is left."""
    with pytest.raises(ZeroDivisionError):
        with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, 25, audio=tone(16_000)) as writer:
            for i in range(9):
                writer.write(np.full((HEIGHT, WIDTH, 3), 100 // (5 - i), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_same_input_same_file(tmp_path):
    """No time stamp and no race of threads in the file: the same video has the same bytes."""
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name, audio=tone(44_100), metadata=make_provenance(seed=1))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_read_video_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match="no picture"):
        read_video(tmp_path / "text.mp4")


def test_fraction_of_fps(tmp_path):
    """29.97 means 2997/100 and 30000/1001 stays itself, so that long videos do not drift."""
    assert VideoWriter(tmp_path / "a.mp4", 64, 64, 30_000 / 1001).fps == Fraction(30_000, 1001)
    assert VideoWriter(tmp_path / "a.mp4", 64, 64, 29.97).fps == Fraction(2997, 100)
