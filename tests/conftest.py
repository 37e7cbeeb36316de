"""Makes the repository's packages, its entry points and the tests' helpers importable, installed or not."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
for folder in (str(TESTS), str(TESTS.parent)):
    if folder not in sys.path:
        sys.path.insert(0, folder)
