"""`emotag adapt` and `emotag evaluate`: what they hand on, what they print, their exit codes. The work itself is a
stand-in here; it has its own tests."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from emotag_hf import cli
from emotag_hf.evaluation import protocol
from emotag_hf.evaluation.report import Evaluation
from emotag_hf.rights.consent import ConsentError
from emotag_hf.training.adaptation import adapt as adaptation
from emotag_hf.training.gaussians.adapt_arguments import AdaptArguments


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What `adapt` and `evaluate_modes` were called with; stand-ins that do a little of what they do."""
    seen = []

    def adapt(source, output=None, **options):
        seen.append((source, output, options))
        if options["consent"] is None:
            raise ConsentError("consent: the person in the recording has to agree\nto an avatar.")
        for step in (1, 2):
            options["on_step"](SimpleNamespace(progress=step / 2, psnr=31.0))
        report = SimpleNamespace(steps=700, seconds=61.25, stopped="done", refined=True, validation=[(0.5, 27.123)])
        model = SimpleNamespace(gaussians=SimpleNamespace(num_gaussians=19000))
        return SimpleNamespace(model=model, training_report=report)

    def evaluate_modes(source, output, modes, **options):
        seen.append((source, output, modes, options))
        Path(output).mkdir(exist_ok=True)
        (Path(output) / "metrics.json").write_text('{"format": "emotag-evaluations"}\n')
        scores = {"frames": 2, "psnr_face_box": 28.126, "flicker": 1.5}
        facts = {"clip": "someone", "weights": {"avatar": "0" * 64}, "seconds": {}, "scores": scores}
        return [Evaluation(mode=mode, train_frames=[0, 1], test_frames=[2, 3], **facts) for mode in modes]

    monkeypatch.setattr(adaptation, "adapt", adapt)
    monkeypatch.setattr(protocol, "evaluate_modes", evaluate_modes)
    monkeypatch.chdir(tmp_path)
    for name in ("me.mp4", "consent.json"):
        Path(name).write_bytes(b"x")
    Path("me_clip").mkdir()
    return seen


def test_adapt(calls, capsys):
    """Everything arrives; the last line says what came out and how to make it speak."""
    words = "adapt me.mp4 -o out --consent-file consent.json --force --resume --overwrite --report-to tensorboard"
    assert cli.main([*words.split(), "--name", "Ada", "--preview", "look.png", "--base-model", "base"]) == 0
    source, output, options = calls[0]
    assert (str(source), str(output)) == ("me.mp4", "out")
    assert options.pop("on_step") and options.pop("arguments") == AdaptArguments.preset("fast")
    assert options == {
        "consent": "consent.json",
        "force": True,
        "resume": True,
        "overwrite": True,
        "report_to": "tensorboard",
        "name": "Ada",
        "preview": "look.png",
        "base_model": "base",
        "prior": "default",
    }
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("out: 19000 Gaussians after 700 steps in 61.2 s, 27.12 dB in the face's box")
    assert last.endswith("emotag speak speech.wav --model out -o out.mp4")


def test_every_number_of_the_training_is_an_option(calls, capsys):
    """Each field of the dataclass changes what `adapt` and `evaluate` are given, in its own type; others stay those of
    the quality that was asked for."""
    for item in fields(AdaptArguments):
        if item.name == "budget_s":
            continue
        flag, default = f"--{item.name.replace('_', '-')}", item.default
        given = not default if isinstance(default, bool) else default * 2 or 0.5
        given = default / 2 if given > 1 else given
        given = int(default + 2) if isinstance(default, int) and not isinstance(default, bool) else given
        words = [flag, str(given)] if not isinstance(default, bool) else [flag if given else f"--no-{flag[2:]}"]
        wanted = AdaptArguments.preset("best", **{item.name: given})
        assert wanted != AdaptArguments.preset("best")
        assert cli.main(["adapt", "me.mp4", "--consent-file", "consent.json", "--quality", "best", "-q", *words]) == 0
        assert calls[-1][2]["arguments"] == wanted, item.name
        assert type(getattr(calls[-1][2]["arguments"], item.name)) is type(default)
        assert cli.main(["evaluate", "me_clip", "-o", "out", "--quality", "best", *words]) == 0
        assert calls[-1][3]["arguments"] == wanted, item.name
    assert cli.main(["adapt", "me.mp4", "--consent-file", "consent.json", "--budget", "15", "--prior", "none"]) == 0
    assert calls[-1][2]["arguments"].budget_s == 15.0 and calls[-1][2]["prior"] is None


def test_where_an_avatar_goes(calls, capsys):
    """Beside its source, unless it is said; for programs and quietly, nothing else is printed."""
    for source in ("me.mp4", "me_clip"):
        assert cli.main(["adapt", source, "--consent-file", "consent.json", "-q"]) == 0
        assert str(calls[-1][1]) == "me_avatar"
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""
    assert cli.main(["adapt", "me.mp4", "--consent-file", "consent.json", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["avatar"] == "me_avatar" and facts["validation_psnr_face_box"] == 27.12 and facts["steps"] == 700


def test_evaluate(calls, capsys):
    """Modes, split and diagnostics arrive; a line for each mode says what it scored."""
    words = (
        "evaluate me_clip -o out --mode oracle --mode audio-only --train-fraction 0.25 --test-frames 125:250 --blocks"
    )
    more = "--train-clip other --true-background --truth --sheet --action-units --track-steps 0 -q"
    assert cli.main([*words.split(), *more.split()]) == 0
    source, output, modes, options = calls[0]
    assert (source, output, modes) == ("me_clip", "out", ["oracle", "audio-only"])
    assert options["train_fraction"] == 0.25 and options["test_frames"] == range(125, 250)
    for name in ("blocks", "true_background", "truth", "sheet", "action_units"):
        assert options[name] is True
    assert options["train_clip"] == "other" and options["refine"].steps == 0 and options["progress"] is False
    lines = capsys.readouterr().out.splitlines()
    scores = "face box 28.13 dB, flicker 1.50, with the true background pasted in"
    assert lines[0] == f"oracle: 2 later frames: {scores}"
    assert lines[1].startswith("audio-only: ") and lines[2] == f"more in {Path('out') / 'metrics.json'}"


def test_evaluate_without_options(calls, capsys):
    """The oracle on the second half; --json prints the file."""
    assert cli.main(["evaluate", "me.mp4", "-o", "out", "--json"]) == 0
    _, _, modes, options = calls[0]
    assert tuple(modes) == ("oracle",) and options["train_fraction"] == 0.5 and options["test_frames"] is None
    assert options["refine"] is None and options["arguments"] == AdaptArguments()
    assert json.loads(capsys.readouterr().out) == {"format": "emotag-evaluations"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("adapt gone.mp4", "source: expected a video or a processed clip, but there is no gone.mp4"),
        ("adapt me.mp4", "consent: the person in the recording has to agree to an avatar."),
        ("adapt me.mp4 --steps 0", "steps: expected a positive number, got 0"),
        ("adapt me.mp4 --budget -3", "budget_s: expected seconds above 0"),
        ("evaluate gone -o out", "source: expected a processed clip or a video, but there is no gone"),
        ("evaluate me.mp4 -o out --ema 2", "ema: expected a number from 0 to 1"),
    ],
)
def test_what_a_user_can_put_right(calls, capsys, words, message):
    """One sentence and exit code 2."""
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    ["adapt", "adapt me.mp4 --quality ultra", "adapt me.mp4 --steps many", "evaluate me.mp4",
     "evaluate me.mp4 -o out --mode magic", "evaluate me.mp4 -o out --test-frames 5"],
)  # fmt: skip
def test_wrong_words(calls, capsys, words):
    """Said by the parser, before any work."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1 and not calls


def test_stopped_by_hand(calls, monkeypatch, capsys):
    """^C says how a training goes on, and that a half evaluation says nothing."""

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "adapt", stop)
    monkeypatch.setattr(protocol, "evaluate_modes", stop)
    assert cli.main(["adapt", "me.mp4"]) == 130
    assert "the same command with --resume goes on where it was" in capsys.readouterr().err
    assert cli.main(["evaluate", "me.mp4", "-o", "out"]) == 130
    assert "no numbers were written" in capsys.readouterr().err
