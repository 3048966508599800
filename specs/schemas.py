"""Reads the schema files of this directory and follows their references. Cold: only `generate` and `explain` need it."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ("values", "config", "process", "linux", "resources", "seccomp", "state", "features")


class Node(NamedTuple):
    """One schema: its keywords, those of a referenced one merged in below its own, and where it stands."""

    file: str  #: the file that its references are relative to
    path: tuple[str, ...]  #: the words of the JSON pointer to it in that file
    schema: dict[str, Any]
    nullable: bool  #: whether null counts as absence


def load() -> dict[str, dict[str, Any]]:
    """Every schema by its file name."""
    out = {}
    for name in NAMES:
        with open(os.path.join(HERE, f"{name}.schema.json"), encoding="utf-8") as file:
            out[f"{name}.schema.json"] = json.load(file)
    return out


class Schemas:
    """The schema files as one graph of nodes."""

    def __init__(self) -> None:
        self.files = load()

    def root(self, file: str) -> Node:
        return self.node(file, (), self.files[file])

    def node(self, file: str, path: tuple[str, ...], schema: dict[str, Any]) -> Node:
        """The node of a schema, with references followed and `or null` turned into a flag."""
        nullable = False
        own = _described(schema)
        while True:
            if "anyOf" in schema:
                # the one form in use: a whole document, or nothing
                target, null = schema["anyOf"]
                if null != {"type": "null"}:
                    raise ValueError(f"{file}#/{'/'.join(path)}: anyOf is only understood as `or null`")
                nullable = True
                schema = target
            elif "$ref" in schema:
                name, _, pointer = schema["$ref"].partition("#")
                file = name or file
                path = tuple(word for word in pointer.split("/") if word)
                schema = self.files[file]
                for word in path:
                    schema = schema[word]
            else:
                break
            own = {**_described(schema), **own}
        kinds = schema.get("type")
        if isinstance(kinds, list):
            nullable = nullable or "null" in kinds
            (kinds,) = [kind for kind in kinds if kind != "null"]
        merged = {**schema, **own}
        if kinds:
            merged["type"] = kinds
        if "enum" in merged:
            nullable = nullable or None in merged["enum"]
            merged["enum"] = [word for word in merged["enum"] if word is not None]
        return Node(file, path, merged, nullable)

    def property(self, node: Node, name: str) -> Node:
        """The node of a property that the schema of an object names."""
        return self.node(node.file, (*node.path, "properties", name), node.schema["properties"][name])

    def items(self, node: Node) -> Node:
        return self.node(node.file, (*node.path, "items"), node.schema["items"])

    def members(self, node: Node) -> Node | None:
        """The node of all members of an object that is a map, None where it is none."""
        schema = node.schema.get("additionalProperties")
        return None if schema is None else self.node(node.file, (*node.path, "additionalProperties"), schema)


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference says of its own, which goes before what the schema that it refers to says."""
    return {key: schema[key] for key in ("description", "x-clause") if key in schema}
