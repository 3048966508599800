"""Is the house guide obeyed: floors, hot path, bans, sizes, names, generated files, README. Needs nothing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]  # for tree.py
