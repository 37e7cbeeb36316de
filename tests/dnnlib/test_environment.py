"""Environment variables, this program's own and torchrun's: each of any form, checked in one place."""

import os
import stat
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dnnlib import environment, torchrun
from dnnlib.cli import Command, friendly_errors, ops_option
from dnnlib.errors import UserError

WORKER = dict(
    RANK="1",
    WORLD_SIZE="2",
    LOCAL_RANK="1",
    LOCAL_WORLD_SIZE="2",
    MASTER_ADDR="127.0.0.1",
    MASTER_PORT="29500",
)


@click.command(cls=Command)
@ops_option
@friendly_errors
def command() -> None:
    click.echo(os.environ.get("GGDR_OPS"))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("GGDR_") or name in (*WORKER, "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def set_all(monkeypatch: pytest.MonkeyPatch, values: Any) -> None:
    for name, value in values.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "x"}, "RANK=x is not a whole number"),
        ({"RANK": ""}, "RANK= is not a whole number"),
        ({"RANK": "-1"}, "RANK=-1 and WORLD_SIZE=2 do not fit"),
        ({"RANK": "2"}, "RANK=2 and WORLD_SIZE=2 do not fit"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x is not a whole number"),
        ({"WORLD_SIZE": "0"}, "RANK=1 and WORLD_SIZE=0 do not fit"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK=1.5 is not a whole number"),
        ({"LOCAL_RANK": "5"}, "LOCAL_RANK=5 and LOCAL_WORLD_SIZE=2 do not fit"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_RANK=1 and LOCAL_WORLD_SIZE=0 do not fit"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "xx"}, "MASTER_PORT=xx is not a whole number"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
        ({"TORCHELASTIC_RESTART_COUNT": "y"}, "TORCHELASTIC_RESTART_COUNT=y is not a whole number"),
        ({"TORCHELASTIC_RESTART_COUNT": "-2"}, "TORCHELASTIC_RESTART_COUNT=-2 is negative"),
    ],
    ids=str,
)
def test_torchruns_variables_are_checked_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, changes: Any, message: Any
) -> None:
    set_all(monkeypatch, {**WORKER, **changes})
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"Error: the environment says that this is one of several processes, but {message}"
    )
    assert result.stderr.count("\n") == 1


def test_a_wrong_option_among_wrong_variables_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**WORKER, "RANK": "x"})
    result = CliRunner().invoke(command, ["--colour"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_sound_variables_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WORKER)
    assert CliRunner().invoke(command, []).exit_code == 0
    assert torchrun.local_rank() == 1
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(UserError, match="LOCAL_RANK is not set"):
        torchrun.local_rank()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GGDR_OPS", "xx", "GGDR_OPS must be one of auto, native, ref, not 'xx'"),
        ("GGDR_HOST_MEMORY", "1", "GGDR_HOST_MEMORY must be one of keep, system, not '1'"),
        (
            "GGDR_CACHE_DIR",
            "~nobody-of-this-name/x",
            "GGDR_CACHE_DIR=~nobody-of-this-name/x: there is no home folder",
        ),
    ],
)
def test_our_own_variables_are_checked(
    monkeypatch: pytest.MonkeyPatch, name: Any, value: Any, message: Any
) -> None:
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


def test_an_option_stands_above_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGDR_OPS", "xx")
    result = CliRunner().invoke(command, ["--ops=ref"])
    assert (result.exit_code, result.output) == (0, "ref\n")


def test_an_unknown_variable_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGDR_OFLINE", "1")
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "Note: the environment variable GGDR_OFLINE has no effect; known are GGDR_CACHE_DIR, "
    )


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_value_the_cache_is_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: Any
) -> None:
    set_all(monkeypatch, {"GGDR_CACHE_DIR": value})
    assert environment.cache_root() == tmp_path / ".cache" / "stylegan2-ada-ggdr"


def test_a_relative_cache_and_one_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GGDR_CACHE_DIR", "some/cache")
    assert environment.cache_root() == tmp_path / "some" / "cache"
    monkeypatch.setenv("GGDR_CACHE_DIR", "~/cache")
    assert environment.cache_root() == tmp_path / "cache"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A user whom the system does not know, without HOME."""

    def unknown() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(environment.Path, "home", unknown)
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"stylegan2-ada-ggdr-{os.getuid()}"


def test_without_a_home_the_cache_is_a_private_temporary_folder_and_said(homeless: Any) -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 0
    assert (
        result.stderr
        == f"Note: this user has no home folder, so the cache is {homeless}; GGDR_CACHE_DIR sets another\n"
    )
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700


def test_a_temporary_folder_of_somebody_else_is_not_taken(
    homeless: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    homeless.symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"belongs to another; set GGDR_CACHE_DIR"):
        environment.cache_root()
    homeless.unlink()
    homeless.mkdir()
    owner = os.getuid()
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"stylegan2-ada-ggdr-{owner + 1}").mkdir()
    monkeypatch.setattr(environment.os, "getuid", lambda: owner + 1)
    with pytest.raises(UserError, match=r"belongs to another; set GGDR_CACHE_DIR"):
        environment.cache_root()


def test_folders_and_files_of_the_cache_are_never_for_everybody_to_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        environment.make_cache_folder(tmp_path / "a" / "b")
        environment.make_cache_folder(tmp_path / "a" / "c", mode=0o755)
        with open(tmp_path / "a" / "file", "wb", opener=environment.open_cache_file):
            pass
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) for name in ("", "b", "c", "file")}
    assert modes == {"": 0o775, "b": 0o775, "c": 0o755, "file": 0o644}
