"""Changed files of every kind get one line, in seconds and in bounded memory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.child import LIMIT_SECONDS

CHILD = Path(__file__).with_name("child.py")
NAMES = [
    *("network pickle", "network pickle of the reference", "safetensors", "safetensors' JSON", "onnx"),
    *("projected w npz", "projected w npy", "cached moments", "cached features"),
    *("CIFAR pickle", "CIFAR archive", "MNIST", "LMDB", "zip of images", "dataset.json"),
    *("png", "jpg", "webp", "tif", "gif", "bmp", "ppm"),
    *(
        "training state",
        "training options",
        "stats.jsonl",
        "metric jsonl",
        "download record",
        "checkpoint of another program",
    ),
]
PACKAGES = {
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "LMDB": ["lmdb"],
    "safetensors": ["safetensors"],
    "safetensors' JSON": ["safetensors"],
}


class Child:
    """A process that reads changed files, started again when a file has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, kind: str, given: str | None, first: int, count: int) -> dict[str, Any]:
        """What became of ``count`` changed files: see ``child.py``."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({"kind": kind, "given": given, "first": first, "count": count}) + "\n"
        )
        self._process.stdin.flush()
        number = None
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "faults" in answer:
                return answer
            number = answer["begins"]
        self._process.communicate()  # closes the pipes
        status, self._process = self._process.returncode, None
        return {"faults": [[number, f"the process ended with status {status}"]], "seconds": 0, "mebibytes": 0}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """One process for all kinds, since it takes seconds to start."""
    started = Child()
    yield started
    started.close()


def check(child: Child, kind: str, count: int, request: pytest.FixtureRequest) -> None:
    """Read a whole and ``count`` changed files of a kind and see that none does harm."""
    for package in PACKAGES.get(kind, []):
        pytest.importorskip(package)
    given = str(request.getfixturevalue("exports").files[".onnx"]) if kind == "onnx" else None
    found = child.read(kind, given, -1, 1 + count)
    assert found["faults"] == []
    assert found["seconds"] < LIMIT_SECONDS
    assert found["mebibytes"] < 1024


def test_every_kind_is_tried() -> None:
    from tests.fuzz.kinds import KINDS

    assert list(KINDS) == NAMES


@pytest.mark.parametrize("kind", NAMES)
def test_two_hundred_changed_files(child: Child, kind: str, request: pytest.FixtureRequest) -> None:
    check(child, kind, 200, request)


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("kind", NAMES)
def test_five_thousand_changed_files(child: Child, kind: str, request: pytest.FixtureRequest) -> None:
    check(child, kind, 5000, request)
