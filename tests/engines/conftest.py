"""Fixtures of the tests with real engines.

engine_runtime      the runtime under test: pyrunc as it is staged, or what ENGINE_RUNTIME names (the same tests on a peer)
bb_image            images.bb(): the image that tests run (.name, .oci, .docker, .rootfs)
deb_image           images.deb(): dynamically linked programs from Debian's packages
pause_image         images.pause(): the sandbox of a pod
podman monitored buildah podman_host podman_machine share   Podman in a lab: podman_lab.py
new_lab             a factory of labs that are closed after the module: `lab = new_lab()`

ENGINES=trixie in the environment runs all of them under that release's engines: newer.py; ENGINES=containerd2 those of
containerd under a newer one yet, ENGINES=crio those of CRI-O: modules.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

sys.path[:0] = [str(HERE)]

import images  # noqa: E402 - found through the path above
import modules  # noqa: E402
import newer  # noqa: E402
from lab import Lab, missing  # noqa: E402
from podman_lab import buildah, monitored, podman, podman_host, podman_machine, share  # noqa: E402, F401 - fixtures


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # here, where no test's time limit counts
    if newer.wanted():
        newer.made()
    if name := modules.wanted():
        modules.made(name)
    items[:] = [each for each in items if HERE not in each.path.parents or modules.chosen(each.fixturenames)]
    if newer.wanted() and config.option.markexpr == "newer":
        # what `make test` has time for: containerd's own shim calls us as that of the machine's engines does
        items[:] = [each for each in items if "[runc.v2" not in each.name]


@pytest.fixture(scope="session")
def engine_runtime() -> Path:
    newer.tree()
    runtime = Path(os.environ.get("ENGINE_RUNTIME", newer.binaries() / "pyrunc"))
    if not runtime.exists():
        pytest.fail(f"{runtime} is not there: run `make build` first", pytrace=False)
    return runtime


@pytest.fixture(scope="session")
def bb_image() -> images.Image:
    return images.bb()


@pytest.fixture(scope="session")
def deb_image() -> images.Image:
    return images.deb()


@pytest.fixture(scope="session")
def pause_image() -> images.Image:
    return images.pause()


@pytest.fixture(scope="module")
def new_lab(engine_runtime: Path) -> Iterator[Callable[[], Lab]]:
    labs: list[Lab] = []

    def make() -> Lab:
        # crun refuses a v2 hierarchy that has controllers beside v1's
        labs.append(Lab(omit=["unified"] if engine_runtime.name == "crun" else [], tree=newer.tree()))
        return labs[-1]

    yield make
    for lab in reversed(labs):
        lab.close()


def needs_checkpoint(runtime: Path, lab: Lab) -> None:
    """The one place where scenarios of checkpoint and restore are skipped: for want of the command, or of CRIU."""
    if lab.run(runtime, "checkpoint", "--help", status=None).status:
        missing("checkpoint")
    if lab.run("sh", "-c", "criu check", status=None).status:
        missing("a CRIU that works on this kernel")
