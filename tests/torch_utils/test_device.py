"""What a command line prepares before it computes."""

import os
import platform
from collections.abc import Iterator
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from dnnlib.cli import Command, host_memory_option, ops_option
from dnnlib.errors import UserError
from torch_utils import device, host_memory
from torch_utils.ops import dispatch


def precisions() -> Any:
    """All that PyTorch says of float32's precision; None where its two interfaces contradict each other."""
    b = torch.backends
    newer = [
        part.fp32_precision
        for part in (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv)
    ]
    older = []
    for read in (
        lambda: b.cuda.matmul.allow_tf32,
        lambda: b.cudnn.allow_tf32,
        torch.get_float32_matmul_precision,
    ):
        try:
            older.append(read())
        except RuntimeError:
            older.append(None)
    return newer, older


@pytest.fixture
def restored_precisions() -> Any:
    """What a test does to them ends with it."""
    with device.full_float32():
        yield


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Options may set variables and the mode; neither outlives a test."""
    monkeypatch.setenv("GGDR_OPS", "ref")
    monkeypatch.setenv("GGDR_HOST_MEMORY", "keep")
    with dispatch.using_mode(None):
        yield


def test_the_cpu_gets_a_line_for_ops_and_one_for_memory(capsys: pytest.CaptureFixture[str]) -> None:
    where, lines = device.prepare_device("cpu")
    assert where == torch.device("cpu")
    assert lines[0] == "Ops: plain PyTorch (as asked for)"
    assert lines[1].startswith("Host memory: ")
    assert device.announce_device("cpu") == where
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == lines


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_kept_unless_the_system_shall_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_memory.keep_freed_memory() == "Host memory: freed blocks are kept for reuse (glibc mallopt)"
    monkeypatch.setenv("GGDR_HOST_MEMORY", "system")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("the allocator was touched"))
    assert (
        host_memory.keep_freed_memory() == "Host memory: system allocator as it is (GGDR_HOST_MEMORY=system)"
    )


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert "no glibc" in host_memory.keep_freed_memory()


@click.command(cls=Command)
@ops_option
@host_memory_option
def command() -> None:
    click.echo(f"{os.environ['GGDR_OPS']} {os.environ['GGDR_HOST_MEMORY']}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "ref keep"),
        (["--ops=native"], "native keep"),
        (["--host_memory=system", "--ops=auto"], "auto system"),
    ],
)
def test_the_options_set_what_the_process_and_its_children_read(arguments: Any, expected: Any) -> None:
    assert CliRunner().invoke(command, arguments).output.strip() == expected


def test_an_unknown_path_is_refused() -> None:
    result = CliRunner().invoke(command, ["--ops=fast"])
    assert result.exit_code == 2
    assert "'fast' is not one of 'auto', 'native', 'ref'" in result.output


@pytest.mark.parametrize(
    ("capabilities", "library", "there"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, True, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True, True),
        (
            {
                "avx512_f": True,
                "avx512_bw": True,
                "avx512_vnni": True,
                "avx512_bf16": False,
                "amx_bf16": False,
            },
            True,
            False,
        ),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, True, False),
        ({"avx512_bf16": True}, False, False),
        ({}, True, False),
    ],
    ids=["Zen 4", "AMX", "Arm", "emulated on AVX-512", "older Arm", "library without", "unknown"],
)
def test_bfloat16_needs_a_processor_that_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: Any, library: Any, there: Any
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library, raising=False)
    assert device.has_bfloat16(torch.device("cpu")) == there
    if there:
        device.check_bfloat16(torch.device("cpu"))
        return
    with pytest.raises(
        UserError,
        match=r"--precision=bf16 needs a processor with instructions for bfloat16.*use --precision=auto",
    ):
        device.check_bfloat16(torch.device("cpu"))


def test_bfloat16_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match="needs a GPU from Ampere on"):
        device.check_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize("allowed", [False, True])
def test_full_float32_whatever_was_allowed(restored_precisions: Any, allowed: Any) -> None:
    device.allow_tf32(allowed=allowed)
    before = precisions()
    assert before[1] == [allowed, allowed, "high" if allowed else "highest"]
    with device.full_float32():
        assert precisions() == (["ieee"] * 5, [False, False, "highest"])
    assert precisions() == before


def test_full_float32_where_pytorchs_interfaces_contradict_each_other(restored_precisions: Any) -> None:
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("medium")
    before = precisions()
    assert before[1][1] is None
    with device.full_float32():
        assert precisions() == (["ieee"] * 5, [False, False, "highest"])
    assert precisions() == before


def test_whatever_computes_begins_without_tf32(restored_precisions: Any) -> None:
    """PyTorch's default is to convolve in TF32."""
    device.allow_tf32(allowed=True)
    device.prepare_device("cpu")
    assert precisions()[1] == [False, False, "highest"]


@pytest.mark.usefixtures("unusable_gpu")
def test_a_gpu_that_pytorch_cannot_use_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"built for CUDA 13\.0\) cannot use.*newer driver.*--device=cpu"):
        device.pick_device("auto")
    assert device.pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.pick_device("auto") == torch.device("cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device.pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((8, 0), ["sm_75", "sm_80", "sm_90"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_90"], True),
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((10, 3), ["sm_90", "sm_100"], True),
        ((12, 0), ["sm_90", "sm_100"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_kernels_have_to_be_there_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: Any, built: Any, fits: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    if fits:
        device.check_architecture()
        return
    number = rf"{capability[0]}\.{capability[1]}"
    message = rf"no kernels for Some GPU \(compute capability {number}\), only for {' '.join(built)}; install"
    with pytest.raises(UserError, match=message):
        device.check_architecture()
