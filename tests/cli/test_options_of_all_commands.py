"""What holds for the options of every command line of the project."""

import importlib
import math
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnnlib.cli import PATH, Command, FiniteFloat, LabelledPath, PathType, friendly_errors

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py")]
    if "@click.command(" in path.read_text(encoding="utf-8")
)

#: Options that take free text, and no path.
TEXTS = {
    *(
        "metrics",
        "seeds",
        "rows",
        "cols",
        "styles",
        "psis",
        "snapshots",
        "generator",
        "encoder",
        "decoder",
        "resolutions",
    ),
    *(
        "keep_snapshots",
        "background",
        "resolution",
        "wanted",
        "workers",
        "processes",
        "only",
        "neighbours",
        "large",
        "augpipe",
    ),
    "serve",
}

#: Commands whose files have names of their own each time, or that look after what is there themselves.
OWN_FOLDERS = {
    "train",
    "tools.demo",
    "benchmarks.soak",
    "experiments.recipe",
    "experiments.cpu_study.reproduce",
}


def command_of(module: str) -> click.Command:
    command = importlib.import_module(module).main
    assert isinstance(command, click.Command)
    return command


def test_there_are_commands() -> None:
    assert {"train", "generate", "calc_metrics", "dataset_tool", "tools.project", "benchmarks.ops"} <= set(
        MODULES
    )


@pytest.mark.parametrize("module", MODULES)
def test_every_path_has_the_type_of_paths(module: str) -> None:
    command = command_of(module)
    texts = {
        parameter.name
        for parameter in command.params
        if parameter.type.name == "text" and not getattr(parameter, "is_flag", False)
    }
    if module == "experiments.cpu_study.reproduce":
        texts.discard("data")  # the name of a data set of the protocol
    assert texts <= TEXTS, "give it type=PATH or PATH_OR_URL, or name it in TEXTS"


@pytest.mark.parametrize("module", sorted(set(MODULES) - OWN_FOLDERS))
def test_what_writes_files_can_be_told_to_overwrite(module: str) -> None:
    options = {name for parameter in command_of(module).params for name in parameter.opts}
    writes = options & {"--out", "--outdir", "--dest"} or "json_file" in {
        parameter.name for parameter in command_of(module).params
    }
    assert bool(writes) == ("--overwrite" in options)


@pytest.mark.parametrize("module", MODULES)
def test_no_number_is_infinite_or_none(module: str) -> None:
    """``click.FLOAT`` takes nan and inf; train.py's configuration refuses them."""
    kinds = {type(parameter.type) for parameter in command_of(module).params}
    assert click.FloatRange not in kinds
    assert module == "train" or type(click.FLOAT) not in kinds


@click.command(cls=Command)
@click.option("--here", type=PATH)
@click.option("--both", type=PathType(addresses=True), multiple=True)
@click.option("--run", type=LabelledPath())
@click.option("--rate", type=FiniteFloat(min=1, max=5))
@friendly_errors
def command(here: str | None, both: tuple[str, ...], run: str | None, rate: float | None) -> None:
    click.echo(f"{here} {both} {run} {rate}")
    if here == "raise":
        raise MemoryError


def output(*arguments: str) -> str:
    return CliRunner().invoke(command, arguments).output


def test_home_folders_behind_an_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert (
        output("--here=~/a", "--both=~/b", "--both=c", "--run=x=~/d")
        == "/home/me/a ('/home/me/b', 'c') x=/home/me/d None\n"
    )
    for argument in (
        "--here=~nobody-here/a",
        "--here=",
        "--here=" + "a" * 5000,
        "--run=x=~nobody-here",
        "--both=\0",
    ):
        assert output(argument).count("Error: Invalid value for") == 1


@pytest.mark.parametrize(
    "argument",
    ["--both=https://u:s3cret@[::1/x", "--both=ftp://u:s3cret@h/x", "--here=https://u:s3cret@h/x", "--run=https://u:s3cret@h/x?a=s3cret",
     "--nothing=https://u:s3cret@h/x?s3cret", "--rate=https://u:s3cret@h/x"],
)  # fmt: skip
def test_no_message_has_credentials(argument: str) -> None:
    assert "s3cret" not in output(argument)


def test_numbers_within_limits() -> None:
    assert output("--rate=2.5").endswith(" 2.5\n")
    for value in ("nan", "inf", "-inf", "1e400", "1e300", "0", "6", "", "x"):
        assert "Invalid value for '--rate'" in output(f"--rate={value}")
    assert math.isfinite(FiniteFloat().convert("3e38", None, None))


def test_memory_that_runs_out_is_one_line() -> None:
    result = CliRunner().invoke(command, ["--here=raise"])
    assert (result.exit_code, result.output.count("Error: the memory of this machine does not suffice")) == (
        1,
        1,
    )
