"""What every test gets: no network, one compute thread per worker, and the rules about skipping.

- A test marked `real_data` needs `EMOTAG_TEST_DATA`, the folder of real recordings; without it the test is skipped with
  that reason, and under `EMOTAG_REQUIRE_ALL=1` (`make test-all`) a skip of such a test is a failure.
- A test marked `browser` needs playwright (extra `browser`) and a Chromium on the PATH, or at `EMOTAG_CHROMIUM`; take
  the browser from the fixture `browser`. Skips and failures are as above.
- A test marked `slow` runs only under `EMOTAG_REQUIRE_ALL=1`.
- `EMOTAG_PASSED`, which `.ci/run` alone sets, names a file: `make test` writes into it which tests have passed, and
  `make test-all` leaves those out.
"""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each would fight for two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REQUIRE_ALL = os.environ.get("EMOTAG_REQUIRE_ALL") == "1"
DATA = os.environ.get("EMOTAG_TEST_DATA")
PASSED = os.environ.get("EMOTAG_PASSED")


def _why_no_data() -> str | None:
    if not DATA:
        return "EMOTAG_TEST_DATA is not set; it names the folder of real recordings"
    if not Path(DATA).is_dir():
        return f"EMOTAG_TEST_DATA names {DATA}, which is not a folder"
    return None


def _why_no_browser() -> str | None:
    if find_spec("playwright") is None:
        return 'playwright is not installed: pip install "emotag_hf[browser]"'
    if _chromium() is None:
        return "no Chromium was found; install Debian's chromium, or name one in EMOTAG_CHROMIUM"
    return None


def _chromium() -> str | None:
    names = (os.environ.get("EMOTAG_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not REQUIRE_ALL:
        pytest.skip("slow: run by `make test-all`")
    if item.get_closest_marker("real_data") and (why := _why_no_data()):
        pytest.skip(why)
    if item.get_closest_marker("browser") and (why := _why_no_browser()):
        pytest.skip(why)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under EMOTAG_REQUIRE_ALL=1, leaves out what has passed already."""
    if not (PASSED and REQUIRE_ALL and Path(PASSED).is_file()):
        return
    passed = set(Path(PASSED).read_text(encoding="utf-8").splitlines())
    known = [item for item in items if item.nodeid in passed]
    items[:] = [item for item in items if item.nodeid not in passed]
    config.hook.pytest_deselected(items=known)


def pytest_terminal_summary(terminalreporter) -> None:
    """Without EMOTAG_REQUIRE_ALL, writes down what has passed, one test a line."""
    if PASSED and not REQUIRE_ALL:
        ids = {
            how: {report.nodeid for report in terminalreporter.getreports(how)} for how in ("passed", "failed", "error")
        }
        passed = sorted(ids["passed"] - ids["failed"] - ids["error"])
        Path(PASSED).write_text("".join(f"{name}\n" for name in passed), encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Under EMOTAG_REQUIRE_ALL=1, missing data or a missing browser is a failure, wherever the skip was called."""
    report = yield
    needs = item.get_closest_marker("real_data") or item.get_closest_marker("browser")
    if REQUIRE_ALL and report.skipped and needs and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped where every test must run: {reason}"
    return report


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real recordings; for tests marked `real_data`."""
    if why := _why_no_data():
        pytest.skip(why)
    return Path(DATA).resolve()


@pytest.fixture(scope="module")  # no longer: while it is open, nothing else in this process can run an event loop
def browser():
    """Chromium without a window, WebGL on the processor; for tests marked `browser`."""
    if why := _why_no_browser():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_chromium(), args=options)
        yield chromium
        chromium.close()


def _refuse(self, address, *args):
    host = address[0] if isinstance(address, tuple) else None
    if host is None or host in ("127.0.0.1", "::1", "localhost"):  # a Unix socket, or a server that the test started
        return _connect(self, address, *args)
    raise OSError(f"tests run without a network, but something connects to {address}")


_connect = socket.socket.connect
socket.socket.connect = _refuse
