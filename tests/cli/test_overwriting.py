"""No command replaces an earlier result by that of other options, unless --overwrite is given."""

import io
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import dataset_tool
import generate
from dnnlib.errors import UserError
from tests.support.runs import make_images
from tests.support.small_networks import pixels, write_network
from tools import convert, interpolate, style_mixing, truncation
from training.data.pictures import save_png
from training.inference.outputs import check_outputs, has_mark, mark_of


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("net") / "conditional.pkl", c_dim=3)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("net") / "other.pkl", c_dim=3, num_fp16_res=0, channel_max=4)


def run(command: click.Command, *arguments: Any) -> str:
    """What a command says when it succeeds."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(command: click.Command, *arguments: Any) -> str:
    """Its one line when it does not; no file may change."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert (result.exit_code, result.output.count("Error:")) == (1, 1), result.output
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_of_other_options_stay(net: Path, other: Path, tmp_path: Path) -> None:
    first = ["--network", net, "--seeds=0-2", "--class=0", "--outdir", tmp_path]
    run(generate.main, *first)
    made = contents(tmp_path)
    run(generate.main, *first, "--batch=2")  # its own results
    assert contents(tmp_path) == made
    for change in (
        ["--class=1"],
        ["--trunc=0.5"],
        ["--noise-mode=none"],
        ["--network", other],
        ["--seeds=2-4", "--class=2"],
    ):
        line = refused(generate.main, *first, *change)
        assert (
            "would be replaced, and other options or networks made it; give another --outdir, or --overwrite"
            in line
        )
        assert contents(tmp_path) == made
    run(generate.main, *first, "--class=1", "--seeds=3")  # beside them
    run(generate.main, *first, "--class=1", "--overwrite")
    assert contents(tmp_path)["seed0000.png"] != made["seed0000.png"]


def test_the_same_network_in_another_format(net: Path, tmp_path: Path) -> None:
    run(convert.main, "--network", net, "--out", tmp_path / "net.safetensors")
    for network in (net, tmp_path / "net.safetensors"):
        run(generate.main, "--network", network, "--seeds=0", "--class=0", "--outdir", tmp_path / "out")


def test_grids_of_other_seeds_stay(net: Path, tmp_path: Path) -> None:
    first = ["--network", net, "--class=0", "--grid=2x2", "--outdir", tmp_path]
    run(generate.main, *first, "--seeds=0-3")
    run(generate.main, *first, "--seeds=0-3")
    assert "grid.png would be replaced" in refused(generate.main, *first, "--seeds=4-7")


def test_repeated_seeds_are_made_once(net: Path, tmp_path: Path) -> None:
    output = run(generate.main, "--network", net, "--seeds=1,2,1,1", "--class=0", "--outdir", tmp_path)
    assert "Note: --seeds names 1 more than once; each is made once" in output
    assert "2 images in" in output
    output = run(
        generate.main,
        "--network",
        net,
        "--seeds=1,1",
        "--class=0",
        "--grid=2x1",
        "--outdir",
        tmp_path / "grid",
    )
    assert "2 images in" in output
    assert "more than once" not in output
    output = run(
        style_mixing.main,
        "--network",
        net,
        "--rows=1,1",
        "--cols=2",
        "--styles=0",
        "--class=0",
        "--outdir",
        tmp_path / "mixed",
    )
    assert "1 rows of 1 mixed" in output


def test_a_picture_that_somebody_else_made_stays(net: Path, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "seed0000.png")
    (tmp_path / "seed0001.png").write_bytes(b"no picture")
    made = contents(tmp_path)
    assert "seed0000.png and 1 more would be replaced" in refused(
        generate.main, "--network", net, "--seeds=0-1", "--class=0", "--outdir", tmp_path
    )
    assert contents(tmp_path) == made


def test_tables_of_other_options_stay(net: Path, tmp_path: Path) -> None:
    mixed = ["--network", net, "--rows=0,1", "--cols=2", "--class=0", "--outdir", tmp_path / "mixed"]
    run(style_mixing.main, *mixed, "--styles=0")
    run(style_mixing.main, *mixed, "--styles=0")
    assert "would be replaced" in refused(style_mixing.main, *mixed, "--styles=1")
    sweep = ["--network", net, "--class=0", "--out", tmp_path / "sweep.png"]
    run(truncation.main, *sweep, "--seeds=0", "--psis=0,1")
    run(truncation.main, *sweep, "--seeds=0", "--psis=0,1")
    assert "is there already; give another name, or --overwrite" in refused(
        truncation.main, *sweep, "--seeds=1", "--psis=0,1"
    )
    run(truncation.main, *sweep, "--seeds=1", "--psis=0,1", "--overwrite")


def test_files_without_a_mark_need_the_option(net: Path, tmp_path: Path) -> None:
    walk = ["--network", net, "--seeds=0,1", "--frames=1", "--class=0", "--out", tmp_path / "walk.gif"]
    run(interpolate.main, *walk)
    assert "is there already" in refused(interpolate.main, *walk)
    run(interpolate.main, *walk, "--overwrite")
    (tmp_path / "net.json").write_text("somebody's")
    assert "net.json is there already" in refused(
        convert.main, "--network", net, "--out", tmp_path / "net.safetensors"
    )
    assert (tmp_path / "net.json").read_text() == "somebody's"
    assert not (tmp_path / "net.safetensors").exists()


def test_a_data_set_is_replaced_with_a_note(tmp_path: Path) -> None:
    source = make_images(tmp_path / "images", count=2)
    arguments = [f"--source={source}", f"--dest={tmp_path / 'x.zip'}", "--workers=1"]
    run(dataset_tool.main, *arguments)
    made, note = (
        (tmp_path / "x.zip").read_bytes(),
        "x.zip is there already, and the new data set takes its place",
    )
    for options, noted in (["--max-images=1"], True), (["--overwrite"], False):
        result = CliRunner().invoke(dataset_tool.main, [*arguments, *options])
        assert (result.exit_code, note in result.stderr) == (0, noted), result.output
        assert ((tmp_path / "x.zip").read_bytes() == made) == (not noted)


def test_a_file_that_cannot_be_read_gets_no_mark(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read /proc/self/mem: Input/output error"):
        mark_of("a", ["/proc/self/mem"])


def test_marks(tmp_path: Path) -> None:
    image = torch.zeros([3, 4, 4], dtype=torch.uint8)
    (tmp_path / "net.pkl").write_bytes(b"one")
    mark = mark_of("a", [str(tmp_path / "net.pkl"), "vgg16"], seed=1)
    assert mark == mark_of("a", [str(tmp_path / "net.pkl"), "vgg16"], seed=1)
    others = [
        mark_of("b", [str(tmp_path / "net.pkl"), "vgg16"], seed=1),
        mark_of("a", ["vgg16"], seed=1),
        mark_of("a", seed=2),
    ]
    assert len({mark, *others}) == 4
    save_png(image, tmp_path / "a.png", mark)
    assert np.array_equal(pixels(tmp_path / "a.png"), np.zeros([4, 4, 3]))
    assert has_mark(tmp_path / "a.png", mark)
    (tmp_path / "net.pkl").write_bytes(b"two")
    assert not has_mark(tmp_path / "a.png", mark_of("a", [str(tmp_path / "net.pkl"), "vgg16"], seed=1))
    for name, content in (("broken.png", b"\x89PNG\r\n\x1a\n"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        assert not has_mark(tmp_path / name, mark)
    plain = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(plain, format="png")
    (tmp_path / "plain.png").write_bytes(plain.getvalue())
    assert not has_mark(tmp_path / "plain.png", mark)
    check_outputs(tmp_path, {"a.png": mark}, ["net.pkl"])  # a companion of a picture of ours
    with pytest.raises(UserError, match=r"net\.pkl would be replaced"):
        check_outputs(tmp_path, {"new.png": mark}, ["net.pkl"])
