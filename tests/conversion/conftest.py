"""The conversion scripts as a package, and a head in FLAME's format that is made once."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "conversion_scripts"
WITHOUT_SCIPY = importlib.util.find_spec("scipy") is None and os.environ.get("EMOTAG_REQUIRE_ALL") != "1"
if WITHOUT_SCIPY or not (SCRIPTS / "convert").exists():
    # The scripts need scipy (`make test-all` fails without it) and come with a checkout of the repository alone.
    collect_ignore_glob = ["test_*.py"]
sys.path.insert(0, str(SCRIPTS))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def flame_file(tmp_path_factory) -> Path:
    """A pickle in FLAME's format."""
    from flame_standin import flame_arrays, write_flame

    return write_flame(tmp_path_factory.mktemp("flame") / "FLAME_NEUTRAL.pkl", flame_arrays()[0])


@pytest.fixture(scope="session")
def flame_head(flame_file, tmp_path_factory) -> Path:
    """The head asset that was made of it."""
    from convert.flame import convert_flame

    path = tmp_path_factory.mktemp("heads") / "flame.safetensors"
    convert_flame(flame_file, path)
    return path


@pytest.fixture(scope="session")
def ict_head(test_data, tmp_path_factory) -> Path:
    """The head asset of ICT-FaceKit; for tests marked `real_data`."""
    from convert.ict import convert_ict

    path = tmp_path_factory.mktemp("ict") / "ict.safetensors"
    convert_ict(test_data / "data/heads/ict_facekit_f16.npz", path)
    return path


@pytest.fixture(scope="session")
def convert_main():
    """The command line of the scripts as a function of its words; gives the exit code."""
    spec = importlib.util.spec_from_file_location("convert_command", SCRIPTS / "convert" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main
