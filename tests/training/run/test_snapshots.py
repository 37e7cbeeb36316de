"""Which snapshots --keep-snapshots keeps."""

from typing import Any

import pytest

from dnnlib.errors import UserError
from training.config.keep_policy import KeepPolicy

NAMES = [f"n{i}" for i in range(8)]


def kept(text: Any, names: Any = NAMES, best: Any = None) -> Any:
    gone = KeepPolicy.parse(text).superfluous(names, best)
    assert gone == [name for name in names if name in gone]
    return [name for name in names if name not in gone]


def test_all_keeps_all() -> None:
    assert KeepPolicy.parse("all") is None


@pytest.mark.parametrize(
    ("text", "best", "expected"),
    [
        ("last:1", None, "n7"),
        ("last:3", None, "n5 n6 n7"),
        ("last:99", None, " ".join(NAMES)),
        ("every:3", None, "n0 n3 n6 n7"),
        ("every:1", None, " ".join(NAMES)),
        ("best", "n2", "n2 n7"),
        ("best", None, "n7"),
        ("last:2", "n2", "n6 n7"),
        (" last:2, best ,every:4", "n1", "n0 n1 n4 n6 n7"),
    ],
)
def test_rules(text: Any, best: Any, expected: Any) -> None:
    assert kept(text, best=best) == expected.split()


def test_what_every_keeps_does_not_change_as_the_run_goes_on() -> None:
    names = []
    for i in range(20):
        names.append(f"n{i}")
        assert set(kept("every:4", names)) == {f"n{k}" for k in range(0, i + 1, 4)} | {f"n{i}"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "last",
        "last:0",
        "last:-1",
        "every:x",
        "best:2",
        "first:1",
        "last:2,,best",
        "all,best",
        "last:" + "9" * 5000,
    ],
)
def test_other_rules_are_refused(text: Any) -> None:
    with pytest.raises(UserError, match="--keep-snapshots="):
        KeepPolicy.parse(text)
