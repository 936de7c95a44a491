"""Milliseconds of SSIM, forward and backward, by image size: the Numba kernels against their reference in torch.

    python benchmarks/bench_ssim.py [--sizes 256 512] [--repeats 15]

Columns: the statistics of the truth; the value alone; value and gradient of SSIM; the same with L1 and weights, which
is the photometric loss of a training step; the reference's value and gradient with the same cached statistics; its time
relative to ours. Medians, with the fastest run of the third in brackets; on a busy machine only the ratio is
meaningful.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from emotag_hf.rendering.numba_threads import get_num_threads
from emotag_hf.training.gaussians.losses import photometric_loss
from emotag_hf.training.gaussians.ssim import SsimTarget, ssim, ssim_torch


def milliseconds(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of each function, alternating, after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 2):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repeat >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def works_at(size: int) -> dict[str, Callable[[], object]]:
    """What is timed, on random pictures."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(size, size, 3, generator=generator)
    prediction = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1).requires_grad_()
    weight = 0.5 + torch.rand(size, size, generator=generator)
    target = SsimTarget(truth)

    def with_gradient(loss: Callable[[], torch.Tensor]) -> None:
        prediction.grad = None
        loss().backward()

    return {
        "truth": lambda: SsimTarget(truth),
        "value": lambda: ssim(prediction.detach(), target),
        "ssim": lambda: with_gradient(lambda: ssim(prediction, target)),
        "photometric": lambda: with_gradient(lambda: photometric_loss(prediction, truth, target, weight)),
        "torch": lambda: with_gradient(lambda: ssim_torch(prediction, target)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    print(f"{get_num_threads()} threads of ours, {torch.get_num_threads()} of torch's; milliseconds")
    print(" size   truth   value      ssim (best)  photometric    torch  torch/ssim")
    for size in args.sizes:
        times = milliseconds(works_at(size), args.repeats)
        truth, value, ours, photometric, twin = (float(np.median(t)) for t in times.values())
        print(
            f"{size:5d} {truth:7.2f} {value:7.2f} {ours:9.2f} ({min(times['ssim']):4.2f}) {photometric:12.2f} "
            f"{twin:8.1f} {twin / ours:10.0f}x"
        )


if __name__ == "__main__":
    main()
