"""A plugin of pytest's: what fails is told at once, because a guest may die, or its time be up, before pytest does so."""

from __future__ import annotations

import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        why = [line[1:].strip() for line in str(report.longrepr).splitlines() if line.startswith("E ")]
        print(f"\n{report.nodeid} ({report.when}): {why[0] if why else report.longreprtext[-300:]}", flush=True)
