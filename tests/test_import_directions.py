"""Who may import whom. The rows below are the architecture, one line a folder."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "emotag_hf"

# From the ground up: a folder imports from itself and from rows above its own in this list.
FOLDERS = (
    "",  # the root: constants, outputs
    "utils",
    "rights",
    "audio",
    "video",
    "rendering",
    "hub",
    "motion",
    "models",
    "avatars",
    "preprocessing/tracking",
    "preprocessing/features",
    "preprocessing/data",
    "preprocessing/doctor",
    "export",
    "pipelines",
    "training",
    "training/gaussians",
    "training/pretraining",
    "training/adaptation",
    "evaluation",
    "studio",
    "cli",
)
# The package's own front doors: they import from anywhere, and nobody imports them.
FRONT_DOORS = {"", "__main__", "registration"}
BY_NAME = {"", "registration"}  # modules that may import modules of this package by a name in a string

# Packages that only these modules may import, at the top of the file or inside a function.
ONLY_IN = {
    "gsplat": {"rendering.gsplat_backend"},
    "mediapipe": {"preprocessing.tracking.landmarks", "preprocessing.tracking.masks"},
    "diffusers": {"pipelines.pipeline_emotag"},
    "datasets": {"preprocessing.data.dataset", "preprocessing.data.prepare", "preprocessing.data.clip"},
    "accelerate": {"training.adaptation.adapt", "training.pretraining.pretrain"},
    "c2pa": {"rights.provenance"},
    "smplx": set(),  # non-commercial; tests alone compare with it
    "gradio": set(),  # space/ alone
    "pickle": set(),  # conversion_scripts/ alone, restricted
    "matplotlib": set(),
    "plyfile": set(),  # GPL
    "librosa": set(),  # 415 MB for what transformers.audio_utils does
}
HUB_CALLS = {"snapshot_download", "hf_hub_download", "HfApi", "upload_folder", "create_repo"}


@cache  # copies of the package differ in one file
def read(code: str) -> tuple[list[tuple[int, str, str]], list[str]]:
    """`(dots, module, name)` of every import in a file, and the strings by which it imports more."""
    found, texts = [], []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            texts += [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return found, texts


class Package:
    """The imports of every module below a folder, wherever they stand: late ones and those of type checkers too."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = {self._name(path): path for path in sorted(folder.rglob("*.py"))}
        self._read = {name: read(path.read_text(encoding="utf-8")) for name, path in self.files.items()}

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def row(self, name: str) -> int | None:
        """Where a module's folder stands in `FOLDERS`; None if nowhere."""
        path = self.files[name].relative_to(self.folder).parent.as_posix()
        path = "" if path == "." else path
        if path in FOLDERS:
            return FOLDERS.index(path)
        # A folder of folders, whose __init__ holds a sentence.
        inside = [row for row, folder in enumerate(FOLDERS) if folder.startswith(f"{path}/")]
        return min(inside, default=None)

    def imports(self, name: str) -> set[tuple[str, str]]:
        """`{(module, name)}` of every import in a file; modules of this package start with a dot."""
        package = name.split(".") if self.files[name].name == "__init__.py" else name.split(".")[:-1]
        package = [part for part in package if part]
        found = set()
        for level, base, item in self._read[name][0]:
            if level:
                base = "." + ".".join(package[: len(package) - level + 1] + ([base] if base else []))
            elif base.split(".")[0] == "emotag_hf":
                base = "." + base.removeprefix("emotag_hf").lstrip(".")
            found.add((base, item))
        return found

    def own_imports(self, name: str) -> set[str]:
        """The modules of this package that a module imports; `from . import x` counts as x."""
        found = set()
        for module, item in self.imports(name):
            if module.startswith("."):
                inner = module.lstrip(".")
                candidate = f"{inner}.{item}".strip(".") if item else inner
                found.add(candidate if candidate in self.files else inner)
        return found - {name}

    def names_itself(self, name: str) -> bool:
        """Whether a module imports one of this package by a name in a string."""
        return any(text.startswith((".", "emotag_hf")) for text in self._read[name][1])

    def circles(self) -> list[str]:
        """Chains of imports that lead back to where they began."""
        graph = {name: sorted(self.own_imports(name) & set(self.files)) for name in self.files}
        done, path, found = set(), [], []

        def walk(name: str) -> None:
            path.append(name)
            for other in graph[name]:
                if other in path:
                    found.append(" -> ".join([*path[path.index(other) :], other]))
                elif other not in done:
                    walk(other)
            done.add(path.pop())

        for name in graph:
            if name not in done:
                walk(name)
        return found

    def faults(self) -> list[str]:
        """What breaks the rules, a sentence each."""
        found = [f"{circle} is a circle" for circle in self.circles()]
        for name in self.files:
            row = self.row(name)
            if row is None:
                found.append(f"{name} lies in a folder without a row in FOLDERS of {Path(__file__).name}")
            if name not in BY_NAME and self.names_itself(name):
                found.append(f"{name} imports a module of this package by a name in a string")
            for other in sorted(self.own_imports(name)) if name not in FRONT_DOORS and row is not None else ():
                if other not in self.files:
                    found.append(f"{name} imports {other}, which is not there")
                elif other in FRONT_DOORS:
                    found.append(f"{name} imports {other or 'emotag_hf'}, a front door")
                elif (self.row(other) or 0) > row:
                    found.append(f"{name} imports {other}, from a row below its own")
        return found


@cache
def ours() -> Package:
    return Package(PACKAGE)


def test_the_rows_hold():
    """A folder imports only from rows above its own, and there is no circle between files."""
    assert ours().faults() == []
    assert all((PACKAGE / folder).is_dir() for folder in FOLDERS)


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("models/checkpoints.py", "from ..pipelines.talking_head import predict", "from a row below its own"),
        ("models/checkpoints.py", "def late():\n    from ..training.gaussians import ssim", "from a row below its own"),
        ("export/files.py", "if TYPE_CHECKING:\n    from ..pipelines import talking_head", "from a row below its own"),
        ("preprocessing/tracking/lids.py", "from emotag_hf.preprocessing.data import clip", "from a row below its own"),
        ("utils/atomic_write.py", "from . import array_files\nfrom .atomic_write import x", ""),
        ("constants.py", "from .outputs import FlameMotion", "is a circle"),
        ("rights/consent.py", "def ask():\n    from .consent_dialogue import ask_consent", "is a circle"),
        ("cli/info.py", "from .. import __version__", "a front door"),
        ("studio/faces.py", "import importlib\nimportlib.import_module('emotag_hf.cli')", "by a name in a string"),
        ("studio/faces.py", "import importlib\nimportlib.import_module(f'.{1}', __package__)", "by a name in a string"),
        ("extras/new.py", "x = 1", "without a row"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path, path, code, fault):
    """One wrong import in a copy of the package, at the top, in a function or for type checkers alone, is found."""
    copy = tmp_path / "emotag_hf"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    file = copy / path
    file.parent.mkdir(exist_ok=True)
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(f"{before}\n{code}\n", encoding="utf-8")
    faults = Package(copy).faults()
    assert any(fault in sentence for sentence in faults) if fault else faults == []


def test_packages_with_an_owner():
    """Optional, slow or differently licensed packages are imported where the architecture says, and nowhere else."""
    for name in ours().files:
        for module, item in ours().imports(name):
            top = module.split(".")[0]
            assert name in ONLY_IN.get(top, {name}), f"{name} imports {top}; only {ONLY_IN[top] or 'nobody'} may"
            if top == "huggingface_hub":
                assert item not in HUB_CALLS or name == "hub.hub_transfer", f"{name} talks to the Hub ({item})"


def test_modeling_stays_small():
    """What is a model or draws one knows nothing of videos on disk, which lie in rows it could import from."""
    for name in ours().files:
        if name.startswith(("models.", "rendering.", "motion.")):
            assert not {other.split(".")[0] for other in ours().own_imports(name)} & {"video"}, name


def test_this_test_sees_imports(tmp_path):
    """The reader of imports finds absolute, relative, late and aliased ones; else the tests above prove nothing."""
    (tmp_path / "rendering").mkdir()
    (tmp_path / "rendering" / "x.py").write_text(
        "import gradio.themes as g\nfrom . import cli\nfrom ..hub import push\n"
        "def late():\n    from emotag_hf.training import loop\n"
    )
    assert Package(tmp_path).imports("rendering.x") == {
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


@pytest.mark.slow  # a process of its own imports transformers
@pytest.mark.parametrize("package", ["diffusers", "gradio", "numba", "datasets", "mediapipe", "gsplat", "smplx"])
def test_import_is_light(fresh_import, package):
    """`import emotag_hf` does not wait for what may never be used, and opens no connection."""
    assert package not in fresh_import
