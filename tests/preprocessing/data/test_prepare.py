"""From a video to a processed clip: stages, stops and goes, bad input. The face here is a fitted head's own
landmarks on a plain picture; test_prepare_real.py does it with a face that is seen."""

from __future__ import annotations

import json
import logging
import os
import shutil
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from fitted_face import HEAD, HEIGHT, WIDTH, landmarks_of, moves

from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.constants import ACTION_UNITS
from emotag_hf.preprocessing.data import prepare_many as many
from emotag_hf.preprocessing.data import stages
from emotag_hf.preprocessing.data.clip import CLIP_JSON, ClipError, ProcessedClip
from emotag_hf.preprocessing.data.prepare import prepare
from emotag_hf.preprocessing.data.prepare_many import clip_names, find_videos, prepare_many
from emotag_hf.preprocessing.data.teachers import FeatureOptions
from emotag_hf.preprocessing.features.geometry import head_geometry
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.video.video_reader import VideoReadError, read_video
from emotag_hf.video.video_writer import VideoWriter


def sound(seconds: float, rate: int = 16000) -> AudioClip:
    time = np.arange(int(seconds * rate)) / rate
    return AudioClip((0.3 * np.sin(2 * np.pi * 220 * time) * (np.sin(9 * time) > 0)).astype(np.float32)[:, None], rate)


def make_video(path, seconds: float = 1.6, fps: float = 25, size=(WIDTH, HEIGHT), audio: AudioClip | None = None):
    """A picture in which something moves, with sound."""
    y, x = np.mgrid[: size[1], : size[0]]
    with VideoWriter(path, *size, fps, audio=audio) as writer:
        for i in range(round(seconds * fps)):
            disc = np.hypot(x - size[0] / 2 - 3 * np.sin(i), y - size[1] / 2) < size[1] * 0.3
            frame = np.stack([x * 255 // size[0], y * 255 // size[1], np.full_like(x, 60)], -1).astype(np.uint8)
            frame[disc] = (200, 150, 120 + i % 50)
            writer.write(frame)
    return path


@pytest.fixture
def tracker(monkeypatch):
    """As `stand_in`, and for the identity's teacher too, which one clip of this file has asked."""
    identity = np.eye(1, 512, dtype=np.float32)[0], "nobody"
    monkeypatch.setattr("emotag_hf.preprocessing.features.identity.identity_embedding", lambda *a, **k: identity)
    return stand_in(monkeypatch)


def stand_in(monkeypatch) -> types.SimpleNamespace:
    """Stands in for MediaPipe and for the fit; `calls` counts, `missing` are frames without a face, `size` is the
    face's."""
    state = types.SimpleNamespace(calls=0, missing=(), size=1.0)

    def track_landmarks(frames, width, height, *, fps=25.0, face=None, face_landmarker=None):
        state.calls += 1
        found = landmarks_of(sum(1 for _ in frames), width, height, state.size)
        gone = np.isin(np.arange(len(found)), list(state.missing))
        found.points[gone], found.found[gone], found.num_faces[gone] = np.nan, False, 0
        return found

    monkeypatch.setattr("emotag_hf.preprocessing.tracking.landmarks.track_landmarks", track_landmarks)

    def fit_head(landmarks, camera=None, head=None):
        """The motion that `landmarks_of` has, at once: the fit has tests of its own."""
        found = torch.from_numpy(landmarks.found)
        points = torch.from_numpy(landmarks.points)
        error = torch.ones(len(found)).where(found, torch.nan)
        track = HeadTrack(
            moves(len(found)), torch.zeros(60), camera, found, error, error + 0, error + 1, points, HEAD.sha256
        )
        return replace(track, confidence=found.float())

    monkeypatch.setattr("emotag_hf.preprocessing.tracking.fit.fit_head", fit_head)

    class Matte:
        """A disc."""

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def matte(self, frame):
            y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
            return (255 * (np.hypot(x - frame.shape[1] / 2, y - frame.shape[0] / 2) < frame.shape[0] / 3)).astype(
                np.uint8
            )

    monkeypatch.setattr("emotag_hf.preprocessing.tracking.masks.PersonMatte", Matte)
    return state


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """1.6 s with 1.7 s of sound."""
    return make_video(tmp_path_factory.mktemp("videos") / "anna.mp4", audio=sound(1.7))


def quick(source, output=None, **options) -> ProcessedClip:
    return prepare(source, output, **{"size": 128, "progress": False} | options)


@pytest.fixture(scope="module")
def made(video, tmp_path_factory):
    """The folder of its clip, which nobody changes."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        return quick(video, tmp_path_factory.mktemp("made") / "clip", license="mine alone").path


@pytest.fixture
def known(made, tmp_path):
    """A copy of it at tmp_path / "clip"."""
    return shutil.copytree(made, tmp_path / "clip")


# The whole way


def test_prepare(made):
    """Everything of a clip is there, of the right length, and says where it comes from, in readable JSON without paths
    of the machine."""
    clip = ProcessedClip.open(made)
    assert clip.num_frames == 40 and len(clip.track) == 40 and clip.track.valid.all()
    assert clip.frame(0).shape == (128, 128, 3) and clip.matte(39).shape == (128, 128)
    assert torch.equal(clip.camera.K, clip.track.camera.K)
    picture, known = clip.background
    assert picture.shape == (128, 128, 3) and 0 < known.sum() < 128 * 128
    assert clip.features["action_units"].shape == (40, len(ACTION_UNITS))
    assert torch.allclose(clip.features["emotion"].sum(1), torch.ones(40), atol=1e-5)
    assert clip.features["identity"].shape == (512,) and len(clip.features["input_features"]) == 160
    assert set(clip.feature_sources) == {
        "action_units", "emotion", "identity", "input_features", "depth", "normals",
    }  # fmt: skip
    assert len(clip.audio.samples) == 25600 and clip.audio_offset is not None
    assert clip.info["source"]["name"] == "anna.mp4" and clip.info["license"] == "mine alone"
    assert clip.warnings == ["The sound goes on after the last picture; that part is left out."]
    assert [p.name for p in made.parent.iterdir()] == ["clip"]
    text = (made / CLIP_JSON).read_text()
    assert str(made.parent) not in text and "NaN" not in text and json.loads(text)["format_version"] == 1


def test_sound_fits_the_pictures(tmp_path, tracker):
    """The sound is the video's own, sample for sample, and begins with the first picture."""
    audio = sound(1.6, 48000)
    path = make_video(tmp_path / "v.mp4", audio=audio)
    clip = quick(path)
    from emotag_hf.video.video_reader import read_video

    truth = read_video(path).audio.samples[: len(clip.audio.samples)]
    assert clip.audio.sampling_rate == 48000 and np.abs(clip.audio.samples - truth).max() < 2**-22
    assert clip.path == tmp_path / "v_clip"


def test_crop_maps_back(video, tmp_path, tracker):
    """Landmarks of the track, taken back through the crop, are where they were in the source."""
    tracker.size = 0.5
    clip = quick(video, tmp_path / "clip")
    assert clip.crop.window_width < HEIGHT
    back = clip.crop.to_source(clip.track.landmarks.numpy())
    assert np.abs(back - landmarks_of(40, size=0.5).points).max() < 0.01


def test_frame_rates(tmp_path, tracker):
    """30 frames a second become 25, as long as before."""
    clip = quick(make_video(tmp_path / "v.mp4", 2.0, 30))
    assert clip.num_frames == 50 and clip.info["source"]["fps"] == pytest.approx(30)


def test_no_sound(tmp_path, tracker):
    """A silent film is prepared with a word about it."""
    clip = quick(make_video(tmp_path / "v.mp4"))
    assert clip.audio is None and clip.audio_offset is None and "input_features" not in clip.features
    assert "There is no sound" in clip.warnings[0]


def test_separate_sound(tmp_path, tracker):
    """A recording beside the video is the clip's sound; if it ends early that is said; a bad one is refused first."""
    from emotag_hf.preprocessing.data.sound_file import write_flac

    path = make_video(tmp_path / "v.mp4", audio=sound(1.6))
    write_flac(tmp_path / "beside.flac", sound(1.2, 44100))
    clip = quick(path, audio=tmp_path / "beside.flac")
    assert clip.audio.sampling_rate == 44100 and clip.audio.duration == pytest.approx(1.2)
    assert "0.40 s before the last picture" in clip.warnings[0]
    assert clip.info["source"]["audio"]["name"] == "beside.flac" and len(clip.features["input_features"]) == 160
    (tmp_path / "bad.wav").write_text("no sound")
    calls = tracker.calls
    with pytest.raises(ValueError, match="audio: expected"):
        quick(path, tmp_path / "other", audio=tmp_path / "bad.wav")
    assert tracker.calls == calls


def test_max_seconds(tmp_path, tracker):
    """What is too long is cut, and said so; the sound with it, without a second word."""
    clip = quick(make_video(tmp_path / "v.mp4", 3.0, audio=sound(3.0)), max_seconds=2)
    assert clip.num_frames == 50 and len(clip.audio.samples) == 32000
    assert clip.warnings == ["Only the first 2 s of 3 s are used."]


def test_broken_off(tmp_path, tracker):
    """A file that ends half-way gives the clip of what is there, and says where it ends."""
    path = make_video(tmp_path / "v.mp4", 3.0, audio=sound(3.0))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.7)])
    clip = quick(path)
    assert 30 <= clip.num_frames < 70 and len(clip.track) == clip.num_frames
    assert any("breaks off" in sentence or "damaged" in sentence for sentence in clip.warnings), clip.warnings


def test_depth_and_normals(video, made, tmp_path, tracker, monkeypatch):
    """A teacher's relative depth comes back in metres, and its normals in the camera's axes, whatever its own are."""
    tracker.missing = [7]
    truth = {}

    class Teacher:
        def __init__(self, model_id):
            self.source = model_id

        def __call__(self, frames):
            for i, frame in enumerate(frames):
                assert frame.shape == (128, 128, 3)
                yield truth[self.source][i]

    plain = ProcessedClip.open(made)
    seen = head_geometry(plain.track, range(40), HEAD)
    truth["someone/depth"] = seen.depth * 0.3 - 7.0
    truth["someone/normals"] = seen.normals * np.float32([1, -1, -1])
    monkeypatch.setattr("emotag_hf.preprocessing.features.geometry.DepthTeacher", Teacher)
    monkeypatch.setattr("emotag_hf.preprocessing.features.geometry.NormalTeacher", Teacher)
    clip = quick(video, tmp_path / "clip", features=FeatureOptions(depth="someone/depth", normals="someone/normals"))
    assert plain.depth(0) is None and plain.feature_sources["depth"] == "fitted head"
    assert clip.feature_sources["depth"] == "someone/depth" and clip.feature_sources["normals"] == "someone/normals"
    for i in (0, 39):
        inside = seen.mask[i]
        assert np.abs(clip.depth(i) - seen.depth[i])[inside].max() < 2e-4
        assert (clip.normals(i) * seen.normals[i]).sum(-1)[inside].min() > 0.99
    assert not clip.depth(7).any() and not clip.normals(7).any()


def test_face_leaves_for_a_while(video, tmp_path, tracker):
    """Frames without a face are flagged and counted, not smoothed over."""
    tracker.missing = range(20, 28)
    clip = quick(video, tmp_path / "clip")
    assert torch.where(~clip.track.valid)[0].tolist() == list(range(20, 28))
    assert "No face in 8 of 40 frames, first at 0.8 s." in clip.warnings


def test_too_little_face(video, tmp_path, tracker):
    """Less than a second of face is an error that says how much there was, and leaves nothing behind."""
    tracker.missing = range(3, 40)
    with pytest.raises(ClipError, match="in 3 of the 40 of anna.mp4"):
        quick(video, tmp_path / "clip")
    assert not any(tmp_path.iterdir())


def test_bad_options(video, tmp_path):
    """Options are judged before any work."""
    for options, message in (
        ({"size": 33}, "size: expected an even"),
        ({"size": 20}, "size: expected an even"),
        ({"crop": "tight"}, "crop: expected"),
        ({"face": 0}, "face: expected"),
        ({"max_seconds": 0.2}, "max_seconds: expected"),
        ({"max_seconds": np.inf, "audio": video}, "max_seconds: expected"),  # was an OverflowError out of the sound
    ):
        with pytest.raises(ValueError, match=message):
            quick(video, tmp_path / "clip", **options)
    with pytest.raises(ValueError, match="action_units: expected"):
        FeatureOptions(action_units="magic")
    with pytest.raises(FileNotFoundError, match="emotion: expected a teacher's file"):
        quick(video, tmp_path / "clip", features=FeatureOptions(emotion="nowhere.csv"))
    with pytest.raises(FileNotFoundError, match="no file"):
        quick(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(VideoReadError):
        quick(tmp_path / "text.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["text.mp4"]


# Stopping and going on


def test_goes_on_after_a_stop(video, tmp_path, tracker, monkeypatch, caplog):
    """A stop in a late stage costs that stage only: landmarks are not tracked and pictures not written again."""
    make = stages.make_features
    monkeypatch.setattr(stages, "make_features", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quick(video, tmp_path / "clip")
    partial = tmp_path / "clip.partial"
    assert not (tmp_path / "clip").exists()
    stamp = (partial / "video.mp4").stat().st_mtime_ns
    monkeypatch.setattr(stages, "make_features", make)
    with caplog.at_level(logging.INFO):
        clip = quick(video, tmp_path / "clip")
    assert tracker.calls == 1 and (clip.path / "video.mp4").stat().st_mtime_ns == stamp
    assert "going on after landmarks, track, pictures, sound" in caplog.text and not partial.exists()
    assert clip.warnings == ["The sound goes on after the last picture; that part is left out."]  # kept over the stop


def test_the_same_again_is_free(known, video, tmp_path, tracker):
    """A clip that is there is returned; another option needs overwrite, which then replaces it."""
    clip = ProcessedClip.open(known)
    shutil.copy(video, tmp_path / "renamed.mp4")
    again = quick(tmp_path / "renamed.mp4", known, license="mine alone")
    assert again.info == clip.info and tracker.calls == 0
    with pytest.raises(ClipError, match="--overwrite"):
        quick(video, known, size=64)
    assert quick(video, known, size=64, overwrite=True).crop.width == 64


def test_disk_full(video, tmp_path, tracker, monkeypatch):
    """An error of the machine keeps the finished stages and shows itself."""
    monkeypatch.setattr(stages, "write_flac", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        quick(video, tmp_path / "clip")
    state = json.loads((tmp_path / "clip.partial" / "state.json").read_text())
    assert list(state["stages"]) == ["landmarks", "track", "pictures"]


# Many


def test_names_and_shards(tmp_path):
    """Names are the videos' own, and shards of n machines cover each video once, always the same."""
    for name in ("b.mp4", "a.mov", "a.mp4", "notes.txt", "C.MKV"):
        (tmp_path / name).write_text("")
    named = clip_names(find_videos(tmp_path))
    assert [(p.name, n) for p, n in named] == [("C.MKV", "C"), ("a.mov", "a_mov"), ("a.mp4", "a_mp4"), ("b.mp4", "b")]
    assert find_videos(str(tmp_path / "a.*")) == [tmp_path / "a.mov", tmp_path / "a.mp4"]
    shards = [[r.source.name for r in prepare_many(tmp_path, tmp_path / "out", shard=(i, 3))] for i in range(3)]
    assert sorted(sum(shards, [])) == ["C.MKV", "a.mov", "a.mp4", "b.mp4"] and shards[0] == ["C.MKV", "b.mp4"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.mp4").write_text("")
    with pytest.raises(ValueError, match="different names"):
        clip_names(find_videos([tmp_path / "b.mp4", tmp_path / "sub" / "b.mp4"]))


def test_one_failure_stops_nobody(video, tmp_path, tracker, caplog):
    """Broken videos among good ones: each has its own result, and a second run only does what is missing."""
    shutil.copy(video, tmp_path / "1.mp4")
    (tmp_path / "2.mp4").write_text("broken")
    shutil.copy(video, tmp_path / "3.mp4")
    with caplog.at_level(logging.INFO):
        results = prepare_many(tmp_path, tmp_path / "clips", progress=False, size=128)
    assert [r.ok for r in results] == [True, False, True] and "expected a video" in results[1].error
    assert "2 of 3 videos prepared, 1 failed" in caplog.text
    assert ProcessedClip.open(results[0].path).num_frames == 40 and results[0].warnings
    shutil.copy(video, tmp_path / "2.mp4")
    assert (
        all(r.ok for r in prepare_many(tmp_path, tmp_path / "clips", progress=False, size=128)) and tracker.calls == 3
    )


def test_killed_process_stops_nobody(video, tmp_path, monkeypatch):
    """A process that dies without a word (out of memory) is a result with an error; the next ones still run."""
    for name in ("1.mp4", "2.mp4", "3.mp4"):
        shutil.copy(video, tmp_path / name)
    monkeypatch.setattr(many, "_work", os.abort)  # takes no arguments: dies at once
    before = dict(os.environ)
    results = prepare_many(tmp_path, tmp_path / "clips", workers=2, progress=False)
    assert len(results) == 3 and all("ended with exit code" in r.error for r in results)
    assert dict(os.environ) == before


def test_many_bad_arguments(tmp_path, video):
    """What can never work is said before anything starts."""
    for shard in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="shard: expected"):
            prepare_many(video, tmp_path, shard=shard)
    with pytest.raises(ValueError, match="workers: expected"):
        prepare_many(video, tmp_path, workers=0)
    with pytest.raises(TypeError, match="unknown option sise"):
        prepare_many(video, tmp_path, sise=3)
    with pytest.raises(FileNotFoundError, match="found none"):
        prepare_many(tmp_path / "nowhere*", tmp_path)


# What the machine and the file may do


def test_header_that_says_too_little(tmp_path, tracker, monkeypatch):
    """The bug: where the header understates the length, max_seconds was not heeded."""
    path = make_video(tmp_path / "v.mp4", 3.0, audio=sound(3.0))
    monkeypatch.setattr(
        "emotag_hf.preprocessing.data.prepare.read_video", lambda path: replace(read_video(path), duration=1.5)
    )
    clip = quick(path, max_seconds=2)
    assert clip.num_frames == 51 and clip.warnings == ["Only the first 2 s are used."]


def test_too_short_a_video(tmp_path, tracker):
    """The bug: a video of half a second with a face in all of it was asked whether there is light."""
    with pytest.raises(ClipError, match="at least 25 frames .* has 12; it is too short"):
        quick(make_video(tmp_path / "v.mp4", 0.5))


def test_a_new_tracker_makes_a_new_clip(known, video, tracker, monkeypatch):
    """The bug: after an update that tracks better, the old clip came back as up to date."""
    assert quick(video, known, license="mine alone").path == known
    monkeypatch.setattr(stages, "TRACKER_VERSION", stages.TRACKER_VERSION + 1)
    with pytest.raises(ClipError, match="--overwrite"):
        quick(video, known, license="mine alone")


def test_output_is_looked_at_first(video, tmp_path, monkeypatch):
    """The bug: an output that cannot be was found after the video was hashed and the head loaded."""
    monkeypatch.setattr("emotag_hf.preprocessing.data.prepare.sha256", lambda path: pytest.fail("hashed"))
    (tmp_path / "file").touch()
    with pytest.raises(ClipError, match="^output: expected a folder"):
        quick(video, tmp_path / "file" / "clip")


def test_sound_that_is_no_number(video, tmp_path, tracker, monkeypatch):
    """The bug: NaN in a video's own sound went into the clip without a word."""
    broken = AudioClip(np.full((25600, 1), np.nan, np.float32), 16000)
    monkeypatch.setattr("emotag_hf.video.video_reader.VideoClip.sound", lambda *a: broken)
    clip = quick(video, tmp_path / "clip")
    assert clip.audio is None and "left out (audio: expected finite samples" in clip.warnings[0]
