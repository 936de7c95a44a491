"""The doctor: a good clip is green, and every fault turns on its own light, with plain words. Its page is safe."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.data.clip import ProcessedClip
from emotag_hf.preprocessing.doctor import Check, DoctorReport, examine, render_text, write_page
from emotag_hf.preprocessing.doctor.evidence import Evidence, look, tiny
from emotag_hf.preprocessing.doctor.examination import judge
from emotag_hf.preprocessing.doctor.motion_checks import find_blinks, mouth_shapes
from emotag_hf.preprocessing.doctor.page import render_page
from emotag_hf.preprocessing.doctor.picture_checks import find_cuts
from emotag_hf.preprocessing.doctor.sound_checks import clipped_share, levels, signal_to_noise
from emotag_hf.preprocessing.features.action_units import action_units_from_track
from emotag_hf.preprocessing.features.av_offset import AVOffset
from emotag_hf.preprocessing.tracking.amplitude import Amplitude, amplitudes
from emotag_hf.preprocessing.tracking.fit import default_camera
from emotag_hf.preprocessing.tracking.head_track import FaceLandmarks, HeadTrack
from emotag_hf.video.cropping import FrameCrop

COUNT = 160  # frames, 6.4 s
SIZE = 480


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Twenty faces are looked at here, not two hundred."""
    monkeypatch.setattr("emotag_hf.preprocessing.doctor.examination._LOOKS", 20)


@pytest.fixture(scope="module")
def head() -> ParametricHead:
    return ParametricHead.from_asset()


@pytest.fixture(scope="module")
def motion() -> FlameMotion:
    """Somebody who talks in all shapes of the mouth, nods, blinks twice, smiles and raises the brows."""
    motion, t = FlameMotion.zeros(COUNT), torch.arange(COUNT) / 25.0
    set_to = lambda name, value: motion.expression[:, EXPRESSION_NAMES.index(name)].copy_(value)  # noqa: E731
    opening = (torch.sin(9 * t) * torch.sin(1.3 * t)).clamp(min=0)
    motion.jaw_pose[:, 0] = 0.35 * opening
    set_to("mouthPucker", torch.sin(2.1 * t).clamp(min=0))
    for side in ("_L", "_R"):
        set_to("mouthSmile" + side, 0.8 * torch.sin(2.1 * t + 3.14).clamp(min=0))
        set_to("browInnerUp" + side, 0.8 * torch.sin(0.9 * t).clamp(min=0))
        set_to("browOuterUp" + side, 0.8 * torch.sin(0.9 * t).clamp(min=0))
    motion.rotation[:, 1] = 0.2 * torch.sin(1.1 * t)
    motion.rotation[:, 0] = 0.1 * torch.sin(0.7 * t)
    for start in (30, 100):
        motion.eyelids[start : start + 4] = 1.0
    return motion


@lru_cache(maxsize=16)
def painting(blur: float = 0.0, gain: float = 1.0, add: float = 0.0) -> np.ndarray:
    """A picture of middle brightness with coarse and fine structure, as a face has."""
    random, picture = np.random.default_rng(0), np.zeros((SIZE, SIZE))
    for tiles, strength in ((3, 35), (30, 6), (120, 14), (240, 10)):
        noise = Image.fromarray(random.normal(0, strength, (tiles, tiles)).astype(np.float32))
        picture += np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    picture = ((picture[..., None] + (150, 130, 120)) * gain + add).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(blur)) if blur else picture)


def voice(seconds: float, noise: float = 0.0005) -> np.ndarray:
    """Something as loud and as interrupted as speech, `[n, 1]`."""
    random, t = np.random.default_rng(1), np.arange(int(seconds * 16000)) / 16000
    loud = np.clip(np.sin(5 * t) + 0.6, 0, 1) * np.sin(2 * np.pi * 140 * t) * 0.4
    return (loud + noise * random.standard_normal(len(t))).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def make(head, motion):
    """`make(**changes)`: the evidence of a good clip with some of it replaced."""
    camera = default_camera(SIZE, SIZE)
    with torch.no_grad():
        points = head.landmarks(head(**motion.head_inputs()).vertices)
    view = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = view @ camera.K.T
    pixels = torch.cat([pixels[..., :2] / pixels[..., 2:], (view[..., 2:] - 1.44) * 1000], -1)
    landmarks = np.zeros((COUNT, 478, 3), np.float32)
    landmarks[:, :468] = pixels.numpy()
    landmarks[:, 468:] = landmarks[:, 33:34]
    track = HeadTrack(
        motion=motion, shape=torch.zeros(head.num_shape), camera=camera, valid=torch.ones(COUNT, dtype=torch.bool),
        confidence=torch.ones(COUNT), error=torch.ones(COUNT), held_out_error=torch.full((COUNT,), 1.5),
        landmarks=torch.from_numpy(landmarks), head_sha256=head.sha256,
    )  # fmt: skip
    units, strong = action_units_from_track(track, head), amplitudes(track, head)

    def build(*, frame=None, points=None, found=None, num_faces=None, **changes) -> Evidence:
        frame = painting() if frame is None else frame
        paint = frame if callable(frame) else lambda i: frame
        points = landmarks if points is None else points
        found = np.ones(COUNT, bool) if found is None else found
        num_faces = found.astype(np.int32) if num_faces is None else num_faces
        shown = np.where(found[:, None, None], points, np.nan)
        values = {
            "name": "good.mp4", "width": SIZE, "height": SIZE, "fps": 25.0, "is_variable": False,
            "duration": COUNT / 25, "landmarks": FaceLandmarks(shown, found, num_faces, SIZE, SIZE),
            "frames": lambda: (paint(i) for i in range(COUNT)),
            "scenes": np.stack([tiny(painting()) + np.uint8(i % 2) for i in range(2)] * (COUNT // 2)),
            "audio": AudioClip(voice(COUNT / 25), 16000), "audio_duration": COUNT / 25,
            "track": track, "action_units": units, "offset": AVOffset(0.4, 0.99, True, 0.3), "amplitudes": strong,
        }  # fmt: skip
        return Evidence(**{**values, **changes})

    return build


def lights(report: DoctorReport) -> dict[str, str]:
    return {check.name: check.light for check in report.checks}


def test_good_clip(make):
    """All green, nothing to advise; every picture that a check names is there."""
    report = judge(make())
    assert report.light == "green" and report.verdict == "This clip is good.", render_text(report)
    assert set(lights(report).values()) == {"green"} and not any(check.advice for check in report.checks)
    assert {(frame, check.whole) for check in report.checks for frame in check.frames} == set(report.pictures)
    assert {check.group for check in report.checks} == {"picture", "face", "movement", "sound"}
    blinks = next(check for check in report.checks if check.name == "blinks")
    assert blinks.value == 2 and all(abs(a - b) <= 4 for a, b in zip(blinks.frames, (31, 101), strict=True))


FAULTS = {
    "blurred": (lambda e: {"frame": painting(blur=9)}, "sharpness", "red"),
    "soft": (lambda e: {"frame": painting(blur=3.5)}, "sharpness", "yellow"),
    "dark": (lambda e: {"frame": painting(gain=0.15)}, "exposure", "red"),
    "dim": (lambda e: {"frame": painting(gain=0.35)}, "exposure", "yellow"),
    "burnt": (lambda e: {"frame": painting(add=105)}, "exposure", "yellow"),
    "flicker": (lambda e: {"frame": lambda i: painting(gain=0.8 if i < 80 else 1.2)}, "steady light", "yellow"),
    "small": (lambda e: {"points": e.landmarks.points * 0.3}, "face size", "red"),
    "smaller crop": (lambda e: {"pixel_scale": 0.6}, "face size", "yellow"),
    "cut off": (lambda e: {"points": e.landmarks.points - (300, 0, 0)}, "framing", "red"),
    "two faces": (lambda e: {"num_faces": np.full(COUNT, 2, np.int32)}, "number of faces", "yellow"),
    "leaves": (lambda e: {"found": np.arange(COUNT) >= 25}, "face found", "yellow"),
    "gone": (lambda e: {"found": np.arange(COUNT) < 100}, "face found", "red"),
    "short": (lambda e: {"found": np.arange(COUNT) < 40}, "length", "red"),
    "slow camera": (lambda e: {"fps": 15.0}, "frame rate", "yellow"),
    "slide show": (lambda e: {"fps": 8.0}, "frame rate", "red"),
    "repeats": (lambda e: {"scenes": e.scenes.repeat(2, 0)[:COUNT]}, "frame rate", "yellow"),
    "photo": (lambda e: {"is_still": True}, "moving picture", "red"),
    "silent mouth": (lambda e: {"points": np.repeat(e.landmarks.points[:1], COUNT, 0)}, "mouth shapes", "red"),
    "damaged": (lambda e: {"file_warnings": ["the file breaks off at 3 s"]}, "file", "yellow"),
    "tiny picture": (lambda e: {"height": 240}, "resolution", "yellow"),
    "no sound": (lambda e: {"audio": None, "offset": None}, "sound", "yellow"),
    "silence": (lambda e: {"audio": AudioClip(np.zeros((99999, 1), np.float32), 16000)}, "sound", "yellow"),
    "pauses": (lambda e: {"audio": AudioClip(np.pad(voice(1), ((99999, 0), (0, 0))), 16000)}, "sound", "yellow"),
    "noise": (lambda e: {"audio": AudioClip(voice(6.4, noise=0.1), 16000)}, "noise", "yellow"),
    "too loud": (lambda e: {"audio": AudioClip((voice(6.4) * 9).clip(-1, 1), 16000)}, "clipping", "yellow"),
    "long sound": (lambda e: {"audio_duration": 9.0}, "sound length", "yellow"),
    "late sound": (lambda e: {"offset": AVOffset(5.0, 0.99, True, 0.3)}, "lip sync", "yellow"),
    "unsure": (lambda e: {"offset": AVOffset(5.0, 0.4, False, 0.1)}, "lip sync", "grey"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(make, fault):
    """Each fault turns on its own light, says what to do, and is shown in the terminal and on the page."""
    change, name, light = FAULTS[fault]
    report = judge(make(**change(make())))
    check = next((c for c in report.checks if c.name == name), None)
    assert check is not None and check.light == light, render_text(report)
    assert check.finding.endswith(".") and (check.advice or light == "grey")
    assert report.light == "red" if light == "red" else report.light != "grey"
    assert check.finding.split(".")[0] in " ".join(render_text(report).split())
    json.dumps(report.to_dict(), allow_nan=False)
    render_page(report)


def test_faults_of_the_track(make, head):
    """A head that is turned away, one that never moves, a fit that fails, eyes that never blink, a blank face."""
    good = make()

    def with_track(motion=None, **changes):
        track = replace(good.track, motion=motion or good.track.motion, **changes)
        return lights(judge(make(track=track, action_units=action_units_from_track(track, head))))

    turned = FlameMotion.zeros(COUNT)
    turned.rotation[:, 1] = 0.6
    assert with_track(turned)["head movement"] == "yellow"
    turned.rotation[:, 1] = 1.2
    assert with_track(turned)["head movement"] == "red"
    found = with_track(FlameMotion.zeros(COUNT))
    assert found["head movement"] == found["expression"] == "yellow"
    assert found["blinks"] == "green"  # 6 s without a blink are usual
    assert with_track(valid=torch.arange(COUNT) > 20)["tracking"] == "yellow"
    assert with_track(valid=torch.zeros(COUNT, dtype=torch.bool))["tracking"] == "red"
    assert with_track(held_out_error=torch.full((COUNT,), 20.0))["tracking"] == "red"


def test_strength(make):
    """How far the head model moves beside the landmarks is said; one that shows half of a smile is worth a yellow."""
    check = next(check for check in judge(make()).checks if check.name == "strength")
    assert (
        check.light == "green" and check.value == pytest.approx(1, abs=0.01) and "1.00 to 1.00 times" in check.finding
    )
    weak = {"mouth width": (Amplitude(0.5, 0.99, 0.5, 0.03),), "lip gap": (Amplitude(0.9, 0.99, 0.9, 0.05),)}
    check = next(check for check in judge(make(amplitudes=weak)).checks if check.name == "strength")
    assert check.light == "yellow" and "mouth width: 0.50" in check.finding and check.advice
    still = {"mouth width": (Amplitude(0.2, 0.1, 2.0, 0.001),)}
    assert lights(judge(make(amplitudes=still)))["strength"] == "grey"


def test_no_face(make):
    """No face is a red report in one piece, not an error."""
    none = np.zeros(COUNT, bool)
    report = judge(make(found=none, track=None, action_units=None, offset=None))
    assert report.light == "red" and lights(report)["face found"] == "red"
    assert "cannot be used" in report.verdict and report.series == {}
    assert len(report.pictures) == 4 and all(whole for _, whole in report.pictures)
    render_page(report)


def test_hand_before_the_mouth(make):
    """Something of another colour in front of the lips, in some frames, is told as a possibility."""
    good = make()
    lips = good.landmarks.points[0, :, :2]
    x, y = (int(v) for v in lips[13])

    def hidden(i):
        frame = painting().copy()
        if 60 <= i < 80:
            frame[y - 80 : y + 110, x - 90 : x + 90] = (60, 20, 10)
        return frame

    report = judge(make(frame=hidden))
    check = next(check for check in report.checks if check.name == "free mouth")
    assert check.light == "yellow" and "Possibly" in check.finding
    assert all(55 <= frame < 85 for frame in check.frames)


def test_processed_clip(make, monkeypatch, tmp_path):
    """A processed clip is judged by its own track; what it does not know of its source is left out."""
    good = make()
    clip = object.__new__(ProcessedClip)
    crop = FrameCrop.square((480, 480), 320, SIZE, (960, 960))  # 1.5 times enlarged
    clip.__dict__.update(
        path=tmp_path / "me_clip", info={"warnings": ["The mouth is dark."]}, num_frames=COUNT, crop=crop,
        track=good.track, audio=good.audio,
    )  # fmt: skip
    monkeypatch.setattr(ProcessedClip, "frame", lambda self, index: painting())
    report = examine(clip)
    found = lights(report)
    assert "frame rate" not in found and "number of faces" not in found
    assert found["file"] == "yellow" and found["tracking"] == found["sharpness"] == "green"
    size = {check.name: check.value for check in report.checks}["face size"]
    assert size == pytest.approx({check.name: check.value for check in judge(good).checks}["face size"] / 1.5)
    assert examine(clip, max_seconds=2).seconds == 2 and report.offset is not None


def test_cuts(make):
    """Another picture is a cut, one a little different only if the face jumps; a flash or a shaken head is none."""
    good = make()
    points, other, lighter = good.landmarks.points.copy(), good.scenes.copy(), good.scenes.copy()
    points[90:, :, 0] += 90
    other[90:], lighter[90:] = 255 - other[90:], lighter[90:] + 15
    flash = good.scenes.copy()
    flash[90:92] = 255
    assert find_cuts(make(scenes=other)).tolist() == [90]
    assert find_cuts(make(points=points, scenes=lighter)).tolist() == [90]
    for changes in ({"points": points}, {"scenes": lighter}, {"scenes": flash}):
        assert len(find_cuts(make(**changes))) == 0
    light = lambda e: next(check.light for check in judge(e).checks if check.name == "cuts")  # noqa: E731
    assert light(make(scenes=other)) == "red"  # another scene, and likely another person
    assert light(make(points=points, scenes=lighter)) == "yellow"


def test_mouth_shapes_and_blinks():
    """Counted by hand: two shapes; one blink, a long look down that is none, and one on a frame that does not count."""
    mouth = np.array([[0.01, 0.5], [0.2, 0.5], [0.2, 0.5], [np.nan, np.nan]])
    counts = mouth_shapes(mouth)
    assert counts.sum() == 3 and counts[0, 2] == 1 and counts[-1, 2] == 2
    lids = np.zeros((100, 2))
    lids[10:13], lids[40:70], lids[80:83] = 0.9, 0.9, 0.9
    valid = np.ones(100, bool)
    valid[80:83] = False
    assert find_blinks(lids, valid).tolist() == [10]
    assert len(find_blinks(lids, np.zeros(100, bool))) == 0


def test_sound_measures():
    """30 dB of noise below a voice are found to within 3; a sine cut at half its height is clipped, and a whole one is
    not; a constant is silence."""
    random = np.random.default_rng(0)
    loud = np.repeat([1.0, 0.0], 8000)[None].repeat(4, 0).ravel()
    noise = random.standard_normal(len(loud))
    samples = (0.1 * loud * random.standard_normal(len(loud)) + 0.1 * 10 ** (-30 / 20) * noise).astype(np.float32)
    assert signal_to_noise(levels(samples)) == pytest.approx(30, abs=3)
    sine = (0.9 * np.sin(np.arange(32000) / 20)).astype(np.float32)[:, None]
    assert clipped_share(AudioClip(sine.clip(-0.45, 0.45), 16000)) > 0.9
    assert clipped_share(AudioClip(sine, 16000)) < 0.01 and clipped_share(AudioClip(sine * 0.01, 16000)) == 0
    assert levels(np.full(16000, 0.5, np.float32)).max() < -80


def test_faces_at_the_edge(make):
    """A face of which hardly anything is in the picture is looked at without an error."""
    points = make().landmarks.points.copy()
    points[:, :, 0] += 2 * SIZE
    looks, pictures = look(make(points=points), 20, {(3, True)})
    assert len(looks.index) == 8 and np.isfinite(looks.sharpness).all()
    assert set(pictures) == {(3, True)} | {(i, False) for i in looks.index}
    report = judge(make(points=points))
    assert lights(report)["framing"] == "red"


class Page(HTMLParser):
    """Collects tags, their attributes and the text, and checks that they are nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "line", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page(make, tmp_path):
    """One file: whole HTML, pictures inside, each with words for who cannot see it; nothing is fetched or runs."""
    report = judge(make(num_faces=np.full(COUNT, 2, np.int32)))
    path = write_page(report, tmp_path / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) >= 8 and all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in images)
    assert all(attrs["alt"] for attrs in images)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not any(key.startswith("on") or key == "href" for _, attrs in page.tags for key in attrs)
    assert "To improve" in page.text and "Up to 2 faces" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == len(report.series) == 4


def test_page_of_a_hostile_file_name():
    """A file's name is text, on the page and in the terminal, whatever it looks like."""
    name = '<img src=x onerror="alert(1)">\x1b[2J&"\'.mp4'
    check = Check("sound<b>", "sound", float("nan"), "", "red", "<script>x</script>", "a & b", (1,))
    report = DoctorReport(name, [check], 1.0, series={"nod": np.array([np.nan, 1.0, 2.0, np.nan, 1.0])})
    page = Page(render_page(report))
    assert not {"script", "b", "img"} & {tag for tag, _ in page.tags}
    assert '<img src=x onerror="alert(1)">' in page.text and "\x1b" not in render_page(report)
    assert "\x1b[2J" not in render_text(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["checks"][0]["value"] is None


def test_page_cannot_be_written(tmp_path):
    """A folder, or a folder that is not there: a sentence, and nothing left behind."""
    report = DoctorReport("a.mp4", [], 0.0)
    with pytest.raises(ValueError, match="is a folder"):
        write_page(report, tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no"):
        write_page(report, tmp_path / "no" / "a.html")
    assert not list(tmp_path.iterdir())


def test_text(make):
    """Lines fit the terminal; colour only when asked for."""
    text = render_text(judge(make(fps=8.0)), width=60)
    assert max(len(line) for line in text.splitlines()[2:]) <= 60 and "\x1b" not in text
    assert text.startswith("[red]") and "[green]  resolution" in text
    assert "\x1b[31m" in render_text(judge(make(fps=8.0)), color=True)


def test_wrong_arguments(tmp_path):
    """The same errors as everywhere: no file, no video, a folder that is no clip, no time to look."""
    with pytest.raises(FileNotFoundError, match="no file"):
        examine(tmp_path / "nothing.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match="^path: expected a video"):
        examine(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="^path: expected a processed clip"):
        examine(tmp_path)
    with pytest.raises(ValueError, match="^max_seconds"):
        examine(tmp_path / "text.mp4", max_seconds=0)


@pytest.mark.real_data
def test_real_clip(test_data, tmp_path):
    """A good recording of five seconds is green but for its sound, which is late; the same in the dark is not, and five
    frames more are found."""
    from emotag_hf.video.video_reader import read_video
    from emotag_hf.video.video_writer import VideoWriter

    path = test_data / "data" / "clips" / "may_5s_512.mp4"
    good = examine(path)
    assert {name for name, light in lights(good).items() if light != "green"} <= {"lip sync"}, render_text(good)
    assert good.light in ("green", "yellow") and good.offset["reliable"] and 1 < good.offset["frames"] < 4.5
    clip = read_video(path)
    late = AudioClip(np.pad(clip.audio.samples, ((clip.audio.sampling_rate // 5, 0), (0, 0))), clip.audio.sampling_rate)
    with VideoWriter(tmp_path / "bad.mp4", clip.width, clip.height, 25, audio=late) as writer:
        for frame in clip.frames(25):
            writer.write((frame * 0.25).astype(np.uint8))
    bad = examine(tmp_path / "bad.mp4")
    assert {name for name, light in lights(bad).items() if light != "green"} == {"exposure", "lip sync"}
    assert bad.offset["frames"] - good.offset["frames"] == pytest.approx(5, abs=0.3)


@pytest.mark.real_data
def test_still_and_faceless_videos(test_data, tmp_path):
    """A photo as a video, and a video of nothing that moves about, are red reports; a real photo is an error."""
    from emotag_hf.video.video_reader import read_video
    from emotag_hf.video.video_writer import VideoWriter

    photo = next(iter(read_video(test_data / "data" / "clips" / "may_5s_512.mp4").frames()))
    with VideoWriter(tmp_path / "photo.mp4", 512, 512, 25) as writer:
        for _ in range(30):
            writer.write(photo)
    with VideoWriter(tmp_path / "nothing.mp4", 512, 512, 25) as writer:
        for i in range(30):
            writer.write(np.roll(painting()[:512:2, :512:2].repeat(3, 0).repeat(3, 1)[:512, :512], 9 * i, 1))
    assert lights(examine(tmp_path / "photo.mp4"))["moving picture"] == "red"
    assert lights(examine(tmp_path / "nothing.mp4"))["face found"] == "red"
    Image.fromarray(photo).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="a single photo is not supported"):
        examine(tmp_path / "photo.png")
