"""Milliseconds of one frame's binding in training: the compiled pass and its reference in torch.

    python benchmarks/bench_rig.py [--counts 10000 20000] [--codes 12] [--threads 1 2] [--repeats 40]

Forward and backward from the Gaussians' parameters to the rasteriser's inputs, on the embedded head, with random
gradients. "adapt" trains the Gaussians, "track" the vertices and the code under frozen Gaussians, "both" all of it. The
two run in turn; medians, and the ratio of their sums. `cpu` is processor time over all threads: on a busy machine it
and the ratio are meaningful, wall time is not. `best` is the fastest forward and backward pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from emotag_hf.models.gaussian_rig_kernels import rig, rig_torch
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.rendering.numba_threads import get_num_threads, set_num_threads

GAUSSIANS = (
    "means", "quats", "log_scales", "opacity_logits", "colors", "corrective_means", "corrective_colors",
)  # fmt: skip
DRIVERS = ("vertices", "code")
MODES = {"adapt": GAUSSIANS, "track": DRIVERS, "both": GAUSSIANS + DRIVERS}  # what gets a gradient


def scene(head: ParametricHead, count: int, codes: int) -> dict[str, torch.Tensor]:
    """The embedded head with random Gaussians: the floating-point arguments of `rig`, and `binding`."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "vertices": head().vertices[0],
        "binding": torch.randint(0, len(head.faces), (count,), generator=generator),
        "means": 0.3 * normal(count, 3),
        "quats": normal(count, 4),
        "log_scales": 0.5 * normal(count, 3) - 1,
        "opacity_logits": normal(count),
        "colors": normal(count, 3),
        "corrective_means": 0.05 * normal(count, codes, 3),
        "corrective_colors": 0.1 * normal(count, codes, 3),
        "code": normal(codes),
    }


def one_pass(function: Callable, faces: torch.Tensor, leaves: dict[str, torch.Tensor], incoming: list) -> list[float]:
    """Milliseconds of forward, backward, and of processor time for both."""
    for leaf in leaves.values():
        leaf.grad = None
    cpu, start = time.process_time(), time.perf_counter()
    results = function(faces=faces, **leaves)
    middle = time.perf_counter()
    pairs = [(x, g) for x, g in zip(results, incoming) if x.requires_grad]
    torch.autograd.backward(*zip(*pairs))
    end = time.perf_counter()
    return [1e3 * x for x in (middle - start, end - middle, time.process_time() - cpu)]


def measure(faces: torch.Tensor, leaves: dict[str, torch.Tensor], incoming: list, repeats: int) -> str:
    """The values of one row of the table: both functions, alternating, and the ratio."""
    times: dict[Callable, list[list[float]]] = {rig: [], rig_torch: []}
    for repeat in range(repeats + 3):
        for function, rows in times.items():
            row = one_pass(function, faces, leaves, incoming)
            if repeat >= 3:  # three rounds to compile and to warm up
                rows.append(row)
    cells, sums = [], []
    for rows in times.values():
        forward, backward, cpu = np.median(rows, 0)
        sums.append(forward + backward)
        cells.append(f"{forward:8.2f} {backward:8.2f} {cpu:7.2f} {min(r[0] + r[1] for r in rows):7.2f}")
    return f"{cells[0]} | {cells[1]} | {sums[1] / sums[0]:5.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 20_000])
    parser.add_argument("--codes", type=int, default=12)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, get_num_threads()}))
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)  # idle torch threads get in the way of ours on a small machine
    head = ParametricHead.from_asset()
    print(f"{len(head.faces)} triangles, {args.codes} correctives; milliseconds: compiled | torch on one thread")
    columns = " forward backward     cpu    best"
    print(f"  count threads mode    {columns} | {columns} |  ratio")
    for count in args.counts:
        given = scene(head, count, args.codes)
        incoming = [torch.randn(count, *shape) for shape in ((3,), (4,), (3,), (), (3,))]
        for threads in args.threads:
            set_num_threads(threads)
            for mode, moving in MODES.items():
                leaves = {k: v.clone().requires_grad_(k in moving) for k, v in given.items()}
                line = measure(head.faces, leaves, incoming, args.repeats)
                print(f"{count:7d} {threads:7d} {mode:7s} {line}", flush=True)


if __name__ == "__main__":
    main()
