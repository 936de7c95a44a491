"""Threads and memory: the same bits for any thread count, and no two renders ever share scratch memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from emotag_hf.rendering import rasterize
from emotag_hf.rendering.numba_threads import get_num_threads, run_parts, set_num_threads, split

LEAVES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    yield
    set_num_threads(None)


def _forward(scene):
    leaves = [getattr(scene, name).clone().requires_grad_() for name in LEAVES]
    colors, alphas, _ = rasterize(*leaves, scene.Ks, scene.width, scene.height, render_mode="RGB+D")
    return leaves, colors, alphas


def _gradients(leaves, colors) -> list[torch.Tensor]:
    return list(torch.autograd.grad(colors.square().sum(), leaves))


def test_same_bits_for_any_thread_count(kernels: str, make_scene) -> None:
    """Seeds must reproduce a video on another machine with other cores: picture and gradients are equal to the bit."""
    scene = make_scene(6000, (150, 131), seed=1)  # enough for every step to be split
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        leaves, colors, alphas = _forward(scene)
        results.append([colors.detach(), alphas.detach(), *_gradients(leaves, colors)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_two_forwards_before_one_backward(kernels: str, make_scene) -> None:
    """A loss over two pictures: the second forward must not overwrite what the first backward needs."""
    first, second = make_scene(500, seed=1), make_scene(400, (90, 61), seed=2)
    expected = []
    for scene in (first, second):
        leaves, colors, _ = _forward(scene)
        expected.append(_gradients(leaves, colors))
    a, colors_a, _ = _forward(first)
    b, colors_b, _ = _forward(second)
    assert all(torch.equal(x, y) for x, y in zip(_gradients(b, colors_b), expected[1]))
    assert all(torch.equal(x, y) for x, y in zip(_gradients(a, colors_a), expected[0]))


def test_backward_twice_through_a_retained_graph(make_scene) -> None:
    """retain_graph=True: the context keeps its lists, and the second pass gives the same gradients."""
    leaves, colors, _ = _forward(make_scene())
    loss = colors.square().sum()
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    twice = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(once, twice))


def test_two_python_threads_at_once(make_scene) -> None:
    """A server renders several heads at once: every thread must get its own picture and gradients."""
    scenes = [make_scene(3000, (97, 83), seed=s) for s in range(4)]
    expected = []
    for scene in scenes:
        leaves, colors, _ = _forward(scene)
        expected.append([colors.detach(), *_gradients(leaves, colors)])
    failures: list[str] = []

    def work(index: int) -> None:
        for _ in range(5):
            leaves, colors, _ = _forward(scenes[index])
            found = [colors.detach(), *_gradients(leaves, colors)]
            if not all(torch.equal(a, b) for a, b in zip(found, expected[index])):
                failures.append(f"scene {index} differs")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_errors_of_workers_reach_the_caller() -> None:
    """A part that fails on another thread must not be lost, and the workers must stay usable."""

    def work(part: int) -> None:
        if part == 2:
            raise RuntimeError("part 2")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="part 2"):
            run_parts(work, 3)
    seen: list[int] = []
    run_parts(seen.append, 3)
    assert sorted(seen) == [0, 1, 2]


def test_parts_cover_everything_once() -> None:
    """Uneven splits: no Gaussian is left out or taken twice."""
    for count in (0, 1, 7, 64, 65):
        for parts in (1, 2, 5):
            ranges = [range(*split(count, parts, p)) for p in range(parts)]
            assert [i for r in ranges for i in r] == list(range(count))


def test_thread_count_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads follows the call, then NUMBA_NUM_THREADS, and rejects nonsense."""
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert get_num_threads() == 3
    set_num_threads(2)
    assert get_num_threads() == 2
    with pytest.raises(ValueError, match="count"):
        set_num_threads(0)
