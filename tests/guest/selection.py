"""A plugin of pytest's, for a guest that is there for a few features: PYRUNC_TEST_REQUIRES="criu numa" leaves only the tests that require one."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from features import FEATURES  # by now tests/conftest.py has said where that is

    wanted = set(os.environ["PYRUNC_TEST_REQUIRES"].split())
    if unknown := wanted - set(FEATURES):
        raise pytest.UsageError(f"no features of tests/features.py: {' '.join(sorted(unknown))}")
    left_out = [item for item in items if not wanted & features(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def features(item: pytest.Item) -> set[str]:
    return {name for marker in item.iter_markers("requires") for name in marker.args}
