"""Picks a face by the name we were started as, and imports that face alone. The only place that prints a failure of the shim's own.

containerd-shim-pyrunc-v2    containerd's shim (runtime v2)
pyrunc-conmon                what podman and cri-o start in place of conmon
pyrunc-shim                  supervision of one container without any engine
"""

from __future__ import annotations

import os
import sys
from _signal import SIG_SETMASK, pthread_sigmask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: name -> module, of which main(argv) -> exit status is called
FACES = {
    "containerd-shim-pyrunc-v2": "shim.containerd.bootstrap",
    "pyrunc-conmon": "shim.conmon",
    "pyrunc-shim": "shim.supervise",
}


def main() -> NoReturn:
    """Be the face that the name says, and end the process with its status."""
    # what a careless caller blocks is inherited, and no signal would ever reach the loop, not even that a child has ended
    pthread_sigmask(SIG_SETMASK, ())
    _open_stdio()
    _forget_own_locale()
    # as in runtime: taking the interpreter apart costs time that nobody has anything of
    os._exit(call(sys.argv) & 0xFF)


def call(argv: list[str]) -> int:
    """Run a face with its words; the exit status, failures reported in one line."""
    name = os.path.basename(argv[0])
    try:
        face = FACES.get(name)
        if face is None:
            _say(f"{name}: not a name of mine, which are {', '.join(FACES)}")
            return 1
        module = __import__(face, None, None, ("main",))
        status = module.main(argv)
        sys.stdout.flush()
        return int(status or 0)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        return 128 + 2
    except Exception as error:
        _say(f"{name}: {_line(error)}")
        return 1


def _line(error: Exception) -> str:
    """A failure in one line; one that nobody raised on purpose is a defect of ours, and says where it is."""
    text = " ".join((str(error) or "no reason given").split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
        return f"{error.filename}: {text}" if error.filename else text
    kind = type(error)
    if kind.__module__ == "builtins" and not isinstance(error, OSError):
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f" [{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}]" if trace is not None else ""
        return f"{kind.__name__}: {text}{place}"
    return text


def _say(text: str) -> None:
    from shim.words import one_line

    try:
        os.write(2, one_line(text).encode() + b"\n")
    except OSError:
        pass  # nobody to tell; the exit status says it too


def _forget_own_locale() -> None:
    """Programs that we start have the caller's environment: the interpreter adds LC_CTYPE where there is no locale (PEP 538)."""
    if "LC_CTYPE" in os.environ:
        import posix

        try:
            with open("/proc/self/environ", "rb") as file:
                given = file.read()
        except OSError:
            return
        if b"\0LC_CTYPE=" not in b"\0" + given:
            del os.environ["LC_CTYPE"]
            posix.environ.pop(b"LC_CTYPE", None)


def _open_stdio() -> None:
    """Put /dev/null where the caller left 0, 1 or 2 closed: a file opened there would be taken for stdio."""
    for fd in (0, 1, 2):
        try:
            os.get_inheritable(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


if __name__ == "__main__":
    main()
