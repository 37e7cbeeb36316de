"""generate.py: pictures from seeds and from projected latents, grids, wrong options."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import generate
from tests.support.small_networks import pixels, small_generator, write_network
from torch_utils.persistence import load_network_pkl, save_network_pkl
from torch_utils.pixels import to_uint8
from torch_utils.seeding import seed_everything

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def pkl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_network(tmp_path_factory.mktemp("net") / "plain.pkl")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_network(tmp_path_factory.mktemp("net") / "conditional.pkl", c_dim=3, channels=1)


def invoke(*args: Any) -> Any:
    return CliRunner().invoke(generate.main, [str(arg) for arg in args])


def succeed(*args: Any) -> Any:
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.output


def drawn(G: Any, seed: Any, **kwargs: Any) -> Any:
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
    return to_uint8(G(z, None, **kwargs))[0].permute(1, 2, 0).numpy()


def test_seeds_as_a_subprocess(pkl: Any, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    command = [
        sys.executable,
        "generate.py",
        f"--network={pkl}",
        "--seeds=1,3-4",
        "--trunc=0.5",
        f"--outdir={out}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"3 images in {out}\n"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["Ops", "Host memory"]
    assert sorted(p.name for p in out.iterdir()) == ["seed0001.png", "seed0003.png", "seed0004.png"]
    expected = drawn(load_network_pkl(pkl)["G_ema"], 3, truncation_psi=0.5, noise_mode="const")
    assert np.abs(pixels(out / "seed0003.png").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_a_seed_gives_the_same_picture_whatever_the_batch(pkl: Any, tmp_path: Path, noise_mode: Any) -> None:
    G = load_network_pkl(pkl)["G_ema"]
    for batch in (1, 3, 16):
        succeed(
            "--network",
            pkl,
            "--seeds=5-9",
            f"--noise-mode={noise_mode}",
            f"--batch={batch}",
            "--outdir",
            tmp_path / str(batch),
        )
    succeed("--network", pkl, "--seeds=7", f"--noise-mode={noise_mode}", "--outdir", tmp_path / "alone")
    seed_everything(7, "noise")
    expected = drawn(G, 7, noise_mode=noise_mode)
    for folder in ("alone", "1", "3", "16"):
        assert np.array_equal(pixels(tmp_path / folder / "seed0007.png"), expected)
    assert not np.array_equal(pixels(tmp_path / "3" / "seed0006.png"), expected)


def test_a_diverged_network_gives_no_black_pictures(tmp_path: Path) -> None:
    G: Any = small_generator()
    G.synthesis.b8.conv1.weight.data.fill_(float("nan"))
    save_network_pkl(tmp_path / "net.pkl", G=None, D=None, G_ema=G)
    np.savez(tmp_path / "w.npz", w=np.zeros([1, G.num_ws, G.w_dim], np.float32))
    for source in ("--seeds=1-3", f"--projected-w={tmp_path / 'w.npz'}"):
        result = invoke("--network", tmp_path / "net.pkl", source, "--outdir", tmp_path / "out")
        assert (
            result.exit_code,
            "not finite (NaN or infinity): the training has diverged" in result.output,
        ) == (1, True)
        assert not list((tmp_path / "out").glob("*"))


def test_random_noise_differs_from_the_stored_noise(pkl: Any, tmp_path: Path) -> None:
    for mode in ("const", "random", "none"):
        succeed("--network", pkl, "--seeds=0", f"--noise-mode={mode}", "--outdir", tmp_path / mode)
    pictures = {pixels(tmp_path / mode / "seed0000.png").tobytes() for mode in ("const", "random", "none")}
    assert len(pictures) == 3


def test_classes_and_greyscale(conditional: Any, tmp_path: Path) -> None:
    for label in (0, 2):
        succeed("--network", conditional, "--seeds=0", f"--class={label}", "--outdir", tmp_path / str(label))
    first, second = (pixels(tmp_path / str(label) / "seed0000.png") for label in (0, 2))
    assert first.shape == (16, 16)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_one_picture_and_the_rest_of_it_black(tmp_path: Path, channels: Any) -> None:
    network = write_network(tmp_path / "net.pkl", channels=channels)
    out = tmp_path / "grid"
    assert f"5 images in {out / 'grid.png'}" in succeed(
        "--network", network, "--seeds=0-4", "--grid=3x2", "--outdir", out
    )
    succeed("--network", network, "--seeds=0-4", "--outdir", tmp_path / "single")
    assert [path.name for path in out.iterdir()] == ["grid.png"]
    grid = pixels(out / "grid.png")
    assert grid.shape[:2] == (32, 48)
    assert np.array_equal(grid[16:, 16:32], pixels(tmp_path / "single" / "seed0004.png"))
    assert np.array_equal(grid[:16, 32:], pixels(tmp_path / "single" / "seed0002.png"))
    assert not grid[16:, 32:].any()


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("shape", [(1, 6, 8), (6, 8)])
def test_projected_w_of_each_form(pkl: Any, tmp_path: Path, suffix: Any, shape: Any) -> None:
    ws = np.random.RandomState(0).randn(*shape)
    (np.save if suffix == "npy" else lambda path, w: np.savez(path, w=w))(tmp_path / f"w.{suffix}", ws)
    succeed("--network", pkl, "--projected-w", tmp_path / f"w.{suffix}", "--outdir", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("precision", [torch.float16, torch.float64])
def test_networks_of_another_precision_draw(tmp_path: Path, precision: Any) -> None:
    G = small_generator(8).to(precision)
    save_network_pkl(tmp_path / "net.pkl", G=None, D=None, G_ema=G)
    succeed("--network", tmp_path / "net.pkl", "--seeds=0", "--outdir", tmp_path / "out")
    found = pixels(tmp_path / "out" / "seed0000.png")
    save_network_pkl(tmp_path / "net.pkl", G=None, D=None, G_ema=G.float())
    succeed("--network", tmp_path / "net.pkl", "--seeds=0", "--outdir", tmp_path / "same")
    np.testing.assert_array_equal(pixels(tmp_path / "same" / "seed0000.png"), found)


def test_projected_w(pkl: Any, tmp_path: Path) -> None:
    G = load_network_pkl(pkl)["G_ema"]
    ws = G.mapping(torch.randn([2, 8]), None)
    np.savez(tmp_path / "projected_w.npz", w=ws.numpy())
    succeed("--network", pkl, "--projected-w", tmp_path / "projected_w.npz", "--outdir", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["proj00.png", "proj01.png"]
    expected = to_uint8(G.synthesis(ws[1:], noise_mode="const"))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(tmp_path / "out" / "proj01.png"), expected)
    for batch in (1, 2):
        args = ("--noise-mode=random", f"--batch={batch}", "--outdir", tmp_path / str(batch))
        succeed("--network", pkl, "--projected-w", tmp_path / "projected_w.npz", *args)
    assert np.array_equal(pixels(tmp_path / "1" / "proj01.png"), pixels(tmp_path / "2" / "proj01.png"))


def test_ctrl_c_leaves_whole_files_only(pkl: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "generate.py", f"--network={pkl}", "--seeds=0-99999", f"--outdir={out}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (out / "seed0009.png").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    names = os.listdir(out)
    assert 10 <= len(names) < 100_000
    for name in names:
        assert name.startswith("seed")
        assert pixels(out / name).shape == (16, 16, 3)


WRONG = [
    (["--seeds=0"], "--network"),
    (["--network=none.pkl", "--seeds=0"], "'none.pkl' does not exist"),
    (["--network=none.onnx", "--seeds=0"], "'none.onnx' does not exist"),
    (["--network=none.safetensors", "--seeds=0"], "'none.safetensors' does not exist"),
    (["--network=https://localhost:1/net.pkl", "--seeds=0", "--offline"], "--offline"),
    (["--network={pkl}"], "give either --seeds or --projected-w"),
    (["--network={pkl}", "--seeds=0", "--projected-w=a.npz"], "give either --seeds or --projected-w"),
    (["--network={pkl}", "--seeds=a"], "not a list of numbers"),
    (["--network={pkl}", "--seeds="], "not a list of numbers"),
    (["--network={pkl}", "--seeds=9-5"], "runs backwards"),
    (["--network={pkl}", "--seeds=0-99999999999"], "more than 1000000 numbers"),
    (["--network={pkl}", "--seeds=4294967296"], "below 4294967296"),
    (["--network={pkl}", "--seeds=0", "--class=1"], "unconditional"),
    (["--network={conditional}", "--seeds=0"], "choose a class with --class (0 to 2)"),
    (["--network={conditional}", "--seeds=0", "--class=3"], "classes 0 to 2"),
    (["--network={pkl}", "--seeds=0", "--noise-mode=loud"], "loud"),
    (["--network={pkl}", "--seeds=0", "--trunc=nan"], "'nan' is not a finite number"),
    (["--network={pkl}", "--seeds=0", "--trunc=half"], "'half' is not a finite number"),
    (["--network={pkl}", "--seeds=0", "--batch=0"], "--batch"),
    (["--network={pkl}", "--seeds=0", "--grid=5"], "such as 5x4"),
    (["--network={pkl}", "--seeds=0", "--grid=0x4"], "such as 5x4"),
    (["--network={pkl}", "--seeds=0", "--trunc=1e300"], "too large a number"),
    (["--network={pkl}", "--seeds=0", "--grid=99999999999x99999999999"], "pixels, more than"),
    (["--network={pkl}", "--seeds=0", "--grid=" + "9" * 5000 + "x1"], "such as 5x4"),
    (["--network=" + "a" * 5000, "--seeds=0"], "can't be a path"),
    (["--network=http://[::1/x", "--seeds=0"], "is no valid address"),
    (["--network={pkl}", "--seeds=0-4", "--grid=2x2"], "room for 4 pictures, but 5"),
    (["--network={pkl}", "--projected-w=none.npz"], "does not exist"),
    (["--network={pkl}", "--projected-w={text}"], "is a text file"),
    (["--network={pkl}", "--projected-w={blank}"], "is empty"),
    (["--network={pkl}", "--projected-w={wrong_name}"], "no array named 'w'"),
    (["--network={pkl}", "--projected-w={wrong_shape}"], "needs [N, 6, 8]"),
    (["--network={pkl}", "--projected-w={empty}"], "needs [N, 6, 8]"),
    (["--network={pkl}", "--projected-w={nan}"], "values that are not finite"),
    (["--network={pkl}", "--projected-w={empty}", "--trunc=0.5"], "no effect with --projected-w"),
    (["--network={pkl}", "--projected-w={empty}", "--class=0"], "no effect with --projected-w"),
    (["--network={text}", "--seeds=0"], "not a network pickle"),
    (["--network={empty}", "--seeds=0"], "archive of numpy arrays"),
]


@pytest.mark.parametrize(("args", "message"), WRONG)
def test_wrong_options_get_one_line_and_leave_nothing(
    args: Any, message: Any, pkl: Any, conditional: Any, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "blank.npz").touch()
    np.savez(tmp_path / "name.npz", v=np.zeros(3))
    np.savez(tmp_path / "shape.npz", w=np.zeros([1, 4, 8]))
    np.savez(tmp_path / "empty.npz", w=np.zeros([0, 6, 8]))
    np.savez(tmp_path / "nan.npz", w=np.full([1, 6, 8], np.nan))
    names = dict(text="text", blank="blank.npz", wrong_name="name.npz", wrong_shape="shape.npz")
    names.update(empty="empty.npz", nan="nan.npz")
    paths = {name: tmp_path / file for name, file in names.items()}
    result = invoke(
        *[arg.format(pkl=pkl, conditional=conditional, **paths) for arg in args], "--outdir", tmp_path / "out"
    )
    assert result.exit_code != 0
    error = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_an_outdir_that_cannot_be_made(pkl: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("--network", pkl, "--seeds=0", "--outdir", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert (
        f"cannot write to the folder --outdir={tmp_path / 'file' / 'out'}: Not a directory" in result.output
    )


def test_an_outdir_that_cannot_be_written(pkl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = invoke("--network", pkl, "--seeds=0", "--outdir", tmp_path)
    assert result.exit_code == 1
    assert f"cannot write to the folder --outdir={tmp_path}: Permission denied" in result.output


@pytest.mark.parametrize(("name", "options"), [("seed0000.png", []), ("grid.png", ["--grid=1x1"])])
def test_a_picture_that_cannot_be_written(pkl: Any, tmp_path: Path, name: Any, options: Any) -> None:
    (tmp_path / name).mkdir()
    result = invoke("--network", pkl, "--seeds=0", "--outdir", tmp_path, *options)
    assert result.exit_code == 1
    assert f"Error: cannot write {tmp_path / name} (Is a directory)" in result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
