"""What the init ops about mounts, the root and the terminal may do, and must be seen to do: the other half of contracts_init.py."""

from __future__ import annotations

from accounts import Account, attributes, line, match, open_flags, split_place
from contracts_init import INIT
from tracing import Call

from runtime.plan import show

_PROPAGATION = "( shared| slave| private| unbindable)?"


# -- mounts ------------------------------------------------------------------------------------------------------


@line(INIT, "fsopen")
def _fsopen(a: Account, text: str) -> None:
    kind, register = text.split(" -> ")
    a.fill(register, a.take("fsopen", lambda c: c.text(0) == kind))


@line(INIT, "fspick")
def _fspick(a: Account, text: str) -> None:
    place, register = text.split(" -> ")
    a.fill(register, a.take("fspick", lambda c: a.is_below(c.fd(0), split_place(place)[0])))


@line(INIT, "fsconfig")
def _fsconfig(a: Account, text: str) -> None:
    register, _, rest = text.partition(" ")
    key, _, value = rest.partition("=")

    def fits(c: Call) -> bool:
        if not a.is_at(c.fd(0), register):
            return False
        if rest == "reconfigure" and c.args[1] == "FSCONFIG_CMD_RECONFIGURE":
            return True
        if c.args[1] == "FSCONFIG_SET_FD":
            return rest == f"{c.text(2)} <- {next((r for r, d in a.registers.items() if d is c.fd(4)), '')}"
        return (show(c.text(2)), show(c.text(3))) == (key, value) and c.args[1].startswith("FSCONFIG_SET_")

    a.take("fsconfig", fits)


@line(INIT, "fsmount")
def _fsmount(a: Account, text: str) -> None:
    context, register, flags = match(r"(\S+) -> (\S+) \((.*)\)", text)
    a.take("fsconfig", lambda c: a.is_at(c.fd(0), context) and c.args[1] == "FSCONFIG_CMD_CREATE")
    a.fill(register, a.take("fsmount", lambda c: a.is_at(c.fd(0), context) and c.flags(2) == attributes(flags)))


@line(INIT, "open-tree")
def _open_tree(a: Account, text: str) -> None:
    role, path, register, how = match(r"([^:]*):(.*) -> (\S+) \((.*)\)", text)

    def fits(c: Call) -> bool:
        is_there = (a.is_at(c.fd(0), role) and c.text(1) == path) or (
            a.is_below(c.fd(0), role) and c.fd(0).name == path
        )
        seen = {word for word in ("clone", "recursive") if f"_{word.upper()}" in c.args[2]}
        return is_there and seen == set(how.split(",")) - {"as it is"}

    a.fill(register, a.take("open_tree", fits))


@line(INIT, "move-mount")
def _move_mount(a: Account, text: str) -> None:
    register, role, path = match(r"(\S+) -> ([^:]*):(.*)", text)

    def fits(c: Call) -> bool:
        to = c.fd(2)
        is_there = a.is_at(to, role) if not path else a.is_below(to, role) and to.name == path
        return is_there and a.is_at(c.fd(0), register) and not c.text(1) + c.text(3)

    a.take("move_mount", fits)


@line(INIT, "mount-setattr")
def _mount_setattr(a: Account, text: str) -> None:
    place, put, cleared, propagation, user_ns = match(
        rf"(.*?)(?: set (\S+))?(?: clear (\S+))?{_PROPAGATION}(?: <- (\S+))?", text
    )
    register, slash, path = place.partition("/")

    def fits(c: Call) -> bool:
        held = c.fd(0)
        is_there = held is not None and (held.name == f"/{path}" if slash else a.is_at(held, register))
        is_recursive = "AT_RECURSIVE" in c.args[2]
        seen = (set(c.member("attr_set").split("|")), set(c.member("attr_clr").split("|")))
        wanted = (attributes(put) or {"0"}, attributes(cleared) or {"0"})
        kind = f"MS_{propagation.strip().upper()}" if propagation else "0"
        return (
            is_there
            and is_recursive == a.line["text"].endswith(" recursive")
            and seen == wanted
            and c.member("propagation") == kind
        )

    call = a.take("mount_setattr", fits)
    if bool(user_ns) != ("IDMAP" in call.shown):
        a.fail("an id map")


@line(INIT, "copy-up")
def _copy_up(a: Account, text: str) -> None:
    """Everything that is made is made below the register that is copied to, which is attached nowhere yet."""
    source, target = match(r"(\S+) -> (\S+)(?: \(its mode\))?", text)
    a.take("openat", lambda c: a.is_at(c.fd(0), source) and c.text(1) == ".")
    makes = "openat mkdirat mknodat symlinkat fchownat fchown fchmod fchmodat utimensat sendfile".split()
    while (call := a.next()) is not None and call.name in makes:
        if not a.is_below(call.fd(1 if call.name == "symlinkat" else 0), target):
            return
        a.take(call.name)


def _hide(a: Account, found: Call, tree: Call, attribute: str = "") -> None:
    if attribute:
        a.take("mount_setattr", lambda c: c.fd(0) is tree.made and attribute in c.member("attr_set"))
    a.take("move_mount", lambda c: c.fd(0) is tree.made and c.fd(2) is found.made)


@line(INIT, "mask")
def _mask(a: Account, text: str) -> None:
    """A read-only empty tmpfs or a read-only null device, on the very descriptor that was looked at."""
    found = a.look_up(*split_place(text))
    if found.error in ("ENOENT", "ENOTDIR"):
        return
    call = a.next()
    if call is not None and call.name == "fsopen":
        a.take("fsopen", lambda c: c.text(0) == "tmpfs")
        a.take("fsconfig", lambda c: c.text(2) == "ro")
        a.take("fsconfig", lambda c: c.args[1] == "FSCONFIG_CMD_CREATE")
        tree = a.take("fsmount", lambda c: "MOUNT_ATTR_RDONLY" in c.shown)
        a.registers["masked directory"] = tree.made
        _hide(a, found, tree)
    elif call is not None and a.is_at(call.fd(0), "masked directory"):
        _hide(a, found, a.take("open_tree"))
    else:
        _hide(a, found, a.take("open_tree", lambda c: a.is_at(c.fd(0), "null")), "MOUNT_ATTR_RDONLY")


@line(INIT, "readonly")
def _readonly(a: Account, text: str) -> None:
    found = a.look_up(*split_place(text))
    if found.error != "ENOENT":
        _hide(a, found, a.take("open_tree", lambda c: c.fd(0) is found.made), "MOUNT_ATTR_RDONLY")


@line(INIT, "pivot-root")
def _pivot_root(a: Account, text: str) -> None:
    a.take("fchdir", lambda c: a.is_at(c.fd(0), text))
    a.take("pivot_root", lambda c: c.args == ['"."', '"."'])
    a.take("mount_setattr", lambda c: c.member("propagation") == "MS_SLAVE")
    a.take("fchdir")
    a.take("umount2", lambda c: c.args == ['"."', "MNT_DETACH"])
    a.take("chdir", lambda c: c.text(0) == "/")


@line(INIT, "chroot")
def _chroot(a: Account, text: str) -> None:
    a.take("fchdir", lambda c: a.is_at(c.fd(0), text.split(" ")[0]))
    if "(" not in text:
        a.take("move_mount", lambda c: c.text(3) == "/")
    a.take("chroot", lambda c: c.text(0) == ".")
    a.take("chdir", lambda c: c.text(0) == "/")


@line(INIT, "chdir")
def _chdir(a: Account, text: str) -> None:
    path = text.removesuffix(" (unless done)")
    if path != text and not ((call := a.next()) is not None and call.name == "fchdir"):
        return
    found = a.take("openat2", lambda c: c.text(1) == path)
    a.take("fchdir", lambda c: c.fd(0) is found.made)


# -- terminal and standard descriptors ---------------------------------------------------------------------------


@line(INIT, "open-pty")
def _open_pty(a: Account, text: str) -> None:
    role, master, terminal = match(r"(\S+)/ptmx -> (\S+) (\S+) \S+", text)
    opened = a.take("openat", lambda c: c.text(1) == "ptmx" and a.is_at(c.fd(0), role) and "O_RDWR" in open_flags(c))
    a.fill(master, opened)
    a.take("ioctl", lambda c: c.args[1] == "TIOCSPTLCK" and c.fd(0) is opened.made)
    a.fill(terminal, a.take("ioctl", lambda c: c.args[1] == "TIOCGPTPEER" and c.fd(0) is opened.made))
    if not text.endswith(" 0x0"):
        a.take("ioctl", lambda c: c.args[1] == "TIOCSWINSZ" and c.fd(0) is opened.made)


@line(INIT, "ctty")
def _ctty(a: Account, text: str) -> None:
    a.take("ioctl", lambda c: c.args[1] == "TIOCSCTTY" and a.is_at(c.fd(0), text))


@line(INIT, "reopen-null")
def _reopen_null(a: Account, text: str) -> None:
    a.take("fstat", lambda c: c.args[0].startswith("0"))
    while (call := a.next()) is not None and call.name == "openat2" and call.text(1) == "dev/null":
        a.take("openat2", lambda c: a.is_at(c.fd(0), split_place(text)[0]))


@line(INIT, "chown-stdio")
def _chown_stdio(a: Account, text: str) -> None:
    a.take("fstat", lambda c: c.args[0].startswith("0"))
    while (call := a.next()) is not None and call.name == "fchown" and call.args[0][0] in "012":
        a.take("fchown", lambda c: c.args[1:] == [text, "-1"])
