"""`emotag info`: versions, back ends, licences of what is loaded. In: nothing. Out: a table, or JSON."""

from __future__ import annotations

import argparse
import json


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the command to `emotag`'s."""
    info = commands.add_parser("info", help="versions, back ends, licences of what is loaded")
    info.add_argument("--json", action="store_true", help="print the result as JSON")
    info.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> None:
    facts = collect_info()
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for title, rows in facts.items():
        print(f"{title}:")
        for name, value in rows.items():
            print(f"  {name:<18} {value}")


def collect_info() -> dict[str, dict[str, str]]:
    """`{"versions", "backends", "licences"}`, each a dict of short texts. Loads torch and no model."""
    return {"versions": _versions(), "backends": _backends(), "licences": _licences()}


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from ..rights.provenance import package_version

    found = {
        "emotag_hf": package_version(),
        "python": f"{platform.python_version()} on {platform.platform(terse=True)}",
    }
    for name in (
        "torch",
        "transformers",
        "diffusers",
        "numba",
        "numpy",
        "av",
        "gsplat",
        "mediapipe",
        "smplx",
        "gradio",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _backends() -> dict[str, str]:
    import os

    import torch

    from ..rendering import available_backends

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    backends = available_backends()
    return {
        "cpu": f"{os.cpu_count()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": cuda or "no",
        "numba rasteriser": "yes" if "numba" in backends else "no",
        "gsplat rasteriser": "yes" if "gsplat" in backends else "no (needs CUDA and the extra [gpu])",
        "torch rasteriser": "yes (slow, for checking)",
    }


def _licences() -> dict[str, str]:
    from ..constants import CONFIG_NAME, DEFAULT_MODEL, DEFAULT_PRIOR, OPEN_HEAD, OPEN_MODEL
    from ..utils.asset_paths import ASSETS

    found = {"emotag_hf": "Apache-2.0"}
    for path in (ASSETS / OPEN_HEAD, *sorted(ASSETS.glob("ear-*.safetensors"))):
        if path.is_file():
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                found[path.name] = (file.metadata() or {}).get("license", "not stated")
    for name in (DEFAULT_MODEL, OPEN_MODEL, DEFAULT_PRIOR):
        config = ASSETS / name / CONFIG_NAME
        if config.is_file():
            found[name] = json.loads(config.read_text(encoding="utf-8")).get("weights_license", "not stated")
    return found
