"""A VHAP export becomes a processed clip. The export is made here, out of the demo person's video."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from demo_video import demo_video
from PIL import Image

from emotag_hf.preprocessing.data.clip import ClipError, ProcessedClip
from emotag_hf.preprocessing.data.vhap import VhapSource, _stack_flame, import_vhap, is_vhap_export, vhap_arrays
from emotag_hf.utils.import_utils import is_available
from emotag_hf.video.video_reader import read_video

FRAMES = 30


def write_export(folder, pictures, camera: int = 0, mask: bool = True) -> dict:
    """A folder as VHAP exports it: one camera, a picture, a mask and FLAME numbers for each time step."""
    for name in ("images", "fg_masks", "flame_param"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    random, frames = np.random.default_rng(0), []
    height, width = pictures[0].shape[:2]
    for step, picture in enumerate(pictures):
        name = f"{step:05}_{camera:02}"
        Image.fromarray(picture).save(folder / "images" / f"{name}.png")
        alpha = np.full((height, width), 255, np.uint8)
        alpha[:, : width // 8] = step  # a mark by which a frame's mask is known
        Image.fromarray(alpha).save(folder / "fg_masks" / f"{name}.png")
        static = {"shape": np.ones(300, np.float32), "static_offset": np.zeros((1, 40, 3), np.float32)}
        moving = {"expr": random.normal(size=(1, 100)), "jaw_pose": np.full((1, 3), step, np.float32)}
        np.savez(folder / "flame_param" / f"{step:05}.npz", **static, **moving)
        matrix = np.eye(4)
        matrix[2, 3] = 1 + step / 100
        frames.append(
            {
                "timestep_index": step,
                "camera_index": camera,
                "file_path": f"images/{name}.png",
                "flame_param_path": f"flame_param/{step:05}.npz",
                "transform_matrix": matrix.tolist(),
                **({"fg_mask_path": f"fg_masks/{name}.png"} if mask else {}),
                **{"fl_x": 700.0, "fl_y": 700.0, "cx": width / 2, "cy": height / 2, "w": width, "h": height},
            }
        )
    np.savez(folder / "canonical_flame_param.npz", translation=np.zeros((1, 3)))
    content = {"camera_indices": [camera], "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return content


def small(folder, count: int = 5, camera: int = 0) -> dict:
    return write_export(folder, [np.full((16, 24, 3), i, np.uint8) for i in range(count)], camera)


def source(folder, camera=None, fps=25.0, seconds=300.0) -> VhapSource:
    return VhapSource(folder, camera, fps, None, seconds)


@pytest.mark.slow
@pytest.mark.skipif(not is_available("mediapipe"), reason="MediaPipe is not installed")
def test_import(tmp_path):
    """Pictures and masks are the export's own, the head is fitted anew, FLAME's numbers stay, sound can be added."""
    video = read_video(demo_video(tmp_path))
    pictures = [frame for frame, _ in zip(video.frames(), range(FRAMES))]
    write_export(tmp_path / "export", pictures)
    clip = import_vhap(tmp_path / "export", audio=tmp_path / "demo.mp4", size=128, progress=False)
    assert clip.path == tmp_path / "export_clip" and len(clip) == FRAMES
    assert clip.track.valid.all() and float(clip.track.held_out_error.median()) < 4
    shown = np.asarray(Image.fromarray(pictures[7]).resize((128, 128), Image.Resampling.BICUBIC))
    assert np.abs(clip.frame(7).astype(int) - shown).mean() < 4
    assert [int(clip.matte(i)[64, 4]) for i in (0, 9, 29)] == [0, 9, 29] and (clip.matte(3)[:, 40:] == 255).all()
    assert clip.audio.duration == pytest.approx(FRAMES / 25)
    arrays = vhap_arrays(ProcessedClip.open(clip.path))
    assert arrays["flame.jaw_pose"][:, 0].tolist() == list(range(FRAMES))
    assert arrays["flame.expr"].shape == (FRAMES, 100) and arrays["flame.shape"].shape == (300,)
    assert arrays["flame.static_offset"].shape == (40, 3) and "canonical.translation" in arrays
    assert torch.allclose(arrays["transform_matrix"][:, 2, 3], 1 + torch.arange(FRAMES) / 100)
    assert arrays["K"][0, 0, 0] == 700 and clip.info["source"]["kind"] == "VHAP export"
    again = import_vhap(tmp_path / "export", audio=tmp_path / "demo.mp4", size=128, progress=False)
    assert again.info == clip.info


def test_parts_and_order(tmp_path):
    """Without transforms.json the train, val and test parts make up the sequence, in the order of time."""
    assert not is_vhap_export(tmp_path)
    content = small(tmp_path)
    (tmp_path / "transforms.json").unlink()
    for part, steps in (("train", [4, 0, 2]), ("val", [1, 2]), ("test", [3])):
        frames = [content["frames"][step] for step in steps]
        (tmp_path / f"transforms_{part}.json").write_text(json.dumps(content | {"frames": frames}))
    assert is_vhap_export(tmp_path)
    assert [int(picture[0, 0, 0]) for picture in source(tmp_path).frames()] == [0, 1, 2, 3, 4]


def test_rates_and_gaps(tmp_path):
    """Another rate is brought to 25 by the nearest picture; a missing time step is bridged and said so."""
    content = small(tmp_path, 12)
    assert [int(p[0, 0, 0]) for p in source(tmp_path, fps=50).frames()] == [0, 2, 4, 6, 8, 10]
    assert len(list(source(tmp_path, fps=12.5).frames())) == 24
    del content["frames"][5]
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    found = source(tmp_path)
    assert [int(p[0, 0, 0]) for p in found.frames()] == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
    assert found.warnings == ["1 time steps are missing; the picture beside them stands in for each"]
    found = source(tmp_path, fps=5, seconds=1)
    assert found.num_frames == 25 and found.cut


def test_cameras(tmp_path):
    """Of several cameras one is taken: the lowest, with a word about it, or the one that is asked for."""
    frames = small(tmp_path, 3)["frames"] + small(tmp_path, 3, camera=4)["frames"]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    assert "camera 0 of 2" in source(tmp_path).warnings[0]
    chosen = source(tmp_path, camera=4)
    assert not chosen.warnings and chosen.about()["camera_index"] == 4
    with pytest.raises(ValueError, match=r"camera: expected one of \[0, 4\], got 2"):
        source(tmp_path, camera=2)


def test_no_masks(tmp_path):
    """An export without masks has its mattes made like any video's."""
    write_export(tmp_path, [np.zeros((16, 24, 3), np.uint8)], mask=False)
    assert source(tmp_path).mattes() is None


def test_content_decides(tmp_path):
    """Two exports are the same if their pictures are, wherever they lie."""
    small(tmp_path / "a")
    small(tmp_path / "b")
    a, b = source(tmp_path / "a").about()["sha256"], source(tmp_path / "b").about()["sha256"]
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "b" / "images" / "00003_00.png")
    assert a == b != source(tmp_path / "b").about()["sha256"]


@pytest.mark.parametrize("key", ["file_path", "fg_mask_path", "flame_param_path"])
@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname"])
def test_nothing_outside_is_read(tmp_path, key, name):
    """An export cannot make a file outside its folder part of a clip."""
    folder = tmp_path / "export"
    content = small(folder)
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "secret.png")
    content["frames"][0][key] = name
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ClipError, match="lies outside"):
        found = source(folder)
        next(found.frames()), next(found.mattes())
        _stack_flame(folder, [frame["flame_param_path"] for frame in content["frames"]])


def test_pickles_are_refused(tmp_path):
    """An npz that hides a pickled object is an error, and the object is never made."""

    class Boom:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    small(tmp_path)
    np.savez(tmp_path / "flame_param" / "00002.npz", shape=np.array([Boom()], dtype=object))
    with pytest.raises(ClipError, match="00002.npz, and it cannot be read"):
        _stack_flame(tmp_path, [f"flame_param/{i:05}.npz" for i in range(5)])
    assert not (tmp_path / "pwned").exists()


def test_stack_keeps_what_never_changes_once(tmp_path):
    """Numbers that change late are whole from the first frame on; those that never do are kept once."""
    for step in range(4):
        np.savez(tmp_path / f"{step}.npz", same=np.ones((1, 2)), late=np.full((1, 2), float(step == 3)))
    stacked = _stack_flame(tmp_path, [f"{step}.npz" for step in range(4)])
    assert stacked["same"].shape == (2,) and stacked["late"].tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"frames": 3}', '{"frames": [{}]}', '{"frames": []}', '{"frames": [{"file_path": 1}]}']
)
def test_not_an_export(tmp_path, text):
    """Other JSON is refused in one sentence; so are folders without it and folders that are not there."""
    with pytest.raises(ClipError, match="has no transforms.json"):
        source(tmp_path)
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ClipError, match="folder: "):
        source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        source(tmp_path / "nowhere")


def test_missing_and_broken_pictures(tmp_path):
    """A picture that is missing, cut off or of another size is an error that names it."""
    small(tmp_path)
    found = source(tmp_path)
    picture = tmp_path / "images" / "00002_00.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    with pytest.raises(ClipError, match="00002_00.png of 24x16"):
        list(found.frames())
    picture.write_bytes(picture.read_bytes()[:40])
    with pytest.raises(ClipError, match="not a whole picture"):
        list(found.frames())
    picture.unlink()
    with pytest.raises(FileNotFoundError, match="00002_00.png"):
        list(found.frames())


@pytest.mark.parametrize("seconds", [0, -1, 0.01, float("inf"), float("nan")])
def test_impossible_lengths(tmp_path, seconds):
    """The bug: these ended in IndexError and OverflowError."""
    small(tmp_path)
    with pytest.raises(ValueError, match="^max_seconds: expected"):
        source(tmp_path, seconds=seconds)


def test_time_step_beyond_all_bounds(tmp_path):
    """The bug: a time step of 10^13 asked for terabytes, one of 1e999 was an OverflowError. A large one that can be
    is cut like every long export."""
    content = small(tmp_path)
    for step in ("10000000000000", "1e999"):
        content["frames"][-1]["timestep_index"] = "STEP"
        (tmp_path / "transforms.json").write_text(json.dumps(content).replace('"STEP"', step))
        with pytest.raises(ClipError, match="not what VHAP exports"):
            source(tmp_path)
    content["frames"][-1]["timestep_index"] = 9_000_000
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert source(tmp_path, seconds=2).num_frames == 50


def test_picture_that_would_fill_the_memory(tmp_path, monkeypatch):
    """The bug: a picture that Pillow takes for an attack ended in Pillow's own error."""
    small(tmp_path)
    found = source(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ClipError, match="not a whole picture"):
        list(found.frames())
