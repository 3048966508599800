"""containerd's face: a shim of its runtime v2 protocol, for containerd 1.6 to 2.x. README.md says how it works."""

#: where the runtime keeps its state where no option says otherwise; below it one directory for each namespace
DEFAULT_ROOT = "/run/containerd/pyrunc"
#: in a bundle: what the create request said about the runtime, where it said anything
OPTIONS_FILE = "options.json"
