"""Which test covers which clause of the OCI runtime specification: `clauses.toml`, read, checked and counted.

    clauses.py              print the coverage; 1 if a clause is missing from the table, or has no test
    clauses.py --missing    print what the text has and the table has not, in the table's form

A clause is a line of the specification (which has one sentence a line) with at least one of the KEYWORDS. It is known
by its file, the anchor of its section, its number among the clauses there, and its key words: a new version of the
text that adds, drops or moves one is noticed. The text itself is not kept here: it is downloaded, as the Go module that
the validation suite depends on, into build/conformance.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TABLE = HERE / "clauses.toml"
TEXT = ROOT / "build/conformance/runtime-spec"
MODULE, VERSION = "github.com/opencontainers/runtime-spec", "v1.3.0"
DIGEST = "09e58e616eb70f2972ed19ada447dd661b298b39777adb0bbd35c94886bdbdf8"  # SHA-256 of the module's archive
FILES = (
    "bundle.md",
    "runtime.md",
    "runtime-linux.md",
    "config.md",
    "config-linux.md",
    "features.md",
    "features-linux.md",
    "glossary.md",
)
KEYWORDS = re.compile(r"\b(MUST NOT|MUST|SHOULD NOT|SHOULD|SHALL NOT|SHALL|REQUIRED)\b")
#: why a clause has no test: it binds others, or another platform
EXEMPTIONS = ("binds", "platform")


class Clause(NamedTuple):
    """One entry of the table; `where` is file#anchor. Either tests cover it, or it is no runtime's on Linux."""

    where: str
    number: int
    keywords: str
    words: str
    tests: tuple[str, ...]
    exempt: str

    @property
    def key(self) -> tuple[str, int, str]:
        return self.where, self.number, self.keywords


def load(path: Path = TABLE) -> list[Clause]:
    """Every entry; a ValueError says which is written wrongly."""
    found = []
    for where, entries in tomllib.loads(path.read_text()).items():
        for name, value in entries.items():
            match = re.fullmatch(rf"(\d+) ((?:{KEYWORDS.pattern}(?: |(?=:)))+): (\S.*)", name)
            if not match:
                raise ValueError(f"{where}: {name!r} is not NUMBER KEYWORDS: words")
            tests: list[str] = []
            exempt = ""
            if isinstance(value, dict):
                ((kind, why),) = value.items()
                if kind not in EXEMPTIONS or not why:
                    raise ValueError(f"{where}: {name!r}: {kind} is none of {EXEMPTIONS}")
                exempt = f"{kind} {why}"
            else:
                tests = [value] if isinstance(value, str) else value
            found.append(Clause(where, int(match[1]), match[2].strip(), match[4], tuple(tests), exempt))
    return found


# -- the text ----------------------------------------------------------------------------------------------------------


def fetch() -> Path:
    """The directory of the specification's text, downloaded once; an OSError where that cannot be done."""
    if all((TEXT / name).exists() for name in FILES):
        return TEXT
    proxy = next((p for p in re.split("[,|]", os.environ.get("GOPROXY", "")) if "://" in p), "https://proxy.golang.org")
    with urllib.request.urlopen(f"{proxy.rstrip('/')}/{MODULE}/@v/{VERSION}.zip", timeout=60) as answer:
        archive = answer.read()
    if hashlib.sha256(archive).hexdigest() != DIGEST:
        raise OSError(f"{MODULE}@{VERSION}: not the archive that was pinned")
    TEXT.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(archive)) as module:
        for name in FILES:
            new = TEXT / f"{name}.{os.getpid()}"  # several workers may be at it
            new.write_bytes(module.read(f"{MODULE}@{VERSION}/{name}"))
            new.replace(TEXT / name)
    return TEXT


def read(directory: Path) -> Iterator[tuple[tuple[str, int, str], str]]:
    """Every clause of the text: its key, as `Clause.key`, and the line."""
    for name in FILES:
        where, in_code, count = name, False, Counter[str]()
        for line in (directory / name).read_text().splitlines():
            if line.lstrip().startswith("```"):
                in_code = not in_code
            heading = re.match(r"#+ +(?:<a name=\"([^\"]+)\" ?/> *)?(.*)", line)
            if in_code or heading:
                if heading and not in_code and not heading[2].lower().startswith("example"):
                    anchor = heading[1] or re.sub(r"[^a-z0-9]+", "-", heading[2].lower()).strip("-")
                    where = f"{name}#{anchor}"
                continue
            keywords = KEYWORDS.findall(line)
            if keywords:
                count[where] += 1
                yield (where, count[where], " ".join(keywords)), line


# -- the report --------------------------------------------------------------------------------------------------------


def main() -> int:
    table = load()
    wrong = [f"{clause.where}: {clause.number} {clause.words}: no test" for clause in table if not covered(clause)]
    try:
        text = dict(read(fetch()))
    except (OSError, urllib.error.URLError) as error:
        print(f"the text of the specification cannot be compared: {error}")
    else:
        known = {clause.key for clause in table}
        if "--missing" in sys.argv:
            for (where, number, keywords), line in text.items():
                if (where, number, keywords) not in known:
                    print(f'{where}\n"{number} {keywords}: " = ""  # {line.strip()}')
        wrong += [f"{key[0]}: {key[1]} {key[2]}: not in the table" for key in text if key not in known]
        wrong += [f"{key[0]}: {key[1]} {key[2]}: not in the text" for key in sorted(known - text.keys())]
    for file in FILES:
        mine = [clause for clause in table if clause.where.partition("#")[0] == file]
        tested = sum(bool(clause.tests) for clause in mine)
        exempt = Counter(clause.exempt.partition(" ")[0] for clause in mine if clause.exempt)
        print(
            f"{file:20} {len(mine):4} clauses, {tested:4} tested, {exempt['binds']:3} bind others, "
            f"{exempt['platform']:3} of other platforms"
        )
    tests = {test for clause in table for test in clause.tests}
    needed = [clause for clause in table if not clause.exempt]
    share = 100 * sum(map(covered, needed)) / max(len(needed), 1)
    print(f"{'clause coverage':20} {share:.1f} % of {len(needed)}, by {len(tests)} tests")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


def covered(clause: Clause) -> bool:
    return bool(clause.tests or clause.exempt)


if __name__ == "__main__":
    sys.exit(main())
