"""Who may import whom. The table below is the architecture; a new module needs a place in it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "emotag_hf"

# From the bottom up: a module imports from its own layer and from those below it, never from above.
LAYERS = (
    ("constants", "import_utils", "precision", "rotations", "torch_threads"),
    (
        "outputs",
        "configuration_emotag",
        "audio_io",
        "audio_stream",
        "provenance",
        "consent",
        "consent_dialogue",
        "avatar_card",
        "video_io",
        "video_reader",
        "cropping",
        "hub_paths",
        "hub_repo",
        "hub_transfer",
        "push_model",
        "model_card",
        "checkpoints",
        "array_files",
        "whole_files",
    ),
    ("rendering",),
    (
        "audio_features",
        "audio_net",
        "compositing",
        "compositing_kernels",
        "driving_motion",
        "emotion_direction",
        "emotion_prototypes",
        "gaussian_binding",
        "gaussian_correctives",
        "gaussian_rig_kernels",
        "modeling_gaussian_prior",
        "modeling_gaussians",
        "modeling_head",
        "modeling_motion",
        "motion_controls",
        "blinks_gaze_brows",
        "head_turns",
        "lip_closures",
        "loudness",
        "motion_curves",
        "motion_planner",
        "motion_strengths",
        "speech_listener",
        "retarget",
        "motion_stream",
        "voice_listener",
    ),
    ("modeling_emotag", "processing_emotag"),
    (
        "alpha_video",
        "avatar_facts",
        "avatar_folder",
        "export",
        "output_files",
        "talking_head",
        "pipeline_emotag",
        "pipeline_talking_head",
        "registration",
        "sharing",
        "avatar_push",
        "streaming",
    ),
    ("tracking",),
    ("features",),
    ("data", "training", "evaluation"),
    ("doctor",),
    ("adaptation", "dubbing"),
    ("studio",),
    (
        "cli",
        "cli_avatar",
        "cli_clips",
        "cli_export",
        "cli_fields",
        "cli_info",
        "cli_pretrain",
        "cli_share",
        "cli_speak",
    ),
)

# Packages that only these modules may import, at the top of the file or inside a function.
ONLY_IN = {
    "gsplat": {"rendering.gsplat_backend"},
    "mediapipe": {"tracking.landmarks", "tracking.masks"},
    "diffusers": {"pipeline_emotag"},
    "datasets": {"data.dataset", "data.prepare", "data.clip"},
    "accelerate": {"adaptation", "training.pretrain"},
    "c2pa": {"provenance"},
    "smplx": set(),  # non-commercial; tests alone compare with it
    "gradio": set(),  # space/ alone
    "pickle": set(),  # conversion_scripts/ alone, restricted
    "matplotlib": set(),
    "plyfile": set(),  # GPL
    "librosa": set(),  # 415 MB for what transformers.audio_utils does
}
HUB_CALLS = {"snapshot_download", "hf_hub_download", "HfApi", "upload_folder", "create_repo"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str) -> set[tuple[str, str]]:
    """`{(module, name)}` of every import in a file; modules of this package start with a dot."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = "." + ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
            found |= {(base, alias.name) for alias in node.names}
    absolute = {(m, n) for m, n in found if m.split(".")[0] == "emotag_hf"}
    return (found - absolute) | {("." + m.removeprefix("emotag_hf").lstrip("."), n) for m, n in absolute}


def layer_of(name: str) -> int | None:
    top = name.split(".")[0]
    return next((i for i, layer in enumerate(LAYERS) if top in layer), None)


PLACED = [name for name in MODULES if name and layer_of(name) is not None]


def own_imports(name: str) -> set[str]:
    """The modules of this package that a module imports; `from . import x` counts as x."""
    found = set()
    for module, item in imports_of(name):
        if module.startswith("."):
            inner = module.lstrip(".")
            candidate = f"{inner}.{item}".strip(".") if item else inner
            found.add(candidate if candidate in MODULES else inner)
    return found - {"", name}


def test_every_module_has_a_layer():
    """Whoever adds a module says where it stands."""
    lost = [name for name in MODULES if name and layer_of(name) is None]
    assert not lost, f"give these a layer in {Path(__file__).name}: {', '.join(lost)}"


@pytest.mark.parametrize("name", PLACED)
def test_layers(name):
    """A module imports sideways and downwards only."""
    wrong = [other for other in own_imports(name) if other in PLACED and layer_of(other) > layer_of(name)]
    assert not wrong, f"{name} imports {', '.join(sorted(wrong))} from a layer above it"


@pytest.mark.parametrize("name", list(MODULES))
def test_packages_with_an_owner(name):
    """Optional, slow or differently licensed packages are imported where the architecture says, and nowhere else."""
    for module, item in imports_of(name):
        top = module.split(".")[0]
        assert name in ONLY_IN.get(top, {name}), f"{name} imports {top}; only {ONLY_IN[top] or 'nobody'} may"
        if top == "huggingface_hub":
            assert item not in HUB_CALLS or name == "hub_transfer", f"{name} talks to the Hub ({item})"


def test_modeling_stays_small():
    """What is a model knows nothing of training, data, pipelines or pictures on disk."""
    above = {"training", "data", "tracking", "features", "evaluation", "sharing", "cli", "video_io", "pipeline_emotag"}
    for name in MODULES:
        if name.startswith("modeling_") or name.split(".")[0] == "rendering":
            assert not {other.split(".")[0] for other in own_imports(name)} & above, name


def test_this_test_sees_imports(monkeypatch, tmp_path):
    """The reader of imports finds absolute, relative, late and aliased ones; else the tests above prove nothing."""
    (tmp_path / "x.py").write_text(
        "import gradio.themes as g\nfrom . import cli\nfrom ..hub import push\n"
        "def late():\n    from emotag_hf.training import loop\n"
    )
    monkeypatch.setitem(MODULES, "rendering.x", tmp_path / "x.py")
    assert imports_of("rendering.x") == {
        ("gradio.themes", ""),
        (".rendering", "cli"),
        (".hub", "push"),
        (".training", "loop"),
    }


@pytest.fixture(scope="module")
def fresh_import() -> list[str]:
    """The modules that a new interpreter holds after `import emotag_hf`, with sockets and CUDA made to explode."""
    code = """
import socket, sys
def explode(*args, **kwargs): raise RuntimeError("import emotag_hf must not touch the network")
socket.socket.connect = socket.getaddrinfo = explode
import emotag_hf
torch = sys.modules.get("torch")
assert torch is None or not torch.cuda.is_initialized()
print("\\n".join(sys.modules))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize("package", ["diffusers", "gradio", "numba", "datasets", "mediapipe", "gsplat", "smplx"])
def test_import_is_light(fresh_import, package):
    """`import emotag_hf` does not wait for what may never be used, and opens no connection."""
    assert package not in fresh_import
