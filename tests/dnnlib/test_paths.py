"""Paths as people type them, and the folder of the caches."""

from pathlib import Path

import pytest

from dnnlib.environment import cache_root
from dnnlib.errors import UserError
from dnnlib.paths import expand_path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GGDR_CACHE_DIR", raising=False)
    return tmp_path


def test_home_folders_are_expanded(home: Path) -> None:
    assert expand_path("~") == str(home)
    assert expand_path("~/a b/~") == f"{home}/a b/~"
    for same in ("a~", "./~", "a/~/b", "/tmp/x", "界\udcff"):
        assert expand_path(same) == same


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("~nobody-here/x", "no home folder for '~nobody-here'; write ./~nobody-here"),
        ("a\0b", "no file name can have"),
        ("a\ud800b", "no file name can have"),
        ("a" * 256, "names have at most 255 bytes"),
        ("界" * 100, "names have at most 255 bytes"),
        ("a/" * 2100, "paths 4095"),
    ],
)
def test_what_cannot_be_a_path(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        expand_path(text)
    assert str(caught.value).isprintable()


def test_the_cache_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == home / ".cache" / "stylegan2-ada-ggdr"
    monkeypatch.setenv("GGDR_CACHE_DIR", "~/elsewhere")
    assert cache_root() == home / "elsewhere"
    monkeypatch.setenv("GGDR_CACHE_DIR", "~nobody-here/x")
    with pytest.raises(
        UserError, match=r"GGDR_CACHE_DIR=~nobody-here/x: there is no home folder.*set GGDR_CACHE_DIR"
    ):
        cache_root()
