"""A dub of the demo person, whose own model is a perfect avatar: what must not change does not, and no seam shows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from emotag_hf import EmoTaGPipeline, FlameMotion, MotionStrengths, read_provenance
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.pipelines import dubbing
from emotag_hf.pipelines.alpha_video import save_with_alpha
from emotag_hf.pipelines.dubbing import dub, with_speech
from emotag_hf.preprocessing.data.clip import BACKGROUND, FEATURES, MATTES, TRACK, VIDEO
from emotag_hf.preprocessing.data.frame_files import FrameWriter
from emotag_hf.preprocessing.data.writer import ClipWriter
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.preprocessing.tracking.setup import sha256
from emotag_hf.rendering.cameras import Camera
from emotag_hf.rendering.compositing import make_background
from emotag_hf.utils.asset_paths import sample_path
from emotag_hf.video.cropping import FrameCrop
from emotag_hf.video.video_reader import read_video
from emotag_hf.video.video_writer import VideoWriter

WIDTH, HEIGHT, FPS = 320, 256, 30
WINDOW, SIZE = (40.0, 4.0, 240.0, 240.0), 160  # of the clip: less than the source has
SECONDS = 1.2
VOICE = {"emotion": "happy", "intensity": 0.6, "seed": 1}
# At 30 fps some frames of the clip lie beside their own: by little, if the head is slow and no lid falls.
CALM = {"head_motion": MotionStrengths(head=0.4, gaze=0.4, blinks=0.0)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A thinned demo person, their grainy video at 30 fps, what was said in it, and its clip with the true motion."""
    folder = tmp_path_factory.mktemp("dub")
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    pipe.model.gaussians.resize(torch.arange(0, pipe.model.gaussians.num_gaussians, 4))
    with torch.no_grad():
        pipe.model.gaussians.log_scales += math.log(1.8)
    voice = load_audio(sample_path())
    words = voice.samples[: int(SECONDS * voice.sampling_rate)]
    spoken = pipe(words, sampling_rate=voice.sampling_rate, size=(WIDTH, HEIGHT), fps=FPS, **VOICE, **CALM)
    grain = np.random.default_rng(0)
    with VideoWriter(folder / "source.mp4", WIDTH, HEIGHT, FPS, audio=spoken.audio, crf=8) as writer:
        for frame in spoken.frames.iter_uint8():
            writer.write(np.clip(frame + grain.normal(0, 2, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8))
    motion = pipe(words, sampling_rate=voice.sampling_rate, output_type="motion", **VOICE, **CALM).motion
    # At 30 fps some frames of the clip show a moment a little beside their own.
    shown = dubbing._clip_positions(len(motion), FPS, len(spoken.frames))
    exact = [int(np.argmin(np.abs(shown - k))) for k in range(len(motion))]
    motion = replace(spoken.motion[exact], mouth_code=None, fps=25.0)
    clip = _write_clip(folder, pipe.model, motion)
    later = voice.samples[int(3 * voice.sampling_rate) : int((3 + SECONDS) * voice.sampling_rate)]
    frames = list(read_video(folder / "source.mp4").frames())
    return SimpleNamespace(
        pipe=pipe, clip=clip, source=folder / "source.mp4", frames=frames, words=words, other=later,
        rate=voice.sampling_rate, folder=folder,
    )  # fmt: skip


def _write_clip(folder: Path, model, motion: FlameMotion):
    crop, whole, count = FrameCrop(*WINDOW, SIZE, SIZE, WIDTH, HEIGHT), model.camera(WIDTH, HEIGHT), len(motion)
    intrinsics = whole.K - torch.tensor([[0, 0, crop.x], [0, 0, crop.y], [0, 0, 0]])
    camera = Camera(SIZE, SIZE, torch.tensor([*crop.scale, 1.0])[:, None] * intrinsics, whole.viewmat)
    numbers = [torch.full((count,), value) for value in (1.0, math.nan, math.nan)]
    valid = torch.ones(count, dtype=torch.bool)
    track = HeadTrack(motion, model.shape, camera, valid, *numbers, torch.zeros(count, 478, 3), model.head.sha256)
    plate = make_background(None, WIDTH, HEIGHT, model.config.backdrop).mul(255).byte().numpy()
    frames = list(read_video(folder / "source.mp4").frames(25))
    with ClipWriter(folder / "clip", {}) as writer:
        with (
            FrameWriter(writer.path(VIDEO), SIZE, SIZE) as video,
            FrameWriter(writer.path(MATTES), SIZE, SIZE, "grey") as mattes,
        ):
            for i in range(count):
                video.write(crop.apply(frames[i]))
                mattes.write(np.full((SIZE, SIZE), 255, np.uint8))
        Image.fromarray(crop.apply(plate)).convert("RGBA").save(writer.path(BACKGROUND))
        tensors, metadata = track.to_tensors()
        save_file(tensors, writer.path(TRACK), metadata)
        features = {"action_units": torch.zeros(count, 14), "emotion": torch.zeros(count, 7)}
        save_file(features | {"emotion_score": torch.zeros(count)}, writer.path(FEATURES))
        writer.finish("all", files=(VIDEO, MATTES, TRACK, FEATURES))
        about = {"name": "source.mp4", "sha256": sha256(folder / "source.mp4")}
        return writer.publish(
            {
                "source": about, "num_frames": count, "crop": crop.to_dict(), "audio": None, "audio_offset": None,
                "camera": {"K": camera.K.tolist(), "viewmat": camera.viewmat.tolist()}, "feature_sources": {},
                "warnings": [], "license": None, "versions": {},
            }
        )  # fmt: skip


def _dubbed(scene, name: str, audio, **options) -> list[np.ndarray]:
    path = scene.folder / f"{name}.mp4"
    dub(scene.pipe, scene.source, scene.clip, audio, path, sampling_rate=scene.rate, crf=8, **options)
    return list(read_video(path).frames())


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.float32) - b.astype(np.float32))


def _flicker(frames: list[np.ndarray], part: tuple[slice, slice]) -> float:
    """Grey levels by which a part changes from frame to frame, grain taken off by averaging 4 x 4 pixels."""
    means = [f[part].astype(np.float32).mean(-1) for f in frames]
    height, width = (side // 4 for side in means[0].shape)
    small = [m[: height * 4, : width * 4].reshape(height, 4, width, 4).mean((1, 3)) for m in means]
    return float(np.mean([np.abs(b - a).mean() for a, b in zip(small, small[1:])]))


LAST = 34  # frame of the source that is sure to be within the clip, whose length in 1/25 s was rounded
TWICE_ENCODED = 1.6  # grey levels between a grainy frame and its copy
MOUTH = (slice(142, 182), slice(135, 185))
RIMS = {"neck": (slice(202, 218), slice(132, 188)), "cheek": (slice(108, 124), slice(116, 144))}


def test_own_words_give_back_the_frames(scene):
    """The same words and a perfect avatar: the dub is the source, grain and all."""
    frames = _dubbed(scene, "own", scene.words, **VOICE)
    assert len(frames) == len(scene.frames) and frames[0].shape == (HEIGHT, WIDTH, 3)
    psnr = [10 * np.log10(255**2 / np.square(_apart(a, b)).mean()) for a, b in zip(frames, scene.frames)]
    assert np.median(psnr) > 42 and min(psnr) > 38  # at 30 fps every sixth motion lies between two of the clip's


@pytest.fixture(scope="module")
def other(scene):
    """Other words, by an avatar that is lit wrongly and tracked with a tremor."""
    colors, random = scene.pipe.model.gaussians.colors, torch.Generator().manual_seed(0)
    right = colors.detach().clone()
    motion = scene.clip.track.motion
    tremor = torch.randn(2, len(motion), 3, generator=random)
    motion = replace(
        motion, rotation=motion.rotation + 1e-3 * tremor[0], translation=motion.translation + 2e-4 * tremor[1]
    )
    with torch.no_grad():
        colors.add_(torch.tensor([-0.3, -0.15, 0.1]))
        try:
            yield _dubbed(scene, "other", scene.other, track_motion=motion)
        finally:
            colors.copy_(right)


def test_only_the_face_changes(scene, other):
    """The mouth says something else; eyes, hair, clothes and wall are the source's own pixels."""
    gone = np.mean([_apart(a[MOUTH], b[MOUTH]).mean() for a, b in zip(other, scene.frames)])
    assert gone > 6
    for a, b in zip(other[: LAST + 1], scene.frames):
        apart = _apart(a, b)
        for kept in (apart[:100], apart[228:], apart[:, :90], apart[:, 230:]):
            assert kept.mean() < TWICE_ENCODED and kept.max() < 25


@pytest.mark.parametrize("rim", RIMS)
def test_no_seam_and_no_flicker_at_the_rim(scene, other, rim):
    """Where the new face ends it has the source's colour, though the avatar has not, and it trembles no more."""
    part = RIMS[rim]
    for a, b in zip(other, scene.frames):
        shift = a[part].astype(np.float32).mean((0, 1)) - b[part].astype(np.float32).mean((0, 1))
        assert np.abs(shift).max() < 2.5
    assert _flicker(other, part) < 1.2 * _flicker(scene.frames, part)


def test_the_new_face_is_lit_like_the_old_one(scene, other):
    """Also inside the mask, where there is nothing to blend with, the wrong light is taken off."""
    chin = (slice(166, 178), slice(150, 170))
    for a, b in zip(other, scene.frames):
        shift = a[chin].astype(np.float32).mean((0, 1)) - b[chin].astype(np.float32).mean((0, 1))
        assert np.abs(shift - shift.mean()).max() < 5  # no tint; shade may differ, the chin has moved


def test_the_source_is_played_forth_and_back(scene, monkeypatch):
    """Backwards in pieces, without showing the turning frames twice."""
    order = dubbing._turning(5, 12)
    assert order.tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3]
    monkeypatch.setattr(dubbing, "_BACKWARD_BYTES", 2 * 3 * WIDTH * HEIGHT)
    shown = list(dubbing._frames_in(read_video(scene.source), order))
    assert len(shown) == len(order) and all(np.array_equal(a, scene.frames[i]) for a, i in zip(shown, order))
    with pytest.raises(ValueError, match="audio: expected at most 10 times the length of the clip"):
        dubbing._turning(5, 51)


@pytest.mark.slow
def test_longer_words_play_the_source_forth_and_back(scene):
    """The video has the words' length, and shows the source backwards where the source has ended."""
    words = np.concatenate([scene.words, scene.words[: scene.rate // 5]])
    frames = _dubbed(scene, "long", words)
    assert len(frames) == round(len(words) / scene.rate * FPS)
    assert _apart(frames[LAST + 1][:100], scene.frames[LAST - 1][:100]).mean() < TWICE_ENCODED


def test_shorter_words_end_the_video(scene):
    """The sound ends, the picture too; the video says how it was made."""
    frames = _dubbed(scene, "short", scene.words[: scene.rate // 2], region="face", emotion="surprise")
    assert len(frames) == FPS // 2
    about = read_provenance(scene.folder / "short.mp4")
    assert about["emotion"] == "surprise" and about["digital_source_type"].endswith(
        "compositeWithTrainedAlgorithmicMedia"
    )


def test_motion_stands_at_the_frames_that_the_clip_shows():
    """30 fps: the clip's frame 3 (0.12 s) is the source's frame 4, so that is where its motion belongs."""
    assert dubbing._clip_positions(6, 30, 7).tolist() == [0, 1, 2, 2.5, 3, 4, 5]
    assert dubbing._clip_positions(4, 50, 8).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    assert dubbing._clip_positions(5, 12.5, 3).tolist() == [0, 2, 4]
    assert dubbing._clip_positions(4, 25, 4).tolist() == [0, 1, 2, 3]


def test_the_face_fades_where_the_head_was_lost():
    """Nothing is put over a frame whose track is a guess, and it neither appears nor goes at once."""
    valid = np.ones(30, bool)
    valid[12:14] = False
    shares = dubbing._shares(valid)
    assert not shares[11:15].any() and shares[0] == shares[-1] == 1
    assert np.abs(np.diff(shares)).max() < 0.2


def test_what_speech_may_move():
    """Jaw and mouth are the speech's, head and lids are filmed, brows by choice; a mouth that is always askew stays."""
    filmed, speech = FlameMotion.zeros(3), FlameMotion.zeros(3)
    for name in ("expression", "jaw_pose", "eyelids", "rotation"):
        getattr(speech, name).fill_(1.0)
    brow, smile, askew = (EXPRESSION_NAMES.index(name) for name in ("browDown_L", "mouthSmile_L", "mouthLeft"))
    speech.expression[:, askew] = 0.01
    filmed.expression[:, askew] = torch.tensor([0.2, 0.3, 0.9])
    for region, raised in (("lower", 0), ("face", 1)):
        motion = with_speech(filmed, speech, region)
        assert motion.expression[0, smile] == 1 and motion.expression[0, brow] == raised
        assert (motion.expression[:, askew] == 0.3).all()
        assert motion.jaw_pose.all() and not motion.eyelids.any() and not motion.rotation.any()
    assert not filmed.expression[:, smile].any() and speech.expression[0, askew] < 0.02


def test_the_camera_of_the_source_sees_what_the_clips_sees(scene):
    """Points in the clip's pixels, taken back to the source, lie where the source's own camera has them."""
    points = np.random.default_rng(0).uniform((-0.1, -0.1, 1.2), (0.1, 0.1, 1.5), (20, 3)).astype(np.float32)
    expected = scene.clip.crop.to_source(dubbing._project(points, scene.clip.camera))
    found = dubbing._project(points, dubbing._source_camera(scene.clip))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.fixture(scope="module")
def opened(scene):
    """What replaces the filmed face by one with a wide open mouth."""
    motion = scene.clip.track.motion
    open_wide = replace(motion, jaw_pose=motion.jaw_pose + torch.tensor([0.25, 0, 0]))
    return dubbing._NewFace(scene.pipe.model, scene.clip, motion, open_wide, "lower")


def test_a_mole_moves_with_the_chin(scene, opened):
    """What the avatar does not know of the skin is carried along: a spot on the chin comes down with the jaw."""
    vertices = [torch.from_numpy(opened._vertices(motion[:1])) for motion in opened.motions]
    chin = [opened.model.head.landmarks(points)[0, 199].numpy() for points in vertices]
    (x, y), (new_x, new_y) = (dubbing._project(point, opened.camera) for point in chin)
    assert new_y - y > 5
    clean = scene.frames[0].copy()
    marked = clean.copy()
    marked[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] -= 12
    spot = opened(0, clean, 1.0).astype(np.float32).mean(-1) - opened(0, marked, 1.0).astype(np.float32).mean(-1)
    rows, columns = np.indices(spot.shape) + 0.5
    spot = np.where(spot > 2, spot, 0)
    found = (spot * columns).sum() / spot.sum(), (spot * rows).sum() / spot.sum()
    np.testing.assert_allclose(found, (new_x, new_y), atol=1.5)
    assert spot.sum() > 0.5 * 25 * 12


def test_what_passes_behind_stays(scene, opened):
    """The clip's background is a still picture; something that moves there, close by the face, is not painted over."""
    frame = scene.frames[0].copy()
    frame[150:170, 88:101] = (250, 20, 20)
    new = opened(0, frame.copy(), 1.0)
    assert np.array_equal(new[150:170, 88:101], frame[150:170, 88:101]) and _apart(new, frame).max() > 50


def test_a_face_beyond_the_picture(scene):
    """A head that sinks out of the picture is cut by its edge, like everything else."""
    motion = replace(
        scene.clip.track.motion, translation=scene.clip.track.motion.translation - torch.tensor([0, 0.1, 0])
    )
    open_wide = replace(motion, jaw_pose=motion.jaw_pose + torch.tensor([0.3, 0, 0]))
    face = dubbing._NewFace(scene.pipe.model, scene.clip, motion, open_wide, "lower")
    frame = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    new = _apart(face(3, frame.copy(), 1.0), frame)
    assert new.shape == frame.shape and new[-10:].max() > 20 and new[:100].max() <= 1


def test_what_does_not_belong_together_is_named(scene, tmp_path):
    """Another video, another person, another head, motion of another length: one sentence each, before any work."""
    call = lambda **kw: dub(  # noqa: E731
        **{"pipeline": scene.pipe, "source_video": scene.source, "clip": scene.clip, "audio": scene.words,
           "output": tmp_path / "out.mp4", "sampling_rate": scene.rate} | kw
    )  # fmt: skip
    copy = tmp_path / "other.mp4"
    copy.write_bytes(scene.source.read_bytes() + b"\0" * 8)
    with pytest.raises(ValueError, match="source_video: expected source.mp4"):
        call(source_video=copy)
    with pytest.raises(ValueError, match="track_motion: expected 30 frames at 25 fps"):
        call(track_motion=FlameMotion.zeros(3))
    with pytest.raises(ValueError, match="track_motion: the head is behind the camera"):
        call(track_motion=replace(scene.clip.track.motion, translation=torch.tensor([[0, 0, 5.0]]).repeat(30, 1)))
    with pytest.raises(ValueError, match="region: expected one of lower, face"):
        call(region="mouth")
    with pytest.raises(ValueError, match="is the source video itself"):
        call(output=scene.source)
    shape = scene.pipe.model.shape
    shape[0] += 1
    try:
        with pytest.raises(ValueError, match="pipeline: its head is .* mm away"):
            call()
    finally:
        shape[0] -= 1
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("suffix", "decoder", "within"), [(".mov", "prores", 1.5), (".webm", "libvpx-vp9", 6)])
def test_alpha_comes_back(scene, tmp_path, suffix, decoder, within):
    """What was written transparent is read transparent, with the person's own colours and the sound."""
    words = scene.words[scene.rate // 2 :][: scene.rate // 5]
    spoken = scene.pipe(words, sampling_rate=scene.rate, size=(128, 96), **VOICE)
    path = Path(save_with_alpha(spoken, tmp_path / f"head{suffix}"))
    with av.open(str(path)) as container:
        decode = av.CodecContext.create(decoder, "r")
        stream = container.streams.video[0]
        if stream.codec_context.extradata:
            decode.extradata = stream.codec_context.extradata
        decode.width, decode.height = 128, 96
        pictures = [p for packet in container.demux(stream) for p in decode.decode(packet if packet.size else None)]
        seconds = container.streams.audio[0].duration or container.duration * 48e-3
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert len(pictures) == len(spoken.frames) == 5 and "ai_generated" in tags["comment"]
    assert abs(seconds / 48000 - 0.2) < 0.03
    motion = spoken.motion[2:3]
    model, black = scene.pipe.model, torch.zeros(96, 128, 3)
    drawn = model.render(model.pose(motion), model.camera(128, 96), black)
    alpha = 255 * drawn.alphas[0, ..., 0].numpy()
    found = pictures[2].reformat(format="rgba", src_colorspace=1).to_ndarray()
    assert _apart(found[..., 3], alpha).mean() < within
    solid = alpha > 250
    assert _apart(found[..., :3], 255 * drawn.images[0].numpy())[solid].mean() < within
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_alpha_that_cannot_be_written(scene, tmp_path):
    """A kind of file without alpha, a result without pictures: said at once."""
    words = scene.words[scene.rate // 2 :][:4000]
    spoken = scene.pipe(words, sampling_rate=scene.rate, output_type="motion")
    with pytest.raises(ValueError, match="path: expected a name that ends in .mov or .webm, got 'head.mp4'"):
        save_with_alpha(spoken, tmp_path / "head.mp4")
    with pytest.raises(ValueError, match="holds motion only"):
        save_with_alpha(spoken, tmp_path / "head.mov")
    with pytest.raises(FileNotFoundError, match="expected a folder that exists"):
        spoken = scene.pipe(words, sampling_rate=scene.rate, size=64)
        save_with_alpha(spoken, tmp_path / "nowhere" / "head.mov")
