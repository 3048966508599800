"""pyrunc: an OCI container runtime that can show its plan before it carries it out."""

VERSION = "0.1.0"
