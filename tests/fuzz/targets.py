"""All fuzzers in Python, by what they feed."""

from __future__ import annotations

import command_lines
import conmon_inputs
import documents
import states
import texts
import wires
from engine import Target


def every() -> list[Target]:
    return [
        documents.Config(),
        documents.Annotations(),
        documents.Process(),
        documents.Resources(),
        documents.Seccomp(),
        documents.Mounts(),
        documents.Settings(),
        states.State(),
        command_lines.Runtime(),
        command_lines.Shims(),
        wires.Protobuf(),
        wires.Options(),
        wires.Server(),
        conmon_inputs.Control(),
        texts.Text(),
    ]
