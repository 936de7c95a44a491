"""The house itself: packaging, pins, the README, and the rules about skipping tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_import_directions import FOLDERS

import emotag_hf
from emotag_hf.constants import EMOTIONS
from emotag_hf.utils.import_utils import is_available, require_package

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "emotag_hf"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_YET = {"provenance"}  # extras that `make test-all` does not install
pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="only in a checkout of the repository")


def requirements(*extras: str) -> list[Requirement]:
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(x for e in extras for x in EXTRAS[e])]]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_ranges_not_pins():
    """A pin in pyproject.toml would fight with whatever else the user has installed."""
    for requirement in requirements(*EXTRAS):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators and not operators & {"==", "==="}, requirement
    assert set(EXTRAS) == {"gpu", "train", "space", "flame", "eval", "provenance", "browser", "docs", "dev"}


def test_constraints_cover_the_ranges():
    """CI pins every direct requirement, at a version that the published range allows."""
    pinned = pins()
    tracking = (ROOT / "requirements-tracking.txt").read_text(encoding="utf-8").splitlines()
    lines = [Requirement(line) for line in tracking if line and not line.startswith("#")]
    for requirement in [*requirements(*(set(EXTRAS) - NOT_YET)), *lines]:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin in constraints.txt"
        assert version in requirement.specifier, f"{requirement} does not allow the pinned {version}"
    assert pinned["mediapipe"] == Version("0.10.21")  # requirements-tracking.txt says why


def test_version():
    """One version, told the same everywhere."""
    assert f"## [{emotag_hf.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {emotag_hf.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_papers_are_there():
    """A licence that is missing from a release cannot be added to the copies that are out."""
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:300]
    assert "ICT-FaceKit" in (ROOT / "NOTICE").read_text()
    for name in ("WEIGHTS_LICENSE", "SECURITY.md", "CONTRIBUTING.md", "CITATION.cff", "src/emotag_hf/py.typed"):
        assert (ROOT / name).is_file(), name
    assert (ROOT / "Makefile").read_text().count("\n.DEFAULT_GOAL := help\n") == 1


def test_contributing_lists_every_folder():
    """CONTRIBUTING says of every folder of the package what is in it, from the ground up, and names none that is gone;
    its picture has the same folders in the same order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z/_]+)/` \| \S", text, re.M)
    assert listed == [folder for folder in FOLDERS if folder], "as in FOLDERS of test_import_directions.py"
    holding = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert holding == {*FOLDERS, "preprocessing"} - {""} | {"."}
    picture = re.search(r"```mermaid\n(.*?)```", text, re.S).group(1)
    chain = re.findall(r"\w+(?= -->)|(?<=--> )\w+", picture)
    assert list(dict.fromkeys(chain)) == [folder.split("/")[-1] for folder in FOLDERS if folder not in ("", "training")]


def test_readme_names_the_emotions():
    """What `emotion` takes stands in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for emotion in EMOTIONS:
        assert f"`{emotion}`" in readme


def test_files_stay_readable():
    """No file of more than 500 lines."""
    folders = [ROOT / name for name in ("src", "tests", "space", "benchmarks", "conversion_scripts")]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_no_private_paths():
    """What users get knows nothing of the machine it was written on; real data comes through EMOTAG_TEST_DATA."""
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "space").rglob("*"), ROOT / "Makefile", ROOT / "README.md"):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\.\./shared|/home/\w|/root/|/work/", text), path


def test_public_names():
    """Everything that `emotag_hf` offers is there."""
    for name in emotag_hf.__all__:
        assert getattr(emotag_hf, name) is not None
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    typed = re.findall(r"^    from [.\w]+ import (\w+) as \1$", source, re.M)
    assert sorted([*typed, "__version__"]) == emotag_hf.__all__, "the names for type checkers"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        emotag_hf.nothing  # noqa: B018


def test_require_package():
    """The message of a missing package is the line that installs it."""
    assert require_package("json").dumps([]) == "[]"
    assert not is_available("no_such_package") and not is_available("no_such_package.part")
    with pytest.raises(ImportError, match=r'pip install "emotag_hf\[gpu\]"$'):
        require_package("no_such_package", extra="gpu")
    with pytest.raises(ImportError, match="with: pip install no_such_package$"):
        require_package("no_such_package")
    with pytest.raises(ImportError, match="with: two lines$"):
        require_package("no_such_package", install="two lines")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets():
    """`make` alone changes nothing and says what there is."""
    run = subprocess.run(["make", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for target in ("help", "demo", "test", "test-all", "quality", "docs", "bench", "assets", "clean"):
        assert f"make {target} " in run.stdout


def _run_pytest(folder: Path, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("EMOTAG_", "PYTEST_"))} | variables
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


def test_rules_of_the_browser(tmp_path):
    """Without a Chromium, a browser test is a skip that says what to install, and a failure under `make test-all`."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    browser\n")
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.browser\ndef test_a(browser): pass\n")
    plain = _run_pytest(tmp_path, PATH="nowhere")
    assert "1 skipped" in plain and ("Chromium" in plain or "playwright" in plain)
    assert "1 error" in _run_pytest(tmp_path, PATH="nowhere", EMOTAG_REQUIRE_ALL="1")


def test_rules_of_skipping(tmp_path):
    """Missing data is a skip with its reason under `make test` and a failure under `make test-all`, also when the test
    itself calls skip; a passing test passes in both."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real_data\n    slow\n    gpu\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.real_data\ndef test_a(test_data): pass\n"
        "@pytest.mark.real_data\ndef test_b(): pytest.skip('this clip is missing')\n"
        "@pytest.mark.slow\ndef test_c(): pass\n"
        "@pytest.mark.gpu\ndef test_d(): pytest.skip('no CUDA here')\n"
        "def test_e():\n    import socket\n    with pytest.raises(OSError, match='without a network'):\n"
        "        socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
    )
    plain = _run_pytest(tmp_path)
    assert "1 passed, 4 skipped" in plain and "EMOTAG_TEST_DATA is not set" in plain and "make test-all" in plain
    strict = _run_pytest(tmp_path, EMOTAG_REQUIRE_ALL="1")
    assert "2 passed, 1 skipped, 2 errors" in strict
    with_data = _run_pytest(tmp_path, EMOTAG_REQUIRE_ALL="1", EMOTAG_TEST_DATA=str(tmp_path))
    assert "1 failed, 3 passed, 1 skipped" in with_data and "this clip is missing" in with_data
    wrong = _run_pytest(tmp_path, EMOTAG_TEST_DATA=str(tmp_path / "nowhere"))
    assert "which is not a folder" in wrong


def test_rule_of_what_has_passed(tmp_path):
    """`make test-all` after `make test` runs what was skipped or failed before, and nothing twice, where it is told of
    the list; alone, it runs everything."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n")
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('text', ['one', 'a b\\n'])\ndef test_a(text): pass\n"
        "@pytest.mark.slow\ndef test_b(): pass\n"
        "def test_c(): assert 'EMOTAG_REQUIRE_ALL' in os.environ\n"
        "@pytest.fixture\ndef late():\n    yield\n    assert 'EMOTAG_REQUIRE_ALL' in os.environ\n"
        "def test_d(late): pass\n"
    )
    told = {"EMOTAG_PASSED": str(tmp_path / "passed.txt")}
    assert "1 failed, 3 passed, 1 skipped, 1 error" in _run_pytest(tmp_path, **told)
    assert "3 passed, 2 deselected" in _run_pytest(tmp_path, EMOTAG_REQUIRE_ALL="1", **told)
    assert "5 passed" in _run_pytest(tmp_path, EMOTAG_REQUIRE_ALL="1")
