"""What is behind the page, without a browser: uploads that are looked at before they are decoded, visitors whose files
go with them, tables, faces, consent, avatars by choice."""

from __future__ import annotations

import threading
import zipfile

import numpy as np
import pytest
import torch

from emotag_hf import EmoTaGPipeline, studio
from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.preprocessing.data.sound_file import write_flac
from emotag_hf.preprocessing.doctor import Check, DoctorReport

SETTINGS = studio.Settings(size=64, preview_size=32, max_recording_s=3, max_video_s=3, max_upload_mb=1)


@pytest.fixture(scope="module")
def avatars() -> studio.Avatars:
    return studio.Avatars()


@pytest.fixture
def visitors(tmp_path):
    here = studio.Visitors(root=tmp_path)
    yield here
    here.close()


@pytest.fixture
def visitor(visitors):
    return visitors.of("somebody")


def words(seconds: float) -> AudioClip:
    t = np.arange(round(seconds * 16000)) / 16000
    return AudioClip((0.3 * np.sin(2 * np.pi * 140 * t) * np.sin(9 * t)).astype(np.float32)[:, None], 16000)


# --- visitors ---------------------------------------------------------------------------------------------------------


def test_folders_of_visitors(visitors, tmp_path):
    """Each has a folder of their own, whose name says nothing of the session and lies where it should, whatever the
    session is called; leaving deletes it and stops what runs."""
    one, other = visitors.of("../../one"), visitors.of("other")
    assert one.folder.parent == other.folder.parent == tmp_path and one.folder != other.folder
    assert "one" not in one.folder.name and visitors.of("../../one") is one
    job = one.begin()
    (one.folder / "file").write_text("mine")
    visitors.leave("../../one")
    assert job.is_stopped and not one.folder.exists() and other.folder.exists() and len(visitors) == 1
    with pytest.raises(studio.Stopped):
        job.check()
    visitors.leave("nobody")


def test_who_is_not_heard_of_has_left(tmp_path):
    """A visitor whose browser never said goodbye goes when the next one comes."""
    here = studio.Visitors(keep_s=0.0, root=tmp_path)
    folder = here.of("old").folder
    new = here.of("new").folder
    assert not folder.exists() and new.exists()


def test_a_new_job_ends_the_old_one(visitor):
    """One thing at a time for one visitor."""
    first = visitor.begin()
    second = visitor.begin()
    assert first.is_stopped and not second.is_stopped
    visitor.stop()
    assert second.is_stopped


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_size_comes_before_everything(tmp_path, monkeypatch):
    """What is too large is not even opened."""
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(2_000_000_000)
    for name in ("decode", "read_video"):
        monkeypatch.setattr(f"emotag_hf.studio.uploads.{name}", lambda *a: pytest.fail("opened"))
    for check in (studio.check_recording, studio.check_video):
        with pytest.raises(studio.UploadError, match="1,907 MB, this page takes at most 1 MB"):
            check(large, SETTINGS)
        with pytest.raises(studio.UploadError, match="first"):
            check(None, SETTINGS)


def test_a_long_recording_is_not_decoded_whole(tmp_path, monkeypatch):
    """Decoding stops a second after what is allowed, however long the file is; just at the limit is fine."""
    from emotag_hf.studio import uploads

    read = []
    decode = uploads.decode
    monkeypatch.setattr(uploads, "decode", lambda *a: read.append(decode(*a)) or read[-1])
    write_flac(tmp_path / "long.flac", words(20))
    with pytest.raises(studio.UploadError, match="longer than 3 s"):
        studio.check_recording(tmp_path / "long.flac", SETTINGS)
    assert read[0].duration <= 4.1
    write_flac(tmp_path / "three.flac", words(3))
    assert studio.check_recording(tmp_path / "three.flac", SETTINGS).duration == pytest.approx(3)


def test_videos(uploads, monkeypatch):
    """No video, too long, too many pixels: a sentence each, before a frame is decoded."""
    monkeypatch.setattr("emotag_hf.video.video_reader.VideoClip.frames", lambda *a: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="letter.mp4"):
        studio.check_video(uploads / "letter.mp4", SETTINGS)
    with pytest.raises(studio.UploadError, match="has 26 s, this page takes at most 3 s"):
        studio.check_video(uploads / "long.mp4", SETTINGS)
    with pytest.raises(studio.UploadError, match="128 x 96 pixels"):
        studio.check_video(uploads / "noface.mp4", studio.Settings(max_pixels=10_000))
    assert studio.check_video(uploads / "noface.mp4", SETTINGS).width == 128


def test_in_words(tmp_path):
    """Visitors read names of files, not where this machine keeps them, nor advice for a terminal."""
    error = ValueError(f"audio: expected wav, but {tmp_path}/a/b.wav is\n not one. (`--force`, force=True, goes on.)")
    assert studio.in_words(error) == "audio: expected wav, but b.wav is not one."
    assert studio.in_words(ValueError("user/name on https://huggingface.co/a/b")).endswith("https://huggingface.co/a/b")
    assert studio.in_words(ValueError()) == "ValueError"


# --- speaking ---------------------------------------------------------------------------------------------------------


def test_speak_is_the_pipelines_video(avatars, visitor):
    """The frames of the stream are those of the recording; pictures come before the end; the curve is as
    long as the sound."""
    pipe, clip = avatars.demo(), words(0.8)
    seen = []
    real = studio.speaking.VideoWriter.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio.speaking.VideoWriter, "write", lambda s, f: (seen.append(np.array(f)), real(s, f)))
        patch.setattr(studio.speaking, "_EVERY", 0.0)
        steps = list(
            studio.speak(pipe, clip, visitor.folder / "a.mp4", visitor.begin(), SETTINGS, emotion="sad", seed=3)
        )
    own = pipe(clip, emotion="sad", seed=3, size=64)
    assert len(seen) == len(own.frames) == 20
    assert max(np.abs(a - b).max() for a, b in zip(seen, own.frames)) <= 1 / 255
    assert sum(step.picture is not None for step in steps) >= 10 and steps[1].picture.shape == (32, 32, 3)
    assert steps[-1].video.is_file() and [step.video for step in steps[:-1]] == [None] * (len(steps) - 1)
    curve = steps[-1].curve
    assert set(curve["curve"]) == {"gate", "sad"} and max(curve["second"]) == pytest.approx(0.76)


def test_stopping_leaves_nothing(avatars, visitor):
    """A stopped video is not there, nor a part of it."""
    job = visitor.begin()
    steps = studio.speak(avatars.demo(), words(2), visitor.folder / "a.mp4", job, SETTINGS)
    next(steps)
    next(steps)
    job.stop()
    with pytest.raises(studio.Stopped):
        list(steps)
    assert list(visitor.folder.iterdir()) == []


def test_keyframes():
    """Any order, empty rows, a comma for a point, the voice; everything else is a sentence with its row."""
    rows = [["2,5", "Happy", "0.5"], [0, "", 0], [None, None, None], [0, "sad", None], [1, "from the voice", 1]]
    assert studio.keyframes_of(rows) == [
        {"time": 0.0, "emotion": "sad", "intensity": 1.0},
        {"time": 1.0, "emotion": "auto", "intensity": 1.0},
        {"time": 2.5, "emotion": "happy", "intensity": 0.5},
    ]
    wrong = {
        "Row 1: expected one of": [[0, "hapy", 1]],
        "Row 2: expected a second": [[0, "sad", 1], ["soon", "sad", 1]],
        "Row 1: expected an intensity": [[0, "sad", 2]],
        "at least one row": [["", "", ""]],
        "Row 1: expected a second from 0 on, got 'nan'": [["nan", "sad", 1]],
    }
    for sentence, table in wrong.items():
        with pytest.raises(studio.UploadError, match=sentence):
            studio.keyframes_of(table)


# --- avatars ----------------------------------------------------------------------------------------------------------


def test_avatars_by_choice(visitor, tmp_path):
    """No avatar yet, no name, a path instead of a name, a folder of this machine: none of them is loaded."""
    asked = []
    avatars = studio.Avatars(download=lambda name: asked.append(name) or str(tmp_path))
    for choice, name, sentence in (
        (studio.MINE, None, "no avatar yet"),
        (studio.FROM_HUB, "", "user/name"),
        (studio.FROM_HUB, "../../etc", "expected a name on the Hub"),
        (studio.FROM_HUB, "/etc/passwd", "expected a name on the Hub"),
        ("else", None, "Choose"),
    ):
        with pytest.raises(ValueError, match=sentence):
            avatars.of(choice, name, visitor)
    (tmp_path / "src" / "secret").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(studio.UploadError, match="no public avatar"):
            avatars.of(studio.FROM_HUB, "src/secret", visitor)
    assert asked == []


def test_avatars_are_kept(visitor, avatars):
    """The same is loaded once; one that was made again is another one; the Hub's is what was downloaded."""
    assert avatars.demo() is avatars.demo()
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.save_pretrained(visitor.avatar)
    first = avatars.of(studio.MINE, None, visitor)
    assert avatars.of(studio.MINE, None, visitor) is first
    pipe.save_pretrained(visitor.avatar)
    assert avatars.of(studio.MINE, None, visitor) is not first
    hub = studio.Avatars(download=lambda name: str(visitor.avatar))
    assert hub.of(studio.FROM_HUB, " user/name ", visitor).model.folder == str(visitor.avatar)


# --- faces ------------------------------------------------------------------------------------------------------------


def test_sliders():
    """A name without its side moves both; left is the person's; an emotion is underneath."""
    motion = studio.face_motion({"mouthSmile": 0.5, "jawOpen": 1.0, "eyeBlinkLeft": 1.0, "lookUp": 1.0}, "sad", 0.5)
    row = dict(zip(EXPRESSION_NAMES, motion.expression[0].tolist()))
    assert row["mouthSmile_L"] == row["mouthSmile_R"] == 0.5 and row["mouthFrown_L"] == pytest.approx(0.5)
    assert motion.eyelids[0].tolist() == [1.0, 0.0] and motion.eyes_pose[0, 0] < 0 and motion.jaw_pose[0, 0] > 0.3
    for sliders in ({"nothing": 1}, {"jawOpen": 1.5}, {"jawOpen": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            studio.face_motion(sliders)
    moved = [name for name in studio.FACE_SLIDERS if same(studio.face_motion({name: 1.0}), studio.face_motion({}))]
    assert moved == [], "these sliders do nothing"


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.head_inputs().values(), b.head_inputs().values()))


def test_faces_are_drawn_from_where_the_camera_stands(avatars):
    """At rest it is the model's own picture; every slider and both turns show; too far is a sentence."""
    pipe = avatars.demo()
    rest = studio.draw_face(pipe, studio.face_motion({}), size=96)
    assert rest.shape == (96, 96, 3) and rest.std() > 20
    others = [studio.draw_face(pipe, studio.face_motion({name: 1.0}), size=96) for name in studio.FACE_SLIDERS]
    others += [studio.draw_face(pipe, studio.face_motion({}), size=96, turn=20)]
    others += [studio.draw_face(pipe, studio.face_motion({}), size=96, nod=20)]
    assert all(np.abs(other.astype(int) - rest).max() > 12 for other in others)
    with pytest.raises(ValueError, match="turn: expected degrees"):
        studio.draw_face(pipe, studio.face_motion({}), turn=90)


def test_the_viewer_is_walled_off(avatars):
    """Its page cannot reach the page that it stands in, and ends where its frame ends."""
    frame = studio.viewer_frame(avatars.demo()(words(0.2), size=64))
    assert 'sandbox="allow-scripts"' in frame and frame.count("<") == frame.count("</iframe>") * 2 == 2


# --- making -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def looked_at(visitor, uploads):
    visitor.video, visitor.sha256 = uploads / "noface.mp4", "a" * 64
    return visitor


def test_consent(looked_at):
    """It is for this recording, says what was ticked, and names a guardian where there is one."""
    uses = ["private use", "research"]
    consent = studio.consent_of(looked_at, " Remy ", studio.CONSENT_ROLES[0], uses)
    assert consent.clip_sha256 == "a" * 64 and consent.purposes == ("private_use", "research")
    assert consent.statement.startswith("I, Remy, agree") and not consent.may_publish
    other = studio.consent_of(looked_at, "Remy", studio.CONSENT_ROLES[1], uses, "Ann", "mother")
    assert other.agreed_by == "guardian" and "I, Ann (mother)" in other.statement


@pytest.mark.parametrize("name", ["", "  ", "../../etc", "a\x00b", "<script>", "a\u202eb", "x" * 101, "...", "C:\\x"])
def test_hostile_names(looked_at, name):
    """One sentence each, and nothing is made of them."""
    with pytest.raises(ValueError, match="^Name the person in the video") as caught:
        studio.consent_of(looked_at, name, studio.CONSENT_ROLES[0], ["research"])
    assert len(str(caught.value)) < 200 and str(caught.value).isprintable()


def test_no_consent_without(looked_at, visitors):
    """No purpose, no relation, no video that the doctor saw."""
    for name, role, uses, sentence in (
        ("Remy", studio.CONSENT_ROLES[0], [], "at least one purpose"),
        ("Remy", "else", ["research"], "whether you are"),
        ("Remy", studio.CONSENT_ROLES[1], ["research"], "Name yourself"),
    ):
        with pytest.raises(studio.UploadError, match=sentence):
            studio.consent_of(looked_at, name, role, uses)
    with pytest.raises(studio.UploadError, match="doctor"):
        studio.consent_of(visitors.of("new"), "Remy", studio.CONSENT_ROLES[0], ["research"])


def test_making(looked_at, visitors, monkeypatch):
    """News while it works, a folder at the end, a zip of it, nothing else; the video is never looked at beyond the
    limit; failures and stops come out where the visitor waits, and nothing stays of who left."""
    consent = studio.consent_of(looked_at, "Remy", studio.CONSENT_ROLES[0], ["research"])
    going, waiting = threading.Event(), threading.Event()

    class Clip:
        def close(self):
            pass

    def prepare(video, folder, *, max_seconds, **options):
        assert max_seconds == SETTINGS.max_video_s
        return Clip()

    def adapt(clip, folder, *, on_step, consent, **options):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder.parent / "avatar.new.training").mkdir()
        for step in range(3):
            on_step(type("Trainer", (), {"progress": step / 3})())
        waiting.set()
        assert going.wait(20)
        on_step(type("Trainer", (), {"progress": 1.0})())

    monkeypatch.setattr("emotag_hf.studio.making.prepare", prepare)
    monkeypatch.setattr("emotag_hf.studio.making.adapt", adapt)
    steps = studio.make_avatar(looked_at, consent, looked_at.begin(), SETTINGS)
    news = [next(steps)]
    going.set()
    news += list(steps)
    assert news[-1].share == 1.0 and news[-1].avatar == looked_at.avatar and news[0].share < 1
    assert {path.name for path in looked_at.folder.iterdir()} == {"avatar"}
    archive = zipfile.ZipFile(studio.zip_avatar(looked_at))
    assert archive.namelist() == ["my_avatar/config.json"]

    going.clear()
    job = looked_at.begin()
    steps = studio.make_avatar(looked_at, consent, job, SETTINGS)
    next(steps)
    job.stop()
    going.set()
    with pytest.raises(studio.Stopped):
        list(steps)

    gone = visitors.of("gone")
    gone.video, gone.sha256 = looked_at.video, looked_at.sha256
    going.clear()
    waiting.clear()
    steps = studio.make_avatar(gone, consent, gone.begin(), SETTINGS)
    next(steps)
    assert waiting.wait(20)
    visitors.leave("gone")
    gone.folder.mkdir()  # as the work does that goes on for a moment
    going.set()
    with pytest.raises(studio.Stopped):
        list(steps)
    for thread in threading.enumerate():
        if thread.name == "adapt":
            thread.join(20)
    assert not gone.folder.exists()

    monkeypatch.setattr("emotag_hf.studio.making.prepare", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        list(studio.make_avatar(looked_at, consent, looked_at.begin(), SETTINGS))


def test_report(visitor):
    """What is wrong comes first; what a file is called cannot become part of the page."""
    checks = [
        Check("length", "picture", 5.0, "s", "green", "It is long enough."),
        Check("<b>light</b>", "picture", None, "", "red", "Too dark <script>.", "Open a window."),
    ]
    page = studio.report_html(DoctorReport("<x>.mp4", checks, 5.0))
    assert "<script>" not in page and "<b>light</b>" not in page
    assert page.index("Too dark") < page.index("long enough") and "Open a window." in page
