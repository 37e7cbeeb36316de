"""tools/convert.py: from each format to each, the record in each file, and equal pictures."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import generate
from dnnlib.errors import UserError
from dnnlib.files import file_sha256
from tests.support.small_networks import pixels
from tools import convert
from training.inference import export
from training.inference.files import load_networks, weights_sha256


@pytest.fixture
def small(exports: Any) -> Any:
    return exports.pkl


def draw(succeed: Any, network: Any, out: Any, *options: Any) -> Any:
    succeed(
        generate.main,
        "--network",
        network,
        "--seeds=0-2",
        "--class=1",
        "--trunc=0.7",
        "--grid=3x1",
        "--outdir",
        out,
        *options,
    )
    return pixels(out / "grid.png").astype(int)


def test_safetensors_and_back(small: Any, tmp_path: Path, succeed: Any) -> None:
    target, back = tmp_path / "deep" / "net.safetensors", tmp_path / "back.pkl"
    assert str(target) in succeed(convert.main, "--network", small, "--out", target)
    succeed(convert.main, "--network", target, "--out", back)
    assert {path.name for path in target.parent.iterdir()} == {"net.safetensors", "net.json"}
    original = draw(succeed, small, tmp_path / "a")
    assert np.array_equal(draw(succeed, target, tmp_path / "b"), original)
    assert np.array_equal(draw(succeed, back, tmp_path / "c"), original)
    first, second = load_networks(small), load_networks(back)
    for name in ("G", "D", "G_ema"):
        assert weights_sha256(first[name]) == weights_sha256(second[name])
    assert (first["info"], first["training_set_kwargs"]) == (second["info"], second["training_set_kwargs"])


def test_an_export_is_written_alone_and_checked(exports: Any) -> None:
    for suffix, target in exports.files.items():
        first, second = exports.printed[suffix].splitlines()
        assert first == f"{target}: takes z, c, psi, noise_b4_conv1, noise_b8_conv0, noise_b8_conv1"
        assert second.startswith("checked: pictures differ from the network's by ")
        assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_programs_of_torch_export_are_not_read(exports: Any, tmp_path: Path, complaint: Any) -> None:
    network = f"--network={exports.files['.pt2']}"
    for command, arguments in (
        (convert.main, ["--info"]),
        (convert.main, [f"--out={tmp_path / 'net.pkl'}"]),
        (generate.main, ["--seeds=0", "--class=0", f"--outdir={tmp_path / 'out'}"]),
    ):
        assert "is an export (torch.export)" in complaint(command, [network, *arguments])
    assert not list(tmp_path.iterdir())


def test_exports_draw_the_same_pictures(exports: Any, tmp_path: Path, succeed: Any, complaint: Any) -> None:
    target = exports.files[".onnx"]
    noise = "--noise-mode=random"
    one, other = (
        draw(succeed, exports.pkl, tmp_path / "a", noise),
        draw(succeed, target, tmp_path / "b", noise, "--batch=2"),
    )
    assert np.abs(one - other).max() <= 1

    about = json.loads(succeed(convert.main, "--network", target, "--json"))
    assert about["graph"] == {"psi": None, "noise": "external"}
    assert about["sha256"] == file_sha256(target)
    G = about["networks"]["G_ema"]
    assert (G["img_resolution"], G["c_dim"], G["num_ws"]) == (8, 3, 4)
    assert G["weights_sha256"] == weights_sha256(load_networks(exports.pkl)["G_ema"])
    assert about["info"]["kimg"] == 12.5
    assert "psi is an input, noise external" in succeed(convert.main, "--network", target, "--info")

    assert "no way back" in complaint(convert.main, ["--network", target, "--out", tmp_path / "back.pkl"])
    wrong = ["--network", target, "--seeds=0", "--outdir", tmp_path / "out"]
    assert "give --noise-mode=random or none" in complaint(generate.main, [*wrong, "--class=0"])
    assert "those run on the CPU here" in complaint(generate.main, [*wrong, "--class=0", "--device=cuda"])
    assert not (tmp_path / "out").exists()


def test_info(small: Any, succeed: Any) -> None:
    networks = load_networks(small)
    printed = succeed(convert.main, "--network", small, "--info")
    parameters = sum(p.numel() for p in networks["G"].parameters())
    for expected in (
        "network pickle",
        f"{small.stat().st_size:,}",
        file_sha256(small),
        "12.5",
        "images.zip",
        f"Generator, 8x8, channels 1, z_dim 8, w_dim 8, c_dim 3, num_ws 4, {parameters:,} parameters",
        f"weights' SHA-256 {weights_sha256(networks['D'])}",
        "augment_pipe  none",
    ):
        assert expected in printed
    about = json.loads(succeed(convert.main, "--network", small, "--json"))
    assert about["networks"]["G_ema"]["init_kwargs"] == networks["G_ema"].init_kwargs
    assert about["networks"]["D"]["parameters"] == sum(p.numel() for p in networks["D"].parameters())
    assert about["info"]["config"] == {"name": "test", "metrics": ["fid"]}
    assert about["networks"]["augment_pipe"] is None


def test_a_failed_check_leaves_nothing(
    small: Any, tmp_path: Path, complaint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise UserError("it draws other pictures")

    monkeypatch.setattr(export, "export", fail)
    assert "draws other pictures" in complaint(
        convert.main, ["--network", small, "--out", tmp_path / "deep" / "net.pt2"]
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give --out=FILE to convert, or --info"),
        (["--out={tmp}/net.ts"], "write a program of torch.export"),
        (["--out={tmp}/net.h5"], "must be one of .pkl .safetensors .onnx .pt2"),
        (["--out={tmp}/net"], "must be one of"),
        (["--out={tmp}/net.safetensors", "--trunc=0.7"], "no effect on .safetensors"),
        (["--out={tmp}/net.pkl", "--noise=external"], "no effect on .pkl"),
        (["--out={tmp}/net.onnx", "--trunc=x"], "not a finite number"),
        (["--out={tmp}/net.onnx", "--noise=loud"], "--noise"),
        (["--network=none.pkl", "--info"], "'none.pkl' does not exist"),
        (["--network={tmp}/text.pkl", "--info"], "not a network pickle"),
        (["--network={tmp}/text.onnx", "--info"], "is a text file"),
        (["--network={tmp}/text.pt2", "--info"], "is an export (torch.export)"),
        (["--network={tmp}/text.safetensors", "--info"], "is two files"),
        (["--network={tmp}/text.onnx", "--out={tmp}/a.pkl"], "no way back"),
        (["--network={tmp}/text.pkl", "--out={tmp}/../{name}/text.pkl"], "is the network itself"),
    ],
)
def test_wrong_options(small: Any, tmp_path: Path, complaint: Any, args: Any, message: Any) -> None:
    texts = {f"text{suffix}" for suffix in (".pkl", ".onnx", ".pt2", ".safetensors")}
    for name in texts:
        (tmp_path / name).write_text("hello")
    assert message in complaint(
        convert.main, ["--network", small, *(arg.format(tmp=tmp_path, name=tmp_path.name) for arg in args)]
    )
    assert {path.name for path in tmp_path.iterdir()} == texts


@pytest.mark.parametrize(
    ("module", "suffix"), [("safetensors.torch", ".safetensors"), ("onnxruntime", ".onnx")]
)
def test_missing_packages(
    small: Any, tmp_path: Path, complaint: Any, monkeypatch: pytest.MonkeyPatch, module: Any, suffix: Any
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install -e '.[export]'" in complaint(
        convert.main, ["--network", small, "--out", tmp_path / f"net{suffix}"]
    )
    assert not list(tmp_path.iterdir())
