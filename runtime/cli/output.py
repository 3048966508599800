"""Standard output: whole, unbuffered, and with an error where it cannot take what is written.

`sys.stdout` is not used: it is dear to flush at the end of a process that ends by `os._exit`, and a write to it that
fails is noticed only there. Hot: `state` prints through here.
"""

from __future__ import annotations

from runtime import system as os
from runtime.errors import Error, KernelError


class Closed(Error):
    """Nobody reads standard output any more (`pyrunc list | head -1`): no message, and the status of a SIGPIPE."""

    status = 128 + 13

    def __init__(self) -> None:
        super().__init__("")


def write(text: str) -> None:
    """Write all of the text to standard output."""
    # file names need not be UTF-8 and go out as the bytes they came in as
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        raise Closed from None
    except OSError as error:
        raise KernelError("write to standard output", error.errno or 0) from None
