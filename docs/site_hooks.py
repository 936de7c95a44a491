"""Hooks of the documentation site (mkdocs.yml): API pages by subject, from the docstrings of `emotag_hf.__all__`.

In: the names below and the modules that define them. Out: Markdown pages with mkdocstrings' directives, which exist in
the site alone. A public name that stands on no page, or a name that is not public, ends the build.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

PAGES = {
    "Speaking": (
        "EmoTaGPipeline", "TalkingHeadPipeline", "TalkingHeadOutput", "TalkingHeadStream", "StreamedFrame",
        "MotionStrengths", "AudioClip", "EMOTIONS", "dub", "save_with_alpha", "read_provenance", "sample_path",
        "default_model_path",
    ),
    "Exporting": ("save_motion", "load_motion", "save_splats", "save_viewer"),
    "Videos of people": (
        "prepare", "prepare_many", "ProcessedClip", "examine", "FeatureOptions", "HeadTrack", "fit_head",
        "clips_dataset", "import_vhap",
    ),
    "Avatars": ("adapt", "AdaptArguments", "Consent", "push_avatar", "evaluate"),
    "Models": (
        "EmoTaGModel", "EmoTaGConfig", "EmoTaGHeadConfig", "EmoTaGMotionConfig", "EmoTaGGaussiansConfig",
        "EmoTaGProcessor", "GatedResidualMotionNetwork", "ParametricHead", "RiggedGaussians", "GaussianPrior",
        "FlameMotion", "EXPRESSION_NAMES", "Retarget", "solve_retarget",
    ),
    "Rendering": ("Camera", "rasterize"),
    "Training": ("Pretrainer", "PretrainArguments"),
}  # fmt: skip
TYPES = "Types of arguments"  # the page of `utils/typing.py`


def on_config(config):
    """Adds the API pages to the navigation."""
    config.nav.append({"API": [{title: _path(title)} for title in [*PAGES, TYPES]]})
    return config


def on_files(files, config):
    """Adds the API pages."""
    modules = _public_modules(Path(config.config_file_path).parent / "src" / "emotag_hf")
    listed = [name for names in PAGES.values() for name in names]
    if wrong := set(listed) ^ set(modules):
        raise PluginError(f"docs/site_hooks.py: on no page, or not public: {', '.join(sorted(wrong))}.")
    directives = "# Types of arguments\n\n::: emotag_hf.utils.typing\n    options: { show_root_heading: false }\n"
    files.append(File.generated(config, _path(TYPES), content=directives))
    for title, names in PAGES.items():
        directives = [f"::: emotag_hf.{modules[name]}.{name}\n" for name in names]
        files.append(File.generated(config, _path(title), content="\n".join([f"# {title}\n", *directives])))
    return files


def on_page_content(html, page, config, files):
    """Takes the doctest flags out of the examples."""
    return re.sub(r'\s*<span class="c1"># doctest: [^<]*</span>', "", html)


def _path(title: str) -> str:
    return f"api/{title.lower().replace(' ', '_')}.md"


def _public_modules(package: Path) -> dict[str, str]:
    """Public name -> module that defines it: `_LAZY` of the package, read without an import; a package's own
    `__init__` that only passes a name on is followed to its module."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_LAZY"
    )
    return {name: _defining(package, module, name) for name, module in ast.literal_eval(table).items()}


def _defining(package: Path, module: str, name: str) -> str:
    folder = package / Path(*module.split("."))
    if not folder.is_dir():
        return module
    for node in ast.walk(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and any(alias.name == name for alias in node.names):
            return f"{module}.{node.module}"
    return module
