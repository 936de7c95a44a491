"""Pretraining the motion network: it learns for strangers, stops and goes on, and many processes are one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_speech import heard_people, small_config, toy_clip
from two_processes import first_gradient

from emotag_hf import ParametricHead
from emotag_hf.cli import main
from emotag_hf.models.lip_closures import VISEMES
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.training.pretraining.lip_space import LipSpace
from emotag_hf.training.pretraining.motion_data import (
    MotionBatches,
    load_clips,
    load_synthetic,
    played,
    read_persons,
    shifted,
)
from emotag_hf.training.pretraining.motion_losses import MotionWeights, motion_terms
from emotag_hf.training.pretraining.motion_scores import closure_rows, find_lag, score_clips
from emotag_hf.training.pretraining.pretrain import Pretrainer, load_motion
from emotag_hf.training.pretraining.pretrain_arguments import PretrainArguments

PEOPLE = [toy_clip(i) for i in range(6)]
QUICK = {"batch_size": 4, "window": 60, "learning_rate": 5e-3, "augment": 0.0, "synthetic_share": 0.25}


def trainer(validation=(), synthetic=(), **changes) -> Pretrainer:
    arguments = PretrainArguments(**(QUICK | {"steps": 30, "check_every": 10, "save_every": 10} | changes))
    return Pretrainer(heard_people()[:4], synthetic, validation, arguments, config=small_config())


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A whole training, judged by two people who are not in it: its trainer, report, folder and the score before."""
    folder = tmp_path_factory.mktemp("learned")
    person = trainer(heard_people()[4:], steps=100, check_every=50)
    before = score_clips(person.averaged, heard_people()[4:], person.lips).mean()["opening"]
    return person, person.run(folder), folder, before


def test_it_learns_to_speak_for_strangers(learned):
    """People who are not in the training get lips that follow their sound, and what is written is the best of it."""
    person, report, folder, before = learned
    after = score_clips(load_motion(folder), heard_people()[4:], person.lips).mean()["opening"]
    assert after > 0.8 > before + 0.3, (before, after)
    assert report["persons"] == ["person_0", "person_1", "person_2", "person_3"]
    assert report["best_step"] in (50, 100)
    assert json.loads((folder / "report.json").read_text())["history"][-1]["validation_opening"] == pytest.approx(
        after, abs=0.05
    )


def test_the_average_is_what_is_kept():
    """The averaged weights follow the network's: neither its first nor its last ones."""
    person = trainer(ema=0.9, steps=10)
    first = {k: v.clone() for k, v in person.averaged.state_dict().items()}
    person.run()
    weight = "base_motion.weight"
    mean, last = person.result().state_dict()[weight], person.network.state_dict()[weight]
    assert not torch.equal(mean, first[weight]) and not torch.equal(mean, last)
    assert (mean - last).abs().max() < (first[weight] - last).abs().max()


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_a_stopped_pretraining_goes_on_to_the_same_bits(tmp_path, dropout):
    """Stopped after 10 steps and resumed, the weights are those of one that never stopped, dropout included."""
    config = replace_dropout(dropout)
    make = lambda: Pretrainer(heard_people()[:4], (), heard_people()[4:], options(), config=config)  # noqa: E731
    options = lambda: PretrainArguments(**QUICK, steps=20, check_every=5, save_every=10)  # noqa: E731
    whole = make()
    whole.run()
    stopped = make()

    class Stop(Exception):
        pass

    def steps(numbers):
        for i in numbers:
            if i == 12:
                raise Stop
            yield i

    with pytest.raises(Stop):
        stopped.run(tmp_path, progress=steps)
    resumed = make()
    report = resumed.run(tmp_path, resume=True)
    assert report["steps"] == 20
    mine, other = resumed.averaged.state_dict(), whole.averaged.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert [row["step"] for row in report["history"]] == [5, 10, 15, 20]


def replace_dropout(dropout: float):
    config = small_config()
    config.dropout = dropout
    return config


def test_resuming_with_other_numbers_is_refused(tmp_path):
    trainer(steps=2).run(tmp_path)
    with pytest.raises(ValueError, match="learning_rate"):
        trainer(steps=2, learning_rate=1e-3).run(tmp_path, resume=True)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    """torchrun's two processes really run, and their gradient is that of one process with the whole batch."""
    here = Path(__file__).parent
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    out = tmp_path / "gradient.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(here / "two_processes.py"), str(out)]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(out)
    one = first_gradient(None)
    assert two["processes"] == 2
    assert set(one) == set(two["gradient"])
    for name, gradient in one.items():
        nearly = 1e-4 * float(gradient.abs().max())  # they hear with another number of threads, which rounds otherwise
        torch.testing.assert_close(two["gradient"][name], gradient, rtol=1e-4, atol=nearly, msg=name)


def test_a_batch_does_not_depend_on_who_loads_it():
    """Window i of a step is the same alone and in company; steps differ, and a batch has different people."""
    batches = MotionBatches(PEOPLE, [toy_clip(9, real=False)], 8, 40, 0.25, seed=3)
    whole, half = batches.batch(5), batches.batch(5, 4, 8)
    assert torch.equal(whole.sound[4:], half.sound) and torch.equal(whole.face[4:], half.face)
    assert not torch.equal(whole.sound, batches.batch(6).sound)
    assert whole.real.tolist() == [True] * 6 + [False] * 2
    assert len({tuple(row) for row in whole.identity[:6].tolist()}) == 6


def test_a_late_sound_is_found_and_moved(learned):
    """A network that has not heard a person finds by how many frames their sound is late."""
    person = learned[0]
    late = replace(heard_people()[5], sound=shifted(heard_people()[5].sound, -3 * 2))
    assert find_lag(person.averaged, late, person.lips) == 3
    assert find_lag(person.averaged, heard_people()[5], person.lips) == 0
    # A fifth of a second says less than what is usual.
    later = replace(heard_people()[5], sound=shifted(heard_people()[5].sound, -5 * 2))
    assert find_lag(person.averaged, later, person.lips) == 5
    assert abs(find_lag(person.averaged, replace(later, valid=torch.arange(200) < 5), person.lips)) < 3


def test_a_clip_played_faster_stays_in_step():
    """Sound and motion are resampled alike; what is known of a frame goes with it; speed 1 changes nothing."""
    clip = PEOPLE[5]
    fast = played(clip, 1.25)
    assert len(fast) == len(fast.face) == len(fast.valid) == 160 and len(fast.sound) == 160 * 4
    assert torch.allclose(fast.face[80], clip.face[100], atol=0.05)
    same = played(clip, 1.0)
    assert torch.allclose(same.face, clip.face.float()) and torch.allclose(same.sound, clip.sound.float())


def test_lips_near_rest_are_those_of_the_head():
    """The linear map agrees with the posed head to a quarter of a millimetre for an ordinary vowel."""
    head = ParametricHead.from_asset()
    lips = LipSpace(head)
    generator = torch.Generator().manual_seed(0)
    expression = 0.2 * torch.rand(8, 50, generator=generator)
    jaw = torch.tensor([[0.12, 0.0, 0.0]]).expand(8, 3)
    found = lips.opening(lips.points(expression, jaw))
    with torch.no_grad():
        posed = head.landmarks(head(expression=expression, jaw_pose=jaw).vertices)
        rest = head.landmarks(head(expression=torch.zeros(1, 50)).vertices)
    gap = lambda x: (x[:, [82, 13, 312], 1].mean(1) - x[:, [87, 14, 317], 1].mean(1)) * 1000  # noqa: E731
    torch.testing.assert_close(found, gap(posed) - gap(rest), atol=0.4, rtol=0.05)


def test_closures_are_counted_where_they_should_be():
    """A gap that is low a frame beside a closure is one; low within two frames is no false one, farther it is, unless
    it is silent."""
    clip = replace(
        toy_clip(0), closed=torch.arange(60) == 20, visemes=torch.where(torch.arange(60) < 50, 13, 0)
    )  # frames 50 to 59 are silent
    gap = np.full(60, 10.0)
    gap[[18, 21, 30, 55]] = 0.5
    rows = closure_rows([gap], [clip])
    assert rows["shut"].tolist() == [True] and len(rows["elsewhere"]) == 45 and rows["elsewhere"].sum() == 1
    assert len(rows["silence"]) == 10 and rows["silence"].sum() == pytest.approx(9.05)
    gap[21] = 10.0
    assert closure_rows([gap], [clip])["shut"].tolist() == [False]


def test_lips_that_are_seen_or_known_to_be_open_are_not_shut():
    """The term acts on people's open frames, and in speech on sounds away from p, b, m; not in silence."""
    lips, network = LipSpace(ParametricHead.from_asset()), GatedResidualMotionNetwork(small_config())
    with torch.no_grad():
        network.base_motion.weight.zero_()  # shut throughout
        network.base_motion.bias.zero_()
    clips = [replace(toy_clip(i), real=real) for i, real in ((0, True), (1, False))]
    speech = replace(clips[1], visemes=torch.full((len(clips[1]),), VISEMES.index("aa")))
    silent = replace(speech, visemes=torch.zeros_like(speech.visemes))
    found = {}
    for name, real, synthetic in (("seen", [clips[0]], []), ("known", [], [speech]), ("silent", [], [silent])):
        share = 1.0 if synthetic else 0.0
        batch = MotionBatches(real, synthetic, 2, 40, share, 0, 0.0).batch(0, 0, 2)
        known, generator = torch.zeros(2, dtype=torch.bool), torch.Generator().manual_seed(0)
        terms = motion_terms(network, batch, lips, MotionWeights(parted=1.0), 1.0, known, generator)
        found[name] = terms["parted"].item()
    assert found["seen"] > 0.3 and found["known"] == pytest.approx(2.2, abs=0.05) and found["silent"] == 0


def test_bad_data_is_named(tmp_path):
    with pytest.raises(ValueError, match="other people"):
        trainer([toy_clip(0)])
    with pytest.raises(FileNotFoundError, match="holds none"):
        load_clips([tmp_path])
    (tmp_path / "persons.json").write_text("[1]")
    with pytest.raises(ValueError, match="persons"):
        read_persons(tmp_path / "persons.json")
    with pytest.raises(ValueError, match="synthetic"):
        load_synthetic(tmp_path / "persons.json")
    with pytest.raises(ValueError, match="batch_size"):
        PretrainArguments(batch_size=0)


def test_command_line_on_synthetic_speech(tmp_path, capsys):
    """`emotag pretrain --synthetic` writes weights, config, report and state; it does not begin over what is there."""
    rng = np.random.default_rng(0)
    lengths = np.array([60, 80])
    total = int(lengths.sum())
    np.savez(
        tmp_path / "train.npz", features=rng.random((total * 4, 82)).astype(np.float16), lengths=lengths,
        face=np.zeros((total, 53), np.float16), visemes=np.zeros(total, np.int8), closures=np.zeros(total, bool),
    )  # fmt: skip
    out = tmp_path / "out"
    command = ["pretrain", "--synthetic", str(tmp_path / "train.npz"), "-o", str(out), "-q"]
    numbers = ["--steps", "2", "--batch-size", "2", "--window", "40"]
    assert main([*command, *numbers]) == 0
    assert {p.name for p in out.iterdir()} == {
        "motion.safetensors", "motion_config.json", "report.json", "state.safetensors",
    }  # fmt: skip
    assert load_motion(out).config.hidden_dim == 192
    assert main([*command, *numbers]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command[:1], "-o", str(tmp_path / "none")]) == 2
    assert "dataset" in capsys.readouterr().err
