"""What every test gets: no network, one compute thread per worker, and the rules about skipping.

- A test marked `real_data` needs `EMOTAG_TEST_DATA`, the folder of real recordings; without it the test is skipped with
  that reason, and under `EMOTAG_REQUIRE_ALL=1` (`make test-all`) a skip of such a test is a failure.
- A test marked `slow` runs only under `EMOTAG_REQUIRE_ALL=1`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each would fight for two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REQUIRE_ALL = os.environ.get("EMOTAG_REQUIRE_ALL") == "1"
DATA = os.environ.get("EMOTAG_TEST_DATA")


def _why_no_data() -> str | None:
    if not DATA:
        return "EMOTAG_TEST_DATA is not set; it names the folder of real recordings"
    if not Path(DATA).is_dir():
        return f"EMOTAG_TEST_DATA names {DATA}, which is not a folder"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not REQUIRE_ALL:
        pytest.skip("slow: run by `make test-all`")
    if item.get_closest_marker("real_data") and (why := _why_no_data()):
        pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Under EMOTAG_REQUIRE_ALL=1, missing data is a failure, wherever in the test the skip was called."""
    report = yield
    if REQUIRE_ALL and report.skipped and item.get_closest_marker("real_data") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped where every test must run: {reason}"
    return report


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real recordings; for tests marked `real_data`."""
    if why := _why_no_data():
        pytest.skip(why)
    return Path(DATA).resolve()


def _refuse(self, address, *args):
    host = address[0] if isinstance(address, tuple) else None
    if host is None or host in ("127.0.0.1", "::1", "localhost"):  # a Unix socket, or a server that the test started
        return _connect(self, address, *args)
    raise OSError(f"tests run without a network, but something connects to {address}")


_connect = socket.socket.connect
socket.socket.connect = _refuse
