"""The Space: Speak, Make an avatar, Look around, Emotion timeline. Only the page; the backend is `emotag_hf.studio`.

In: what visitors record, upload and choose. Out: videos, curves, avatars; or an error of one sentence.
"""

from __future__ import annotations

import html
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: it is read there

import gradio as gr  # noqa: E402
import pandas as pd  # noqa: E402  (comes with Gradio)

from emotag_hf import EMOTIONS, sample_path, studio  # noqa: E402
from emotag_hf.audio.audio_io import load_audio  # noqa: E402
from emotag_hf.preprocessing.tracking.setup import setup_tracking  # noqa: E402
from emotag_hf.rights.consent import PURPOSES, Consent  # noqa: E402
from emotag_hf.utils.import_utils import is_available  # noqa: E402

try:
    from spaces import GPU as on_gpu  # ZeroGPU requires a decorated function
except ImportError:

    def on_gpu(function: Callable) -> Callable:
        return function


logger = logging.getLogger(__name__)

COLORS = {
    "gate": "#8a8f98", "angry": "#d64545", "disgust": "#6b8e23", "fear": "#8e5bb5", "happy": "#e6a700",
    "sad": "#3f7fd1", "surprise": "#e06c9f", "neutral": "#45b5aa",
}  # fmt: skip
CSS = """
.gradio-container { max-width: 1180px !important; width: 100%; margin: 0 auto; }
.bar { height: 10px; border-radius: 5px; background: var(--border-color-primary); overflow: hidden; }
.bar > div { height: 100%; background: var(--color-accent); }
.wide .image-container > button, .wide .image-frame, .wide img { width: 100% !important; height: auto !important; }
#viewer, #viewer > div { max-width: none; width: 100%; }
.doctor li em { opacity: 0.8; }
"""
TITLE = """# emotag_hf
Speech in, an emotional 3D talking head out, on a CPU. Every video is marked as AI-generated; what you upload is deleted
when you leave. The demo person is synthetic; the network was trained on real recordings and is for research and
other non-commercial use.
"""
ROWS = [[0, "neutral", 1], [1.5, "happy", 0.9], [5, "surprise", 0.8], [8, "sad", 0.9]]


_HIDDEN = {"show_progress": "hidden"}
_QUIET = {"queue": False, "api_visibility": "private"} | _HIDDEN
_HEAVY = {"concurrency_limit": 1, "concurrency_id": "heavy"}  # one job at a time, the others queue


def polite(function: Callable) -> Callable:
    """Turns errors into one sentence for the visitor; the log has the details."""

    def said(error: Exception) -> gr.Error:
        known = isinstance(error, (ValueError, OSError, ImportError))
        if not known:
            logger.exception("unexpected", exc_info=error)
        text = studio.in_words(error) if known else "Something went wrong here; please try again."
        return gr.Error(html.escape(text, quote=False), duration=20, print_exception=False)

    @wraps(function)
    def whole(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise said(error) from error

    @wraps(function)
    def parts(*args, **kwargs):
        try:
            yield from function(*args, **kwargs)
        except studio.Stopped:
            return
        except Exception as error:
            raise said(error) from error

    return parts if inspect.isgeneratorfunction(function) else whole


def clearing(steps: Iterator[tuple], *cleared: Any) -> Iterator[tuple]:
    """The same generator; after an error its progress bar is removed."""
    try:
        yield from steps
    except studio.Stopped:  # the button shows it
        raise
    except Exception:
        yield cleared
        raise


@on_gpu
def speak_on_gpu(*args, **kwargs) -> Iterator[studio.Spoken]:
    """Runs in ZeroGPU's process, if there is one."""
    yield from studio.speak(*args, **kwargs)


def _bar(share: float, text: str) -> str:
    percent = round(100 * min(1.0, share))
    return f'<div class="bar"><div style="width:{percent}%"></div></div><p>{html.escape(text)}</p>'


def _nothing(count: int) -> list[dict]:
    return [gr.update(visible=False) for _ in range(count)]


def _audio() -> gr.Audio:
    return gr.Audio(label="Speech", type="filepath", sources=["upload", "microphone"])


def _panel(name: str) -> list[gr.Component]:
    """Outputs for a spoken recording: progress, newest frame, video, curves, file."""
    with gr.Column(scale=3):
        status = gr.HTML("<p>The video will be here.</p>")
        preview = gr.Image(label="While it is made", interactive=False, visible=False, format="jpeg", buttons=[],
                           elem_classes="wide")  # fmt: skip
        video = gr.Video(label="Talking head", autoplay=True, interactive=False, visible=False, buttons=["download"])
        curve = gr.LinePlot(
            x="second", y="value", color="curve", color_map=COLORS, y_lim=[0, 1], height=220, visible=False,
            title="Emotion and gate over time", x_title="seconds", y_title=" ", color_title=" ",
        )  # fmt: skip
        download = gr.DownloadButton("Download the video", visible=False, elem_id=f"download-{name}")
    return [status, preview, video, curve, download]


class Page:
    """The page of a Space and its visitors.

    Args:
        settings: limits and sizes.
        avatars: loads avatars; None for the demo person and the public Hub.
        folder: parent of the visitors' folders; None for a temporary one.
    """

    def __init__(
        self,
        settings: studio.Settings | None = None,
        avatars: studio.Avatars | None = None,
        folder: Path | None = None,
    ):
        self.settings = settings or studio.Settings()
        self.avatars = avatars or studio.Avatars()
        self.visitors = studio.Visitors(self.settings.keep_s, folder)

    # --- the page ----------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="emotag_hf", delete_cache=(1800, 3600)) as page:
            gr.Markdown(TITLE)
            with gr.Row():
                who = gr.Radio([studio.DEMO, studio.MINE, studio.FROM_HUB], value=studio.DEMO, label="Who speaks")
                hub = gr.Textbox(label="Avatar on the Hub", placeholder="user/name", max_length=96, visible=False)
            who.change(lambda choice: gr.update(visible=choice == studio.FROM_HUB), who, hub, **_QUIET)
            with gr.Tabs() as tabs:
                with gr.Tab("Speak", id="speak"):
                    self._speak_tab(who, hub)
                with gr.Tab("Make an avatar", id="make"):
                    self._make_tab(who, tabs)
                with gr.Tab("Look around", id="look") as look:
                    self._look_tab(who, hub, look)
                with gr.Tab("Emotion timeline", id="timeline"):
                    self._timeline_tab(who, hub)
            page.unload(self._leave)
        page.queue(default_concurrency_limit=4, max_size=30)
        return page

    def _speak_tab(self, who: gr.Radio, hub: gr.Textbox) -> None:
        with gr.Row():
            with gr.Column(scale=2):
                audio = _audio()
                emotion = gr.Dropdown([studio.FROM_VOICE, *EMOTIONS], value=studio.FROM_VOICE, label="Emotion")
                intensity = gr.Slider(0, 1, value=0.7, step=0.05, label="Intensity")
                with gr.Accordion("More", open=False):
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed of head motion, blinks and gaze")
                with gr.Row():
                    stop = gr.Button("Stop", elem_id="stop")
                    button = gr.Button("Speak", variant="primary", elem_id="speak")
                gr.Examples([[sample_path(), "happy", 0.7]], [audio, emotion, intensity], label="Example")
            panel = _panel("speak")
        click = button.click(
            self._speak, [who, hub, audio, emotion, intensity, seed], panel, api_name="speak", **_HEAVY
        )
        stop.click(self._stop, None, panel[:2], cancels=click, **_QUIET)

    def _timeline_tab(self, who: gr.Radio, hub: gr.Textbox) -> None:
        with gr.Row():
            with gr.Column(scale=2):
                audio = _audio()
                gr.Markdown(
                    "Each row is a face that is reached at its second; between two of them the face changes smoothly. "
                    f"Emotions: {', '.join(EMOTIONS)}, or auto to read the voice."
                )
                table = gr.Dataframe(
                    ROWS, headers=["second", "emotion", "intensity"], datatype=["number", "str", "number"],
                    type="array", column_count=(3, "fixed"), row_count=(4, "dynamic"), show_label=False,
                    interactive=True, column_widths=["25%", "45%", "30%"], elem_id="keyframes",
                )  # fmt: skip
                with gr.Row():
                    stop, button = gr.Button("Stop"), gr.Button("Speak", variant="primary", elem_id="speak-timeline")
                gr.Examples([[sample_path()]], [audio], label="Example")
            panel = _panel("timeline")
        click = button.click(self._speak_timeline, [who, hub, audio, table], panel, api_name="timeline", **_HEAVY)
        stop.click(self._stop, None, panel[:2], cancels=click, **_QUIET)

    def _look_tab(self, who: gr.Radio, hub: gr.Textbox, tab: gr.Tab) -> None:
        with gr.Row():
            with gr.Column(scale=3):
                picture = gr.Image(
                    label="The avatar", interactive=False, format="jpeg", buttons=["download"], elem_id="face",
                    elem_classes="wide",
                )  # fmt: skip
                turn = gr.Slider(-studio.MAX_TURN, studio.MAX_TURN, 0, step=1, label="Go round (degrees)")
                nod = gr.Slider(-studio.MAX_NOD, studio.MAX_NOD, 0, step=1, label="Go up and down (degrees)")
            with gr.Column(scale=2):
                emotion = gr.Dropdown(list(EMOTIONS), value="neutral", label="Emotion")
                intensity = gr.Slider(0, 1, 0.8, step=0.05, label="Intensity")
                names = list(studio.FACE_SLIDERS)
                sliders = []
                with gr.Row():
                    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                        with gr.Column(min_width=120):
                            sliders += [
                                gr.Slider(
                                    studio.FACE_SLIDERS[name], 1, 0, step=0.05, label=name, min_width=100, buttons=[]
                                )
                                for name in half
                            ]
                rest = gr.Button("Back to rest", elem_id="rest")
        show = gr.Button("What was said last (or the example), in 3D: turn it while it speaks", elem_id="in-3d")
        viewer = gr.HTML(elem_id="viewer")
        inputs = [who, hub, turn, nod, emotion, intensity, *sliders]
        options = {"show_progress": "hidden", "concurrency_limit": 2, "concurrency_id": "draw"} | _HIDDEN
        for part in inputs[2:]:
            part.change(self._draw, inputs, picture, trigger_mode="always_last", **options)
        gr.on([tab.select, who.change, hub.submit], self._draw_if_there, inputs, picture, **options)
        values = [0, 0, "neutral", 0.8, *[0] * len(sliders)]
        rest.click(lambda: values, None, inputs[2:], **_QUIET)
        show.click(self._show_in_3d, [who, hub], viewer, **_HEAVY, **_HIDDEN)

    def _make_tab(self, who: gr.Radio, tabs: gr.Tabs) -> None:
        gr.Markdown(
            f"**1. A video** of one person who speaks, 5 to 10 s (at most {self.settings.max_video_s:.0f} s and "
            f"{self.settings.max_upload_mb} MB), alone in the picture, in good light. Nobody at hand? A video from the "
            "first tab will do: its face belongs to nobody."
        )
        with gr.Row():
            with gr.Column():
                video = gr.Video(
                    label="Video", sources=["upload", "webcam"], include_audio=True,
                    webcam_options=gr.WebcamOptions(mirror=False),
                )  # fmt: skip
                look = gr.Button("Is it good enough?", variant="primary", elem_id="doctor")
            report = gr.HTML(elem_id="report")
        with gr.Column(visible=False) as form:
            gr.Markdown("**2. Consent.** Whoever has an avatar can make it say anything. So the person has to agree.")
            with gr.Row():
                name = gr.Textbox(label="Name of the person in the video", max_length=100, elem_id="name")
                role = gr.Radio(list(studio.CONSENT_ROLES), value=studio.CONSENT_ROLES[0], label="Who are you?")
            with gr.Row(visible=False) as somebody:
                guardian = gr.Textbox(label="Your own name", max_length=100)
                relation = gr.Textbox(label="Why you may decide (mother, legal guardian, ...)", max_length=100)
            purposes = gr.CheckboxGroup(
                list(PURPOSES.values()), value=[PURPOSES["private_use"]], label="What it may be used for"
            )
            statement = gr.Textbox(label="What is agreed to", lines=4, interactive=False)
            agreed = gr.Checkbox(label="I agree", elem_id="agreed")
            gr.Markdown("**3. The avatar.** It takes a minute or two.")
            with gr.Row():
                stop, make = gr.Button("Stop"), gr.Button("Make the avatar", variant="primary", elem_id="make")
            status = gr.HTML(elem_id="making")
            with gr.Row():
                preview = gr.Image(label="So far", interactive=False, visible=False, height=320, buttons=[])
                with gr.Column(visible=False) as done:
                    go = gr.Button("Let it speak", variant="primary", elem_id="go")
                    gr.Markdown("To keep it, download its folder: it is deleted here when you leave.")
                    download = gr.DownloadButton("Download the avatar", elem_id="download-avatar")
        answers = [name, role, purposes, guardian, relation]
        look.click(self._look_at, video, [report, form, statement, agreed, status, preview, done], **_HEAVY, **_HIDDEN)
        video.clear(lambda: ("", gr.update(visible=False)), None, [report, form], **_QUIET)
        role.change(lambda r: gr.update(visible=r == studio.CONSENT_ROLES[1]), role, somebody, **_QUIET)
        gr.on([part.change for part in answers], self._state_it, answers, [statement, agreed], **_QUIET)
        outputs = [status, preview, done, download, who]
        click = make.click(self._make, [agreed, *answers], outputs, **_HEAVY, **_HIDDEN)
        stop.click(self._stop, None, [status, preview], cancels=click, **_QUIET)
        go.click(lambda: gr.Tabs(selected="speak"), None, tabs, **_QUIET)

    # --- what happens ------------------------------------------------------------------------------------------------

    def _visitor(self, request: gr.Request) -> studio.Visitor:
        return self.visitors.of(request.session_hash or "nobody")

    def _leave(self, request: gr.Request) -> None:
        self.visitors.leave(request.session_hash or "nobody")

    def _stop(self, request: gr.Request):
        self._visitor(request).stop()
        return gr.update(value="<p>Stopped.</p>", visible=True), gr.update(visible=False)

    @polite
    def _speak(self, request: gr.Request, who, hub, audio, emotion, intensity, seed):
        controls = {"emotion": studio.emotion_of(emotion), "intensity": intensity, "seed": int(seed or 0)}
        yield from clearing(self._say(request, who, hub, audio, controls), *_nothing(5))

    @polite
    def _speak_timeline(self, request: gr.Request, who, hub, audio, rows):
        controls = {"emotion": studio.keyframes_of(rows)}
        yield from clearing(self._say(request, who, hub, audio, controls), *_nothing(5))

    def _say(self, request: gr.Request, who: str, hub: str, audio: str | None, controls: dict[str, Any]) -> Iterator:
        visitor = self._visitor(request)
        job = visitor.begin()
        clip = studio.check_recording(audio, self.settings)
        pipe = self.avatars.of(who, hub, visitor)
        hidden = gr.update(visible=False)
        yield gr.update(value=_bar(0, "Listening"), visible=True), hidden, hidden, hidden, hidden
        output = visitor.folder / "talking_head.mp4"
        for spoken in speak_on_gpu(pipe, clip, output, job, self.settings, **controls):
            if spoken.curve is None:
                picture = gr.update() if spoken.picture is None else gr.update(value=spoken.picture, visible=True)
                text = f"Frame {spoken.done} of {spoken.total}"
                yield _bar(spoken.done / spoken.total, text), picture, hidden, hidden, hidden
        visitor.said = (clip, controls)
        video, file = (gr.update(value=str(output), visible=True) for _ in range(2))  # Gradio modifies its arguments
        curve = gr.update(value=pd.DataFrame(spoken.curve), visible=True)
        yield gr.update(visible=False), gr.update(value=None, visible=False), video, curve, file

    @polite
    def _show_in_3d(self, request: gr.Request, who, hub):
        visitor = self._visitor(request)
        pipe = self.avatars.of(who, hub, visitor)
        clip, controls = visitor.said or (load_audio(sample_path()), {})
        return studio.viewer_frame(pipe(clip, size=self.settings.size, **controls))

    @polite
    def _draw(self, request: gr.Request, who, hub, turn, nod, emotion, intensity, *sliders):
        pipe = self.avatars.of(who, hub, self._visitor(request))
        face = studio.face_motion(dict(zip(studio.FACE_SLIDERS, sliders, strict=True)), emotion, intensity)
        return studio.draw_face(pipe, face, turn=turn, nod=nod, size=self.settings.size)

    def _draw_if_there(self, request: gr.Request, who, hub, *rest):
        missing = (who == studio.MINE and not self._visitor(request).avatar.is_dir()) or (
            who == studio.FROM_HUB and not hub
        )
        return None if missing else self._draw(request, who, hub, *rest)

    @polite
    def _look_at(self, request: gr.Request, video):
        report = studio.look_at(video, self._visitor(request), self.settings)
        good, hidden = report.light != "red", gr.update(visible=False)
        return studio.report_html(report), gr.update(visible=good), "", False, "", hidden, hidden

    def _state_it(self, request: gr.Request, name, role, purposes, guardian, relation):
        """Updates the statement after an answer, and unticks the box."""
        try:
            consent = studio.consent_of(self._visitor(request), name, role, purposes, guardian, relation)
        except ValueError as error:
            return studio.in_words(error), False
        return consent.statement, False

    @polite
    def _make(self, request: gr.Request, agreed, name, role, purposes, guardian, relation):
        visitor = self._visitor(request)
        consent = studio.consent_of(visitor, name, role, purposes, guardian, relation)
        if not agreed:
            raise studio.UploadError('Read what is agreed to, and tick "I agree".')
        hidden = gr.update(visible=False)
        yield _bar(0, "Waiting for the processor"), hidden, hidden, None, gr.update()
        steps = self._work(visitor, consent)
        yield from clearing(steps, "", *_nothing(2), None, gr.update())

    def _work(self, visitor: studio.Visitor, consent: Consent) -> Iterator[tuple]:
        hidden, picture = gr.update(visible=False), gr.update()
        for made in studio.make_avatar(visitor, consent, visitor.begin(), self.settings):
            picture = gr.update() if made.preview is None else gr.update(value=str(made.preview), visible=True)
            yield _bar(made.share, made.stage), picture, hidden, None, gr.update()
        archive = str(studio.zip_avatar(visitor))
        yield _bar(1, "Here it is."), picture, gr.update(visible=True), archive, studio.MINE


LAUNCH = {"css": CSS, "theme": gr.themes.Soft(), "footer_links": ["gradio"]}


def main() -> None:
    """Serves the page as a Space does."""
    logging.basicConfig(level=logging.INFO)
    if "SPACE_ID" in os.environ and not is_available("mediapipe"):  # requirements.txt does not support --no-deps
        try:
            setup_tracking(yes=True, echo=logger.info)
        except OSError as error:
            logger.warning("No avatars can be made here: %s", error)
    page = Page()
    page.avatars.demo().model.warm_up()  # some seconds once, at the start
    page.build().launch(max_file_size=page.settings.max_upload_bytes, **LAUNCH)


if __name__ == "__main__":
    main()
