"""The benchmarks of training, generation and loading run at tiny sizes and report what they measure."""

import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from benchmarks import agreement, checkpoint, dataloader, generate, profile_step, train_step
from benchmarks.roofline import LARGE, ConvolutionWork, convolutions, rate
from torch_utils.ops.convolution import conv2d, conv_transpose2d

SETTINGS: dict[str, Any] = dict(resolution=16, cbase=64, cmax=8, map_depth=1, batch=2)
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_work_of_a_convolution_and_its_gradients(transposed: bool) -> None:
    x = torch.rand([2, 4, 8, 8], requires_grad=True)
    w = torch.rand([4, 5, 3, 3] if transposed else [5, 4, 3, 3], requires_grad=True)
    once = 2 * (2 * 4 * 5 * 9 * 8 * 8)
    with ConvolutionWork() as work:
        y = (conv_transpose2d if transposed else conv2d)(x, w, padding=(1, 1))
        assert work.operations == once
        y.sum().backward()
    assert work.operations == 3 * once
    with ConvolutionWork() as work:
        F.conv2d(x, torch.rand([4, 1, 3, 3]), groups=4)
    assert work.operations == 0, "filters do not count"


def test_a_step_needs_a_generator_s_work_at_least_and_guidance_adds_little() -> None:
    shared = {**SETTINGS, "cfg": "auto", "aug": "fixed", "p": 0.3, "batch_gpu": 2}
    none = train_step.convolution_work(train_step.described(**shared))
    ggdr = train_step.convolution_work(train_step.described(**shared, reg_type="ggdr", ggdr_res=8))
    assert none < ggdr < 1.1 * none


def test_rates_and_ratios() -> None:
    assert set(convolutions(1)) == {f"{channels}x{size}x{size}" for channels, size in LARGE}
    reached = rate(1, 2.0)
    assert reached == sum(channels**2 * size**2 * 9 for channels, size in LARGE)

    def variant(scale: float, peak: float) -> Any:
        seconds = {"G_main": 4 * scale, "G_reg": 4 * scale, "D_main": 4 * scale, "D_reg": 16 * scale}
        return SimpleNamespace(seconds=seconds, peak=peak, resident=100.0, lines=[])

    roofline = SimpleNamespace(seconds={"convolutions": 2.0})
    variants = {
        "none": variant(1, 300),
        "ggdr": variant(1.1, 300),
        "bf16": variant(0.5, 200),
        "plain": variant(2, 500),
    }
    variants["roofline"] = roofline
    config = train_step.described(**SETTINGS, cfg="auto", batch_gpu=2)
    found = train_step.evaluate(variants, config, rate(2, 1.0))
    assert found["variants"]["none"]["seconds_of_step"] == pytest.approx(4 + 1 + 4 + 1)
    assert found["variants"]["none"]["images_per_second"] == pytest.approx(0.2)
    assert found["train_fp32_roofline"] == pytest.approx(2 / 11 * 2)
    assert found["train_bf16_over_fp32"] == pytest.approx(2.2)
    assert found["ggdr_overhead"] == pytest.approx(0.1)
    assert found["peak_rss_ratio"] == pytest.approx(0.6)
    assert found["peak_above_start_ratio"] == pytest.approx(0.5)
    assert "train_fp32_roofline 0.364" in train_step.report(found)


def test_operators_are_grouped_and_memory_is_summed_in_the_order_of_time() -> None:
    names = {
        "aten::mkldnn_convolution": "convolutions",
        "ggdr::bias_act_grad": "bias_act",
        "GeneratedBackwardFor_ggdr_upfirdn2d": "upfirdn2d",
        "aten::_fused_adam_": "Adam",
        "aten::mm": "matrix products",
        "aten::mul": "element-wise and the rest",
        "aten::copy_": "copies",
    }
    assert {name: profile_step.group_of(name) for name in names} == names

    def event(start: int, size: int, name: str = "[memory]") -> Any:
        return SimpleNamespace(name=lambda: name, start_ns=lambda: start, nbytes=lambda: size)

    assert (
        profile_step.live_peak(
            [event(3, -5), event(1, 5), event(2, 4), event(2, 100, "aten::mul"), event(4, 3)]
        )
        == 9
    )


def test_loading(tmp_path: Any) -> None:
    file = tmp_path / "found.json"
    options = [
        "--resolution=16",
        "--images=8",
        "--batch=2",
        "--workers=0,1",
        "--seconds=0.1",
        "--train-rate=2",
        f"--json={file}",
    ]
    result = CliRunner().invoke(dataloader.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert set(found["images_per_second"]) == {
        f"{kind}, {n} workers" for kind in ("zip", "folder") for n in (0, 1)
    } | {"in memory"}
    for name, speed in found["images_per_second"].items():
        assert found["times_train_rate"][name] == pytest.approx(speed / 2)


def test_the_cost_of_a_checkpoint(tmp_path: Any) -> None:
    file = tmp_path / "found.json"
    options = ["--cfg=cifar", "--resolution=16", "--rounds=1", "--device=cpu", f"--folder={tmp_path}"]
    result = CliRunner().invoke(checkpoint.main, [*options, f"--json={file}"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert found["share"] == found["median_seconds"] / (found["interval_minutes"] * 60)
    assert found["megabytes"] > 1


def test_plain_ops_train_like_themselves() -> None:
    options = dict(reg_type="ggdr", ggdr_res=8, batch=4, batch_gpu=4, cbase=64, cmax=8, seed=0, device="cpu")
    data = str(agreement.ROOT / "data" / "emoji32.zip")
    first, second = (
        agreement.losses("ref", data, 2, {**options, "metrics": (), "workers": 0}) for _ in range(2)
    )
    assert first == second
    assert {len(values) for values in first.values()} == {2}


@pytest.mark.slow
def test_a_whole_measurement_of_training(tmp_path: Any) -> None:
    file = tmp_path / "found.json"
    options = [*OPTIONS, "--ggdr_res=8", "--repeats=1", "--threads=1", f"--json={file}"]
    result = CliRunner().invoke(train_step.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert {"none", "ggdr", "plain"} <= set(found["variants"])
    assert found["variants"]["plain"]["paths"][0] == "Ops: plain PyTorch (as asked for)"
    assert found["variants"]["ggdr"]["paths"][0].startswith("Ops: compiled for cpu")
    assert found["train_fp32_roofline"] > 0
    assert found["settings"]["resolution"] == 16


def measured_apart(benchmark: ModuleType, folder: Any, *options: str) -> Any:
    """What a benchmark writes, in a process of its own: it sets the process's ops and threads."""
    file = folder / "found.json"
    command = [sys.executable, str(benchmark.__file__), *OPTIONS, *options, f"--json={file}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(file.read_text())


@pytest.mark.slow
def test_a_whole_measurement_of_generation(tmp_path: Any) -> None:
    found = measured_apart(generate, tmp_path, "--repeats=1", "--threads=1")
    assert {"float32", "float32, plain"} <= set(found["variants"])
    assert found["generate_fp32_roofline"] == found["variants"]["float32"]["roofline"] > 0


@pytest.mark.slow
def test_a_whole_profile(tmp_path: Any) -> None:
    found = measured_apart(profile_step, tmp_path, "--ggdr_res=8", "--ops=ref")
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert min(found["live_mib"].values()) > 0
