"""All our modules in one file: what the launchers run first, so that an import costs no search, no stat and no open.

`make build` writes `packed.bin` beside the packages: this module's code, a table of name -> (is a package, file, place,
length), and at each place a module's code. A launcher reads the file and executes the first; `packed` is then the whole. A
command imports some forty modules, and finding each in a directory costs as much as running it. The files of the packages
stay the truth: whatever the table does not hold is imported as ever.
"""

from __future__ import annotations

import gc
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    packed: bytes


class Packed:
    """A finder and loader (importlib.abc.MetaPathFinder, Loader) of the modules in the table."""

    def __init__(self, table: dict[str, tuple[bool, str, int, int]], code: bytes) -> None:
        self.table = table
        self.code = code
        # the class of every spec, without importing importlib for it
        self.spec_class: type[ModuleSpec] = type(sys.__spec__)  # type: ignore[attr-defined]

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of one of our modules; None for anybody else's."""
        found = self.table.get(name)
        if found is None:
            return None
        is_package, origin, _, _ = found
        spec = self.spec_class(name, self, origin=origin, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [origin.rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """None: an ordinary module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        _, _, place, length = self.table[module.__name__]
        exec(marshal.loads(self.code[place : place + length]), module.__dict__)


if __name__ == "__main__":
    # A command is over before there is garbage worth collecting, and its first collections fall into the imports. A process
    # that stays (the shim) turns it on again.
    gc.disable()
    # marshal reads one object and leaves what follows: the length of the first two stands at the end
    start, length = int.from_bytes(packed[-16:-8], "little"), int.from_bytes(packed[-8:], "little")
    sys.meta_path.insert(0, Packed(marshal.loads(packed[start:]), packed[start + length :]))  # type: ignore[arg-type]
