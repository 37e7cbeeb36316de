"""generate.py as a subprocess and in process: pictures from seeds and from projected latents, wrong options."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import generate
from torch_utils.persistence import load_network_pkl, save_network_pkl
from training.images import to_uint8
from training.networks import Discriminator, Generator

ROOT = Path(__file__).resolve().parent.parent.parent


def network(path, c_dim=0, channels=3):
    torch.manual_seed(0)
    G = Generator(8, c_dim, 8, 16, channels, {"num_layers": 2}, {"channel_base": 128, "channel_max": 8})
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
    G.mapping.w_avg.normal_()
    save_network_pkl(path, G=G, D=Discriminator(c_dim, 16, channels, channel_base=128, channel_max=8), G_ema=G)
    return path


@pytest.fixture(scope="module")
def pkl(tmp_path_factory):
    return network(tmp_path_factory.mktemp("net") / "plain.pkl")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return network(tmp_path_factory.mktemp("net") / "conditional.pkl", c_dim=3, channels=1)


def invoke(*args):
    return CliRunner().invoke(generate.main, [str(arg) for arg in args])


def pixels(path):
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def test_seeds_as_a_subprocess(pkl, tmp_path):
    out = tmp_path / "deep" / "out"
    command = [sys.executable, "generate.py", f"--network={pkl}", "--seeds=1,3-4", "--trunc=0.5", f"--outdir={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "3 images" in done.stdout
    assert done.stderr == ""
    assert sorted(p.name for p in out.iterdir()) == ["seed0001.png", "seed0003.png", "seed0004.png"]
    G = load_network_pkl(pkl)["G_ema"]
    z = torch.from_numpy(np.random.RandomState(3).randn(1, 8)).float()
    expected = to_uint8(G(z, None, truncation_psi=0.5, noise_mode="const"))[0].permute(1, 2, 0).numpy()
    assert np.abs(pixels(out / "seed0003.png").astype(int) - expected).max() <= 1


def test_a_seed_gives_the_same_picture_alone_and_among_others(pkl, tmp_path):
    for name, seeds in (("one", "7"), ("many", "5-9")):
        assert invoke("--network", pkl, "--seeds", seeds, "--noise-mode=random", "--outdir", tmp_path / name).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "one" / "seed0007.png"), pixels(tmp_path / "many" / "seed0007.png"))
    assert not np.array_equal(pixels(tmp_path / "many" / "seed0006.png"), pixels(tmp_path / "many" / "seed0007.png"))


def test_classes_and_greyscale(conditional, tmp_path):
    for label in (0, 2):
        result = invoke("--network", conditional, "--seeds=0", f"--class={label}", "--outdir", tmp_path / str(label))
        assert result.exit_code == 0, result.output
    first, second = (pixels(tmp_path / str(label) / "seed0000.png") for label in (0, 2))
    assert first.shape == (16, 16)
    assert not np.array_equal(first, second)


def test_projected_w(pkl, tmp_path):
    G = load_network_pkl(pkl)["G_ema"]
    ws = G.mapping(torch.randn([2, 8]), None)
    np.savez(tmp_path / "projected_w.npz", w=ws.numpy())
    result = invoke("--network", pkl, "--projected-w", tmp_path / "projected_w.npz", "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["proj00.png", "proj01.png"]
    expected = to_uint8(G.synthesis(ws[1:], noise_mode="const"))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(tmp_path / "out" / "proj01.png"), expected)


WRONG = [
    (["--seeds=0"], "--network"),
    (["--network=none.pkl", "--seeds=0"], "none.pkl does not exist"),
    (["--network={pkl}"], "give either --seeds or --projected-w"),
    (["--network={pkl}", "--seeds=0", "--projected-w=a.npz"], "give either --seeds or --projected-w"),
    (["--network={pkl}", "--seeds=a"], "not a list of numbers"),
    (["--network={pkl}", "--seeds=9-5"], "runs backwards"),
    (["--network={pkl}", "--seeds=99999999999"], "below 4294967296"),
    (["--network={pkl}", "--seeds=0", "--class=1"], "unconditional"),
    (["--network={conditional}", "--seeds=0"], "choose a class with --class (0 to 2)"),
    (["--network={conditional}", "--seeds=0", "--class=3"], "classes 0 to 2"),
    (["--network={pkl}", "--seeds=0", "--noise-mode=loud"], "loud"),
    (["--network={pkl}", "--projected-w=none.npz"], "does not exist"),
    (["--network={pkl}", "--projected-w={text}"], "is not an .npz file"),
    (["--network={pkl}", "--projected-w={wrong_name}"], "no array named 'w'"),
    (["--network={pkl}", "--projected-w={wrong_shape}"], "needs [N, 6, 8]"),
    (["--network={text}", "--seeds=0"], "not a network pickle"),
]


@pytest.mark.parametrize(("args", "message"), WRONG)
def test_wrong_options_get_one_line_and_leave_nothing(args, message, pkl, conditional, tmp_path):
    (tmp_path / "text").write_text("hello")
    np.savez(tmp_path / "name.npz", v=np.zeros(3))
    np.savez(tmp_path / "shape.npz", w=np.zeros([1, 4, 8]))
    names = dict(
        pkl=pkl, conditional=conditional, text=tmp_path / "text", wrong_name=tmp_path / "name.npz", wrong_shape=tmp_path / "shape.npz"
    )
    result = invoke(*[arg.format(**names) for arg in args], "--outdir", tmp_path / "out")
    assert result.exit_code != 0
    error = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_an_outdir_that_cannot_be_made(pkl, tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke("--network", pkl, "--seeds=0", "--outdir", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "cannot make the folder" in result.output
