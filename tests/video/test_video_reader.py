"""Video in: frames stay with the sound whatever the file's clock does, and stand upright; faults are named."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from emotag_hf.video import video_reader
from emotag_hf.video.video_reader import VideoReadError, read_video

WIDTH, HEIGHT = 64, 48
TICKS = 90_000  # of the time base that the tests write
QUARTERS = ((220, 40, 40), (40, 200, 60), (50, 60, 220), (230, 230, 230))  # upper left, upper right, lower left, right


def quartered(width=WIDTH, height=HEIGHT) -> np.ndarray:
    """A picture that shows how it has been turned."""
    frame = np.zeros((height, width, 3), np.uint8)
    for colour, (y, x) in zip(QUARTERS, ((0, 0), (0, 1), (1, 0), (1, 1))):
        frame[y * height // 2 : (y + 1) * height // 2, x * width // 2 : (x + 1) * width // 2] = colour
    return frame


def quarters_of(frame) -> list[int]:
    """Which of QUARTERS stands upper left, upper right, lower left, lower right."""
    height, width = frame.shape[:2]
    found = [frame[int(height * y), int(width * x)].astype(int) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    return [int(np.argmin(np.abs(np.array(QUARTERS) - colour).sum(1))) for colour in found]


def record(path, times, pictures, *, sound=None, rate=48_000, pix_fmt="yuv420p", options=(), **context):
    """Writes pictures at the given seconds, and mono sound that starts at second 0."""
    with av.open(str(path), "w") as container:
        fps = Fraction(round(1000 / float(np.median(np.diff(times)))), 1000) if len(times) > 1 else 25
        video = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast", **dict(options)})
        rotation = context.pop("rotation", None)
        if rotation is not None:
            video.set_display_rotation(*rotation)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt, video.codec_context.time_base = pix_fmt, Fraction(1, TICKS)
        for name, value in context.items():
            setattr(video.codec_context, name, value)
        audio = None if sound is None else container.add_stream("aac", rate=rate, layout="mono")
        for time, picture in zip(times, pictures):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def flashes(times, moments, length=0.3) -> list[np.ndarray]:
    """Black, and white for `length` seconds from each moment on."""
    lit = [any(m - 1e-6 <= t < m + length for m in moments) for t in times]
    return [np.full((HEIGHT, WIDTH, 3), 255 if on else 0, np.uint8) for on in lit]


def beeps(moments, seconds, rate=48_000, length=0.3) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * 997 * t) * np.any([(t >= m) & (t < m + length) for m in moments], axis=0)


def onsets(level, threshold, step) -> list[float]:
    """Seconds at which something goes from below the threshold to above it."""
    above = np.asarray(level) > threshold
    return list((np.flatnonzero(above[1:] & ~above[:-1]) + 1) * step)


def beep_onsets(clip, window=0.005) -> list[float]:
    mono = np.abs(clip.audio.mono(16_000))
    blocks = mono[: len(mono) // 80 * 80].reshape(-1, 80).max(1)
    return onsets(blocks, 0.2, window)


def steady(fps, seconds):
    return [n / fps for n in range(round(seconds * fps))]


def unsteady(seconds):
    """24 to 60 frames a second in turn, with a pause of 0.36 s, as a phone in the dark records."""
    times, t, n = [], 0.0, 0
    while t < seconds - 1e-9:
        times.append(t)
        t += 0.36 if n == 40 else (1 / 60, 1 / 24, 1 / 30, 0.05)[n % 4]
        n += 1
    return times


RATES = {
    "24": steady(24, 6),
    "25": steady(25, 6),
    "30": steady(30, 6),
    "29.97": steady(30_000 / 1001, 6),
    "50": steady(50, 6),
    "60": steady(60, 6),
    "12": steady(12, 6),
    "variable": unsteady(6),
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("rotation", [0, 90])
def test_flash_and_beep(tmp_path, name, rotation):
    """A flash and the beep of the same moment stay together at 25 fps, from the first second to the last, whatever
    the file's own clock does."""
    times = np.array(RATES[name])
    moments = [times[np.argmin(np.abs(times - second))] for second in (1, 2, 3, 4, 5)]
    turned = {"rotation": (90,)} if rotation else {}
    path = record(tmp_path / "a.mp4", times, flashes(times, moments), sound=beeps(moments, 6), **turned)
    clip = read_video(path)
    frames = list(clip.frames(25))
    assert len(frames) == pytest.approx(clip.duration * 25, abs=1) and clip.duration == pytest.approx(6, abs=0.1)
    assert clip.rotation == rotation and frames[0].shape == ((64, 48, 3) if rotation else (48, 64, 3))
    assert clip.is_variable == (name == "variable") and len(clip.warnings) == (name == "variable")
    seen = [round(t * 25) for t in onsets([frame.mean() for frame in frames], 127, 0.04)]
    own = np.diff(times, prepend=-1 / 25)[np.isin(times, moments)]  # the distance to the picture before
    for k, moment, gap in zip(seen, moments, own, strict=True):
        # The nearest picture: at most half a frame of the grid or of the file away.
        assert -gap / 2 - 1e-3 <= k / 25 - moment <= 0.04 - gap / 2 + 1e-3
        if abs(moment - round(moment)) < 1e-6 and gap < 0.05:
            assert k == round(moment * 25)
    np.testing.assert_allclose(beep_onsets(clip), moments, atol=0.006)


@pytest.mark.parametrize(("video_starts", "container"), [(0.5, "mkv"), (0.2, "mp4"), (0.0, "mov")])
def test_zero_is_the_first_picture(tmp_path, video_starts, container):
    """Sound that begins before the picture is cut, so that second 0 is the same for both."""
    times = video_starts + np.array(steady(30, 3))
    moments = [video_starts + 1, video_starts + 2]
    path = record(tmp_path / f"a.{container}", times, flashes(times, moments), sound=beeps(moments, 4))
    clip = read_video(path)
    np.testing.assert_allclose(onsets([f.mean() for f in clip.frames(25)], 127, 0.04), [1, 2], atol=0.001)
    np.testing.assert_allclose(beep_onsets(clip), [1, 2], atol=0.006)


def test_same_rate_gives_every_frame_once(tmp_path):
    """25 to 25 changes nothing; 50 to 25 takes every second picture, 12.5 to 25 each one twice; `stop` ends in time."""
    for fps, expected in ((25, range(50)), (50, range(0, 100, 2)), (12.5, np.repeat(range(25), 2))):
        times = steady(fps, 2)
        pictures = [np.full((HEIGHT, WIDTH, 3), 2 * n + 20, np.uint8) for n in range(len(times))]
        clip = read_video(record(tmp_path / f"{fps}.mp4", times, pictures))
        levels = [frame.mean() for frame in clip.frames(25)]
        np.testing.assert_allclose(levels, 2 * np.array(expected) + 20, atol=1.5)
        assert len(list(clip.frames())) == clip.num_frames == len(times) and clip.fps == pytest.approx(fps)
        assert len(list(clip.frames(25, stop=0.5))) == 13 and len(list(clip.frames(25, stop=99))) == 50
        assert len(list(clip.frames(stop=0.5))) == int(np.ceil(fps / 2))
    for bad in ({"fps": 0}, {"fps": float("nan")}, {"stop": 0}, {"stop": -1}):
        with pytest.raises(ValueError, match="expected"):
            clip.frames(**bad)


def test_repeated_frames_are_copies(tmp_path):
    """A caller that paints into one frame does not paint into the next, which shows the same picture."""
    clip = read_video(record(tmp_path / "a.mp4", steady(5, 1), [quartered()] * 5))
    for frame in clip.frames(25):
        assert quarters_of(frame) == [0, 1, 2, 3] and frame.flags.c_contiguous
        frame[:] = 0


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        ((0,), [0, 1, 2, 3]),
        ((90,), [1, 3, 0, 2]),
        ((-90,), [2, 0, 3, 1]),
        ((180,), [3, 2, 1, 0]),
        ((0, True), [1, 0, 3, 2]),
        ((0, False, True), [2, 3, 0, 1]),
    ],
)
def test_upright(tmp_path, rotation, expected):
    """Phones store the sensor's picture and say how it was held; it comes out as players show it.

    The expectation for `degrees` is a turn counter-clockwise: the upper right quarter comes to the upper left.
    """
    clip = read_video(record(tmp_path / "a.mp4", steady(25, 0.2), [quartered()] * 5, rotation=rotation))
    frame = next(clip.frames())
    assert quarters_of(frame) == expected
    assert frame.shape == (clip.height, clip.width, 3) == ((64, 48, 3) if abs(rotation[0]) == 90 else (48, 64, 3))
    assert clip.rotation == (rotation[0] % 360)


def test_upright_agrees_with_numpy():
    """The turns above are np.rot90's, so the table is not its own judge."""
    picture = quartered()
    assert [quarters_of(np.rot90(picture, k)) for k in (0, 1, 3, 2)] == [
        [0, 1, 2, 3],
        [1, 3, 0, 2],
        [2, 0, 3, 1],
        [3, 2, 1, 0],
    ]


def test_square_pixels(tmp_path):
    """A picture stored narrow or flat comes out as wide as it was filmed, also when it is turned as well."""
    frames = [quartered()] * 5
    wide = read_video(record(tmp_path / "w.mp4", steady(25, 0.2), frames, sample_aspect_ratio=Fraction(4, 3)))
    assert next(wide.frames()).shape == (48, 85, 3) and (wide.width, wide.height) == (85, 48)
    tall = read_video(record(tmp_path / "t.mp4", steady(25, 0.2), frames, sample_aspect_ratio=Fraction(8, 9)))
    assert next(tall.frames()).shape == (54, 64, 3)
    turned = read_video(
        record(tmp_path / "r.mp4", steady(25, 0.2), frames, sample_aspect_ratio=Fraction(4, 3), rotation=(90,))
    )
    assert next(turned.frames()).shape == (85, 48, 3) and quarters_of(next(turned.frames())) == [1, 3, 0, 2]
    broken = read_video(record(tmp_path / "b.mp4", steady(25, 0.2), frames, sample_aspect_ratio=Fraction(1, 9)))
    assert (broken.width, broken.height) == (64, 48) and "pixel shape" in broken.warnings[0]


@pytest.mark.parametrize(
    ("pix_fmt", "context"),
    [
        ("yuv420p", {}),
        ("yuv420p", {"colorspace": 5, "color_range": 1}),
        ("yuv420p", {"colorspace": 1, "color_range": 1}),
        ("yuvj420p", {}),
        ("yuv420p10le", {}),
        ("yuv422p10le", {}),
        ("yuv444p", {}),
    ],
)
def test_colours(tmp_path, pix_fmt, context):
    """Every depth, range, subsampling and matrix gives the colours that went in."""
    width, height = 65 - (pix_fmt != "yuv444p"), 48
    path = tmp_path / "a.mp4"
    space = context.get("colorspace", 5)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "4"})
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        for name, value in context.items():
            setattr(video.codec_context, name, value)
        for _ in range(4):
            picture = av.VideoFrame.from_ndarray(quartered(width, height))
            container.mux(video.encode(picture.reformat(format=pix_fmt, dst_colorspace=space)))
        container.mux(video.encode(None))
    frame = next(read_video(path).frames())
    assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
    for (y, x), colour in zip(((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)), QUARTERS):
        assert np.abs(frame[int(height * y), int(width * x)].astype(int) - colour).max() <= 4


def test_untagged_high_definition_is_709(tmp_path):
    """Without a tag, players take HD for BT.709 and SD for BT.601; green tells them apart."""
    for height, space in ((720, 1), (480, 5)):
        picture = np.full((height, 1280, 3), (40, 200, 60), np.uint8)
        path = tmp_path / f"{height}.mp4"
        with av.open(str(path), "w") as container:
            video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            video.width, video.height, video.pix_fmt = 1280, height, "yuv420p"
            for _ in range(2):
                frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p", dst_colorspace=space)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        assert np.abs(next(read_video(path).frames())[300, 300].astype(int) - (40, 200, 60)).max() <= 4


def test_hdr_is_named(tmp_path):
    path = record(tmp_path / "a.mp4", steady(25, 0.2), [quartered()] * 5, pix_fmt="yuv420p10le", color_trc=16)
    assert "HDR" in read_video(path).warnings[0]


@pytest.mark.parametrize("suffix", ["mov", "mkv", "ts"])
def test_containers(tmp_path, suffix):
    """Other containers, those without an index or a duration of their own among them."""
    times = steady(30, 2)
    path = record(tmp_path / f"a.{suffix}", times, flashes(times, [1.0]), sound=beeps([1.0], 3))
    clip = read_video(path)
    assert clip.fps == pytest.approx(30, rel=0.01) and not clip.is_variable
    frames = list(clip.frames(25))
    assert len(frames) == 50 and onsets([f.mean() for f in frames], 127, 0.04) == [1.0]
    assert not clip.warnings


def test_no_duration_in_the_header(tmp_path):
    """A browser's recording (a Matroska file that was streamed) does not know how long it is."""
    whole = record(tmp_path / "whole.mkv", steady(25, 2), [quartered()] * 50)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "live.mkv"), "w", options={"live": "1"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    clip = read_video(tmp_path / "live.mkv")
    assert clip.duration == pytest.approx(2.0, abs=0.05) and len(list(clip.frames(25))) == 50


def test_gif(tmp_path):
    pictures = [Image.fromarray(np.roll(quartered(), 3 * n, axis=1)) for n in range(10)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    clip = read_video(tmp_path / "a.gif")
    assert len(list(clip.frames(25))) == 25 and not clip.has_audio and clip.audio is None


def test_first_picture_stream_wins(tmp_path):
    """A cover is no video stream; of two video streams the first counts."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, size in zip(streams, (32, 64)):
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
        for _ in range(5):
            for stream, size in zip(streams, (32, 64)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(quartered(size, size))))
        for stream in streams:
            container.mux(stream.encode(None))
    assert read_video(path).width == 32


def test_sound_is_lazy_and_ends_in_time(tmp_path):
    """The sound up to `stop` is the beginning of all of it, and reading it is not part of opening."""
    path = record(tmp_path / "a.mp4", steady(25, 6), [quartered()] * 150, sound=beeps([1, 3], 6))
    clip = read_video(path)
    assert "audio" not in vars(clip)
    whole, part = clip.audio, clip.sound(stop=2.5)
    assert whole is clip.audio and whole.duration == pytest.approx(6, abs=0.001)
    assert len(part.samples) == 120_000 == round(2.5 * part.sampling_rate)
    np.testing.assert_array_equal(part.samples, whole.samples[:120_000])
    assert clip.sound(stop=99).duration == whole.duration


def damage(path, start, stop, seed=0) -> None:
    """Overwrites a part of a file, given as fractions of its size, with noise."""
    data = bytearray(path.read_bytes())
    a, b = int(len(data) * start), int(len(data) * stop)
    data[a:b] = np.random.default_rng(seed).integers(0, 256, b - a, dtype=np.uint8).tobytes()
    path.write_bytes(data)


def noisy_film(path, seconds=6, **kwargs):
    """A film whose bytes are spread evenly over its seconds, with its index at the front."""
    noise = np.random.default_rng(1)
    pictures = [noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(25 * seconds)]
    record(path.with_name("raw.mp4"), steady(25, seconds), pictures, options={"g": "25"}, **kwargs)
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path.with_name("raw.mp4"))) as source, av.open(str(path), "w", options=options) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_file_that_breaks_off(tmp_path, suffix):
    """Half of a download gives half of the frames, and says where it ended."""
    path = noisy_film(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = read_video(path)
    frames = list(clip.frames(25))
    assert 60 <= len(frames) <= 85
    (said,) = clip.warnings
    assert "breaks off" in said and "promises 6.0 s" in said
    assert float(said.split("end at ")[1].removesuffix(" s")) == pytest.approx(len(frames) / 25, abs=0.1)
    assert len(list(clip.frames(25))) == len(frames) and len(clip.warnings) == 1, "said once"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_damage_in_the_middle(tmp_path, suffix):
    """A scratch costs its own frames and its own sound; the rest stays at its place in time (the sound used to close
    up behind a gap, and everything after it ran early)."""
    path = noisy_film(tmp_path / f"a.{suffix}", sound=beeps([1, 2, 4, 5], 6))
    good = np.array([f.mean() for f in read_video(path).frames(25)])
    damage(path, 0.5, 0.52)
    clip = read_video(path)
    frames = list(clip.frames(25))
    assert len(frames) == 150
    levels = np.array([f.mean() for f in frames])
    np.testing.assert_allclose(levels[:70], good[:70], atol=0.01)
    np.testing.assert_allclose(levels[115:], good[115:], atol=0.01)
    second = float(re.search(r"(?:damaged from|first at) ([\d.]+) s", clip.warnings[0])[1])
    assert 2.7 < second < 3.5
    np.testing.assert_allclose(beep_onsets(clip), [1, 2, 4, 5], atol=0.006)
    assert clip.audio.duration == pytest.approx(6, abs=0.03)


def test_files_that_are_no_video(tmp_path):
    """Each says what it is."""
    cases = {}
    (tmp_path / "empty.mp4").touch()
    cases["empty.mp4"] = r"empty.mp4 is empty \(0 bytes\)"
    (tmp_path / "folder.mp4").mkdir()
    cases["folder.mp4"] = "is a folder"
    (tmp_path / "text.mp4").write_text("hello")
    cases["text.mp4"] = "no picture that can be decoded"
    Image.fromarray(quartered()).save(tmp_path / "photo.jpg")
    cases["photo.jpg"] = r"is a picture \(JPEG\); a single photo is not supported, because"
    Image.fromarray(quartered()).save(tmp_path / "photo.png")
    cases["photo.png"] = r"is a picture \(PNG\); a single photo is not supported"
    record(tmp_path / "one.mp4", [0.0], [quartered()])
    cases["one.mp4"] = "holds a single picture; a single photo is not supported"
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXTINF:1,\n" + str(record(tmp_path / "a.ts", [0, 0.1], [quartered()] * 2))
    )
    cases["list.m3u8"] = "no picture that can be decoded"
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    cases["sound.wav"] = "no picture"
    for name, words in cases.items():
        with pytest.raises(VideoReadError, match=f"^path: expected a video.*{words}"):
            read_video(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_video(tmp_path / "missing.mp4")


def test_only_a_cover(tmp_path):
    """A song with its cover is no video."""
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(
            beeps([0.1], 1, 16_000)[None].astype(np.float32), format="flt", layout="mono"
        )
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(audio.encode(frame))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(quartered())))
        for stream in (audio, cover):
            container.mux(stream.encode(None))
    with pytest.raises(VideoReadError, match="cover|single picture"):
        read_video(path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory is used now")
def test_memory_stays_flat(tmp_path):
    """Frames are not collected anywhere: reading sixteen seconds holds no more than reading one."""
    clip = read_video(record(tmp_path / "a.mp4", steady(25, 16), [np.zeros((240, 320, 3), np.uint8)] * 400))
    pages = []
    for frame in clip.frames(25):
        frame[:] = 0
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    grown = (max(pages[100:]) - pages[50]) * 4096
    assert len(pages) == 400 and grown < 20e6, "350 frames of 320x240 are 80 MB"


@pytest.mark.real_data
def test_real_clips(test_data):
    """Every recording: as many frames as its duration has, sound as long as the picture; the variable one is known."""
    paths = sorted((test_data / "data" / "clips").glob("*.mp4")) + sorted((test_data / "data" / "motion").glob("*.mp4"))
    assert len(paths) > 20
    for path in paths:
        clip = read_video(path)
        shown = sum(1 for _ in clip.frames(25, stop=2))
        assert shown == min(round(clip.duration * 25), 50), path.name
        assert clip.is_variable == (path.stem == "retalk_1") and not clip.warnings
        assert clip.sound().duration == pytest.approx(clip.duration, abs=0.08), path.name


def test_tags_of_another_encoding(tmp_path):
    """The bug: a tag in Latin-1 made the whole film "no picture", and its sound no recording."""
    path = record(tmp_path / "a.mkv", steady(25, 0.2), [quartered()] * 5, sound=beeps([0], 0.2))
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"Zo\xeb\xff"))
    clip = read_video(path)
    assert len(list(clip.frames())) == 5 and clip.audio.duration > 0.15
    assert any(value.startswith("Zo\ufffd") for value in clip.metadata.values())


@pytest.mark.parametrize("wrong", [0, 30, 60])
def test_one_wrong_time_stamp(tmp_path, wrong, monkeypatch):
    """The bug: after one stamp that was 1 s late the clock went on from there, and the picture stayed 1 s behind the
    sound for good."""
    times = steady(25, 6)
    clip = read_video(record(tmp_path / "a.mkv", times, flashes(times, [1, 2, 3, 4, 5]), options={"bf": "0"}))
    good = [frame.mean() for frame in clip.frames(25)]
    stamp, open_packets = round(times[wrong] * 1000), video_reader._packets

    def packets(*arguments):
        for packet in open_packets(*arguments):
            packet.pts = stamp + 1000 if packet.pts == stamp else packet.pts
            yield packet

    monkeypatch.setattr(video_reader, "_packets", packets)
    np.testing.assert_allclose([frame.mean() for frame in clip.frames(25)], good, atol=0.01)
    assert [sentence for sentence in clip.warnings if "jump ahead alone" in sentence and "(1 such)" in sentence]


def test_a_real_jump_is_followed(tmp_path):
    """Where the stamps go on from a jump, the picture before it stands for so long."""
    times = [*steady(25, 1), *(3 + second for second in steady(25, 1))]
    clip = read_video(record(tmp_path / "a.mkv", times, [quartered()] * len(times)))
    assert sum(1 for _ in clip.frames(25)) == 100 and "stands still" in clip.warnings[0]
