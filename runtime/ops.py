"""The op table: every operation that the interpreter of `runtime/kernel/exec.c` can carry out, in one place.

`kernel/ops.h` and the op reference of `kernel/README.md` are generated from here (`python -m runtime.kernel.generate`); nothing else
may number an op. A row is

    name: (number, text, contract)

`text` is how the plan prints the op: `{r0}` a register by its role, `{a:ns}` an integer through one of the FORMATS of
`plan.py`, `{s0}` a string. `contract` says what the op does, with its registers (`->r0` writes it), integers and
strings. Ops are named after their system call; those with a name of their own have a contract that a reader can hold
the C against, and a reason why no row of single system calls would do: they decide something at the moment of use,
which a plan made beforehand cannot.

Flags of every op: `?exists` takes EEXIST for success, `?missing` skips the op on ENOENT, `?denied` takes EPERM and EACCES
for a warning. `recursive` and `nofollow` are for the ops that say so.
"""

from __future__ import annotations

FLAG_EXISTS = 1
FLAG_MISSING = 2
FLAG_DENIED = 4
FLAG_RECURSIVE = 8
FLAG_NOFOLLOW = 16
FLAGS = {
    FLAG_EXISTS: "?exists",
    FLAG_MISSING: "?missing",
    FLAG_DENIED: "?denied",
    FLAG_RECURSIVE: "recursive",
    FLAG_NOFOLLOW: "nofollow",
}

#: name -> (number, text, contract)
OPS: dict[str, tuple[int, str, str]] = {
    # -- talking to the parent -------------------------------------------------------------------------------------
    "ask": (
        1,
        "{s0}{<r1}{>r0}",
        "send ASK(a: section number) with the descriptor r1 if there is one, wait for the answer: an errno, and one "
        "descriptor ->r0 where r0 is given; the parent has reported its own failure when the errno is not 0",
    ),
    "fifo": (
        2,
        "wait for start",
        "wait until a byte can be read from r0 (a FIFO opened for reading without a writer: poll sleeps until one has "
        "come); from then on failures are written to r1 (a FIFO opened for writing) instead of the socket, which is closed",
    ),
    # -- processes and namespaces ----------------------------------------------------------------------------------
    "unshare": (3, "{a:ns}", "unshare(a)"),
    "setns": (4, "{r0} {a:ns}", "setns(r0, a); r0 is a namespace or, with several flags, a pidfd"),
    "fork": (
        5,
        "{<r0}",
        "clone3(CLONE_PARENT, into the cgroup r0 where one is given): the old process exits 0; the child sends PID, to which the kernel adds "
        "the pid that it has outside, and goes on when the parent has answered",
    ),
    "setsid": (6, "", "setsid()"),
    "prctl": (7, "{a:prctl} {b}", "prctl(a, b, c, 0, 0)"),
    "keyring": (
        8,
        "{s0}",
        "keyctl(JOIN_SESSION_KEYRING, s0), then KEYCTL_SETPERM to (its permissions & a) | b; ENOSYS is not an error",
    ),
    "sethostname": (9, "{s0}", "sethostname(s0)"),
    "setdomainname": (10, "{s0}", "setdomainname(s0)"),
    "personality": (11, "{a:hex}", "personality(a)"),
    "umask": (12, "{a:octal}", "umask(a)"),
    "scheduler": (13, "{s1}", "sched_setattr(0, s0: struct sched_attr, 0); s1 is its text"),
    "ioprio": (14, "{s1}", "ioprio_set(IOPRIO_WHO_PROCESS, 0, a); s1 is its text"),
    "affinity": (15, "{s1}", "sched_setaffinity(0, s0: bit mask); s1 is its text"),
    "mempolicy": (16, "{s1}", "set_mempolicy(a, s0: node mask, b: number of nodes in it); s1 is its text"),
    "link-up": (17, "{s0}", "set IFF_UP on the interface s0 of the current network namespace, through SIOCSIFFLAGS"),
    "netlink": (
        56,
        "-> {r0}",
        "socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE) ->r0, which speaks of the current network namespace wherever it is sent",
    ),
    # -- credentials -----------------------------------------------------------------------------------------------
    "setgroups": (18, "{s0:gids}", "setgroups(s0: array of 32-bit gids)"),
    "setresgid": (19, "{a}", "setresgid(a, a, a), then getresgid to be sure of it"),
    "setresuid": (20, "{a}", "setresuid(a, a, a), then getresuid to be sure of it"),
    "bounding": (
        21,
        "{a:caps}",
        "drop every capability that is not in the mask a from the bounding set, up to number b",
    ),
    "capset": (
        22,
        "effective {a:caps} permitted {b:caps} inheritable {c:caps}",
        "capset(effective a, permitted b, inheritable c)",
    ),
    "ambient": (23, "{a:caps}", "clear the ambient set, then raise each capability of a"),
    # -- files -----------------------------------------------------------------------------------------------------
    "open": (
        24,
        "{r1:at}{s0} -> {r0} ({a:open})",
        "openat2(r1, s0, flags a, mode c, resolve b) ->r0; close-on-exec always",
    ),
    "close": (25, "{r0}", "close(r0)"),
    "write": (
        26,
        "{r1:at}{s0} {s1}",
        "open s0 below r1 for writing (openat2 with RESOLVE_BENEATH, NO_XDEV, NO_MAGICLINKS; host path where r1 is none) and "
        "write s1 in one call; a short write is EIO",
    ),
    "mkdirs": (
        27,
        "{r1:at}{s0} {a:octal}{>r0}",
        "make each missing directory of s0 inside the root r1 with mode a, following no link out of it; the last one is "
        "opened O_PATH ->r0 where r0 is given",
    ),
    "mountpoint": (
        28,
        "{r1:at}{s0} like {r2} -> {r0}{a:there}",
        "open s0 inside the root r1 as the place to mount r2 on ->r0; what is missing of it is made: directories 0755, and "
        "the last component a directory or an empty file 0644 as r2 is one; nofollow: the last component must not be a link, and "
        "where r2 is none the place is a directory; with a the place must be there, a link itself being one, but for those of procfs, sysfs and "
        "devpts, which are EPERM",
    ),
    "symlink": (
        29,
        "{r1:at}{s1} -> {s0}",
        "symlinkat(s0, parent directory of s1 resolved inside the root r1, last component); with a, a link that is there and says the "
        "same is not an error",
    ),
    "mknod": (
        30,
        "{r1:at}{s0} {a:node} {b:dev} owner {c:owner}",
        "mknodat(parent directory of s0 resolved inside the root r1 and made where missing, last component, mode a, device b), "
        "then chown to uid (low half of c) and gid (high half) and chmod, on the node just made; with ?exists one that is there "
        "must be the same device, else EEXIST",
    ),
    "check-device": (31, "{r0} {a:node} {b:dev}", "fstat(r0): type a and device number b, else ENODEV"),
    # -- mounts ----------------------------------------------------------------------------------------------------
    "fsopen": (32, "{s0} -> {r0}", "fsopen(s0) ->r0"),
    "fspick": (33, "{r1:at}{s0} -> {r0}", "fspick(r1, s0) ->r0, an open context of a mounted filesystem"),
    "fsconfig": (34, "{r0} {s0}{s1:value}{<r1}{a:command}", "fsconfig(r0, a, s0, s1 or descriptor r1)"),
    "fsmount": (35, "{r0} -> {r1} ({a:attrs})", "fsconfig(r0, CMD_CREATE), then fsmount(r0, attributes a) ->r1"),
    "mount": (
        58,
        "{s0} {s1} -> {r0}{s2:options}{a:superblock}",
        "mount(s1, type s0, flags a, options s2) over the root of a mount namespace that ends with it, open_tree of a clone of that ->r0: for "
        "what is longer than fsconfig(2) takes",
    ),
    "open-tree": (36, "{r1:at}{s0} -> {r0} ({a:tree})", "open_tree(r1, s0, a) ->r0; the path may be empty"),
    "move-mount": (37, "{r0} -> {r1:at}{s0}", 'move_mount(r0, "", r1, s0), empty paths allowed on both sides'),
    "mount-setattr": (
        38,
        "{r0}{s0}{a:set}{b:clear}{c:propagation}{<r1}",
        "mount_setattr(r0, s0, set a, clear b, propagation c, user namespace r1); recursive applies; the path may be empty",
    ),
    "copy-up": (
        39,
        "{r1} -> {r0}{a:mode}",
        "copy what is below the directory r1 into the directory r0: directories, files, links, nodes, with owner, mode and times; "
        "no link is followed, no filesystem boundary crossed; with a only the mode of r1 itself is copied to r0",
    ),
    "mask": (
        40,
        "{r1:at}{s0}",
        "hide s0 inside the root r1: a directory under a read-only empty tmpfs (->r2 the first time, cloned after), anything "
        "else under a read-only bind of the null device r0; the target is opened once, ENOENT and ENOTDIR skip it",
    ),
    "readonly": (
        41,
        "{r1:at}{s0}",
        "make s0 inside the root r1 read-only with all mounts below it, by a recursive clone of the one descriptor it is opened by; "
        "ENOENT skips it",
    ),
    "pivot-root": (
        42,
        "{r0}",
        'fchdir(r0), pivot_root(".", "."), make the old root a slave so that its unmount stays here, unmount it lazily, chdir("/")',
    ),
    "unmount": (
        57,
        "{r0}{a:look}",
        "umount2(the mount that r0 is the root of, MNT_DETACH), by the name of the descriptor below r1, a procfs of the host's; EINVAL where "
        "r0 is the root of none; with a nothing but that is looked at",
    ),
    "chroot": (
        43,
        "{r0}{a:only}",
        'move the mount r0 over "/" unless a, chroot(r0), chdir("/"): what is left where a root cannot be pivoted, or shall not be',
    ),
    "chdir": (
        44,
        "{s0}{b:again}",
        "make what is missing of s0 inside the root r1 if r1 is given (a: mode); then open s0 without following magic links, fchdir, and check "
        "with getcwd that it lies below the root (CVE-2024-21626); with b it is a second try, and nothing where an earlier one went well",
    ),
    # -- terminal and standard descriptors -------------------------------------------------------------------------
    "open-pty": (
        45,
        "{r1}/ptmx -> {r0} {r2} {a}x{b}",
        "open ptmx below r1 (a devpts mount, checked: filesystem, inode 2, device 5:2) ->r0, unlock it, TIOCGPTPEER ->r2 so that no name is "
        "resolved (CVE-2025-52565); window size a rows, b columns where not 0",
    ),
    "ctty": (46, "{r0}", "TIOCSCTTY on r0, then dup it over descriptors 0, 1 and 2"),
    "reopen-null": (
        47,
        "{r1:at}dev/null",
        "each of 0, 1, 2 that is the host's null device is opened anew inside the root r1, checked to be device 1:3",
    ),
    "chown-stdio": (
        48,
        "{a}",
        "fchown(0, 1, 2 to uid a), leaving out what belongs to a already and the null device; EPERM, EROFS and EINVAL are not errors",
    ),
    # -- the user's programs ---------------------------------------------------------------------------------------
    "run-hook": (
        49,
        "{s0}{a:timeout}{>r1}{>r2}",
        "fork and execve(s0, s1: arguments (b of them), s2: environment (c)) in a session of its own with r0 rewound as standard input, and r1 and r2 as "
        "standard output and error where they are given; wait at most a ms, "
        'then kill the session; failure: ETIMEDOUT, or ECHILD with "exit status N" or "signal N" and the end of its output as detail',
    ),
    "home": (
        50,
        "of uid {a}",
        'find the home directory of uid a in /etc/passwd (regular file, at most 1 MiB), "/" if there is none; `exec` appends HOME=…',
    ),
    "find-exec": (
        51,
        "{s0:list}",
        "one of the a paths in s0 must be an executable file: else ENOENT, or EACCES, EISDIR of the last candidate",
    ),
    "seccomp": (
        52,
        "{s0:bpf}{a:seccomp}{>r0}",
        "seccomp(SET_MODE_FILTER, flags a, program s0), listener ->r0 where r0 is given",
    ),
    "close-range": (
        53,
        "from {a}",
        "close every descriptor from the first after the preserved ones, but for r0, r1, r2 and the first b registers, which the launcher has "
        "filled (given a number, kept close-on-exec)",
    ),
    "inherit": (
        55,
        "{r0}",
        "clear close-on-exec of r0: the program of exec gets it by the number that it has, which of the launcher's descriptors is the "
        "first of ours + 2 and on, in the plan's order",
    ),
    "exec": (
        54,
        "{s0:first}",
        "execve each of the a paths in s0 with the arguments s1 (b of them) and environment s2 (c), as execvp does: the first that is there counts",
    ),
}
