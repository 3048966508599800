"""`--version`: the lines that dockerd and go-runc take apart."""

from __future__ import annotations

import runtime
from runtime import seccomp
from runtime import system as os
from runtime.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args

#: the version of the runtime specification that is implemented in full
SPEC = "1.3.0"


def run(args: Args) -> int:
    lines = [f"pyrunc version {runtime.VERSION}", f"commit: {commit()}", f"spec: {SPEC}"]
    library = seccomp.library_version()
    if library:
        lines.append(f"libseccomp: {library}")
    output.write("\n".join(lines) + "\n")
    return 0


def commit() -> str:
    """The commit that this was built from, which the build leaves in the file COMMIT; a work tree is none."""
    try:
        with open(os.path.join(os.path.dirname(runtime.__file__), "COMMIT")) as file:
            return file.read().strip() or "unknown"
    except OSError:
        return "unknown"
