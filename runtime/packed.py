"""All our modules in one file: what the launchers run first, so that an import costs no search, no stat and no open.

`make build` writes `packed.bin` beside the packages: this module's code and a table of the modules, then their code in pieces. A
launcher loads the two and executes the first; `table` is then the second and `packed` the open descriptor. A command imports
some forty modules, and for each of them the import system costs as much as running it; here a module's imports are loaded
before it, in order, and its import statements find them there.

The files of the packages stay the truth: whatever the table does not hold is imported as ever.
"""

from __future__ import annotations

import gc
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    #: file, place and length of a piece, the modules of ours that it imports when it is loaded, its number in the piece from 1
    Entry = tuple[str, int, int, tuple[str, ...], int]
    table: dict[str, Entry | int]
    packed: int


class Packed:
    """A finder and loader (importlib.abc.MetaPathFinder, Loader) of the modules in the table."""

    def __init__(self, table: dict[str, Entry], fd: int, start: int) -> None:
        self.table = table
        self.fd = fd
        self.start = start
        self.pieces: dict[int, tuple[CodeType, ...]] = {}
        # the classes of every spec and module, without importing anything for them
        self.spec_class: type[ModuleSpec] = type(sys.__spec__)
        self.module_class: type[ModuleType] = type(sys)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of one of our modules; None for anybody else's."""
        found = self.table.get(name)
        if found is None:
            return None
        origin = found[0]
        is_package = origin.endswith("/__init__.py")
        spec = self.spec_class(name, self, origin=origin, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [origin[:-12]]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """None: an ordinary module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Load what the module imports, then run it."""
        entry = self.table[module.__name__]
        modules = sys.modules
        for name in entry[3]:
            if name not in modules:
                self.load(name)
        exec(self.code(entry), module.__dict__)

    def load(self, name: str) -> None:
        """What the import system does for a module that is there and new, and no more."""
        module = self.module_class(name)
        spec = self.find_spec(name)
        assert spec is not None
        parent, _, last = name.rpartition(".")
        module.__spec__ = spec
        module.__loader__ = self  # type: ignore[assignment]
        module.__file__ = spec.origin
        if spec.submodule_search_locations is None:
            module.__package__ = parent
        else:
            module.__package__ = name
            module.__path__ = spec.submodule_search_locations
        # there before it runs, as ever: a package is needed by its own modules
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        if parent:
            setattr(sys.modules[parent], last, module)

    def code(self, entry: Entry) -> CodeType:
        """A module's code. What the same commands need is one piece, read when the first of it is asked for.

        The first of a piece is no module: it is there to be unmarshalled before the others (stage.py).
        """
        _, place, length, _, number = entry
        piece = self.pieces.get(place)
        if piece is None:
            piece = self.pieces[place] = marshal.loads(posix.pread(self.fd, length, self.start + place))
        return piece[number]


if __name__ == "__main__":
    # A command is over before there is garbage worth collecting, and its first collections fall into the imports. A process
    # that stays (the shim) turns it on again.
    gc.disable()
    start = table.pop("")  # noqa: F821
    sys.meta_path.insert(0, Packed(table, packed, start))  # type: ignore[arg-type]  # noqa: F821
