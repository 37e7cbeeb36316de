"""tools/doctor.py: what it finds, what it advises, and its exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import torch_utils.ops.bias_act as bias_act_module
from tools import doctor
from torch_utils.ops import dispatch

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No mode, no library, an empty cache."""
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    with dispatch.fresh_state():
        yield


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status and findings by name."""
    result = CliRunner().invoke(doctor.main, [*arguments, "--json"])
    report = json.loads(result.output)
    assert report["works"] == (result.exit_code == 0)
    return result.exit_code, {finding["name"]: finding for finding in report["findings"]}


def test_plain_pytorch_needs_nothing() -> None:
    status, found = findings("--ops=ref", "--device=cpu")
    assert status == 0
    assert {"python", "torch", "cuda", "driver", "compiler", "ninja", "nvcc", "cache", "ops"} <= set(found)
    assert found["ops"]["state"] == "plain PyTorch (as asked for)"
    assert found["upfirdn2d up 2"]["state"] == "plain PyTorch, agrees to 0e+00"
    assert {name for name in found if name.startswith("bias_act")} == {
        f"bias_act {act}" for act in bias_act_module.ACTIVATIONS
    }


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, found = findings("--ops=auto", "--device=cpu")
    assert status == 0
    assert "no C++ compiler" in found["compiler"]["fault"]
    assert found["compiler"]["remedy"].startswith("install one")
    assert found["ops"]["fault"] == "compiled ops cannot be had"
    with dispatch.fresh_state():
        status, found = findings("--ops=native", "--device=cpu")
    assert status == 1
    assert found["ops"]["needed"]
    assert "no C++ compiler" in found["ops"]["fault"]


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGDR_CACHE_DIR", "/dev/null/cache")
    assert "/dev/null cannot be written" in findings("--ops=ref")[1]["cache"]["fault"]


def test_an_op_that_gives_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_act_module, "use_native", lambda op, impl, x, *args, **options: impl == "auto")
    monkeypatch.setattr("torch_utils.ops.native.bias_act", lambda x, *args: x * 1.1)
    status, found = findings("--ops=ref")
    assert status == 1
    assert "differs from plain PyTorch" in found["bias_act lrelu"]["fault"]
    assert found["upfirdn2d up 2"]["fault"] is None


@pytest.mark.parametrize("where", ["forward", "gradient", "half precision"])
def test_values_that_are_not_numbers_are_faults(monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            bad = where == "forward" or (where == "half precision" and x.dtype != torch.float32)
            return x * float("nan") if bad else x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * float("nan") if where == "gradient" else gradient.clone()

    def spoilt(x: Any, b: Any, dim: Any, act: Any, *args: Any) -> Any:
        alpha, gain, clamp = args
        return Spoilt.apply(bias_act_module.bias_act(x, b, dim, act, alpha, gain, clamp, impl="ref"))

    monkeypatch.setattr(bias_act_module, "use_native", lambda op, impl, x, *args, **options: impl == "auto")
    monkeypatch.setattr("torch_utils.ops.native.bias_act", spoilt)
    status, found = findings("--ops=ref")
    assert status == 1
    assert "differs from plain PyTorch by nan" in found["bias_act lrelu"]["fault"]
    assert ("bfloat16" in found["bias_act lrelu"]["fault"]) == (where == "half precision")


def test_an_op_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(bias_act_module, "use_native", lambda op, impl, x, *args, **options: impl == "auto")
    monkeypatch.setattr("torch_utils.ops.native.bias_act", fail)
    status, found = findings("--ops=ref")
    assert status == 1
    assert found["bias_act tanh"]["fault"] == "no kernel image is available"


def test_as_people_run_it() -> None:
    command = [sys.executable, "tools/doctor.py", "--ops=ref", "--device=cpu"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=os.environ, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "ok  ops" in result.stdout
    assert (
        "--device=cuda" in CliRunner().invoke(doctor.main, ["--device=cuda"]).output
        or torch.cuda.is_available()
    )


@pytest.mark.usefixtures("unusable_gpu")
def test_a_gpu_that_pytorch_cannot_use() -> None:
    status, found = findings("--ops=ref")
    assert status == 1
    assert "cannot use" in found["driver"]["fault"]
    assert "newer driver" in found["driver"]["remedy"]
    assert "ops" not in found
