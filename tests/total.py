"""The last line of `make test`: everything that ran, counted from pytest's JUnit files and from conformance.json.

total.py FILE.xml... FILE.json
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(files: list[str]) -> int:
    passed = failed = skipped = 0
    for path in map(Path, files):
        if path.suffix == ".json":
            # A program of the suite that is known not to pass did as expected: run.py has failed on any other.
            results = json.loads(path.read_text())
            passed += sum(result["status"] == "pass" for result in results)
            skipped += sum(result["status"] != "pass" for result in results)
            continue
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            left_out = int(suite.get("skipped", 0))
            passed += int(suite.get("tests", 0)) - wrong - left_out
            failed, skipped = failed + wrong, skipped + left_out
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
