"""Report what this machine has and lacks for the compiled ops, and try each op.

Usage:

    python tools/doctor.py [--ops auto|native|ref] [--device cpu|cuda] [--json]

The exit status is 1 if the requested ops do not work.
"""

import functools
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import Command, friendly_errors
from dnnlib.environment import CACHE
from dnnlib.errors import UserError
from dnnlib.untrusted import one_line
from torch_utils.device import allow_tf32, check_architecture, pick_device
from torch_utils.native_build import MODES, prepare_native_ops
from torch_utils.ops import build, dispatch
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

#: ``op(x, impl)``: an op with all its other arguments.
Op = Callable[..., torch.Tensor]


@dataclass
class Finding:
    """One line of the report.

    Attributes:
        name: of the part of the machine or the op.
        state: what was found.
        fault: what is wrong, or None.
        remedy: what to do about the fault; empty without one.
        needed: whether the requested ops do not work because of the fault.
    """

    name: str
    state: str
    fault: str | None = None
    remedy: str = ""
    needed: bool = False


def check_versions() -> list[Finding]:
    """Python, PyTorch, its CUDA, the driver, GPUs and their architectures."""
    findings = [
        Finding("python", f"{platform.python_version()} at {sys.executable}"),
        Finding(
            "torch",
            f"{torch.__version__}, {torch.get_num_threads()} CPU threads, "
            f"{torch.backends.cpu.get_cpu_capability()}",
        ),
        Finding(
            "cuda", f"{torch.version.cuda}" if torch.version.cuda else "this PyTorch is built without CUDA"
        ),
    ]
    if not torch.cuda.is_available():
        try:
            pick_device("auto")
        except UserError as error:
            return [*findings, Finding("driver", "PyTorch finds no GPU", *_parts(error), needed=True)]
        return [*findings, Finding("driver", "PyTorch finds no GPU")]
    driver = Path("/proc/driver/nvidia/version")
    state = driver.read_text(encoding="utf-8").split("\n")[0] if driver.is_file() else "a GPU answers"
    gpus = [
        f"{torch.cuda.get_device_name(i)} (sm_{''.join(map(str, torch.cuda.get_device_capability(i)))})"
        for i in range(torch.cuda.device_count())
    ]
    try:
        check_architecture()
    except UserError as error:
        return [
            *findings,
            Finding("driver", state),
            Finding("gpus", ", ".join(gpus), *_parts(error), needed=True),
        ]
    return [*findings, Finding("driver", state), Finding("gpus", ", ".join(gpus))]


def _parts(error: UserError) -> tuple[str, str]:
    """Split a message into fault and remedy."""
    what, _, remedy = str(error).partition("; ")
    return what, remedy


def check_tools() -> list[Finding]:
    """Compiler, ninja and nvcc."""
    findings = []
    for name, find in {"compiler": build.find_compiler, "ninja": build.find_ninja}.items():
        try:
            path = find()
            findings.append(Finding(name, f"{build.version_line(path)} at {path}"))
        except build.BuildError as error:
            what, _, remedy = str(error).partition("; ")
            findings.append(Finding(name, "missing", what, remedy or "install it again"))
    nvcc = build.find_nvcc()
    if nvcc is None:
        state = "missing"
    else:
        try:
            state = f"CUDA {build.nvcc_version(nvcc)} at {nvcc}"
        except build.BuildError as error:
            state = str(error)
    # Without a GPU nothing needs nvcc.
    reason = build.reason_against_cuda() if torch.cuda.is_available() else None
    what, _, remedy = (reason or "").partition("; ")
    return [*findings, Finding("nvcc", state, what or None, remedy)]


def check_cache() -> Finding:
    """The folder of compiled ops."""
    try:
        folder = build.builds_folder()
    except build.BuildError as error:
        return Finding("cache", "none", str(error), f"set {CACHE} to a folder that can be written")
    builds = len(list(folder.glob(f"*/{build.NAME}.so"))) if folder.is_dir() else 0
    existing = next(path for path in [folder, *folder.parents] if path.exists())
    if not os.access(existing, os.W_OK) or not existing.is_dir():
        return Finding(
            "cache", str(folder), f"{existing} cannot be written", f"set {CACHE} to a folder that can"
        )
    return Finding("cache", f"{folder}, {builds} build{'s' if builds != 1 else ''}")


def check_path(mode: dispatch.Impl, device: str) -> Finding:
    """Build or load the ops, and report which implementation runs."""
    try:
        line = prepare_native_ops(mode, device, retry_failed=True)
    except UserError as error:
        return Finding("ops", "not available", str(error), "see above, or use --ops=auto", needed=True)
    fell_back = mode == "auto" and device not in dispatch.loaded_devices()
    remedy = (
        "plain PyTorch gives the same results, slower; the line says what is missing" if fell_back else ""
    )
    return Finding(
        "ops", line.removeprefix("Ops: "), "compiled ops cannot be had" if fell_back else None, remedy
    )


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over largest expected value; NaN where ``got`` has NaN."""
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def results(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """The output of an op, its gradient, and the derivatives of that, as R1 and path length take them."""
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    weights = (
        torch.cos(torch.arange(y.numel(), device=y.device) % 7).reshape(y.shape).to(y.dtype).requires_grad_()
    )
    (gradient,) = torch.autograd.grad((y * weights).sum(), leaf, create_graph=True)
    over = (weights, leaf)
    second = torch.autograd.grad(
        (gradient * torch.cos(leaf.detach())).sum(), over, allow_unused=True, materialize_grads=True
    )
    return [value.detach().float() for value in (y, gradient, *second)]


def sample_inputs(device: str) -> list[tuple[torch.Tensor, float]]:
    """Inputs for the ops with their tolerances: float32, and half precision in both memory layouts.

    No value is near 0 or near the clamp of 2, where rounding decides between two derivatives.
    """
    uniform, sign, large = torch.rand([3, 2, 8, 32, 32], generator=torch.Generator().manual_seed(0))
    x = (torch.where(large < 0.5, 0.2 + 0.3 * uniform, 2.5 + uniform) * (sign - 0.5).sign()).to(device)
    half, tolerance = (torch.float16, 1e-2) if device == "cuda" else (torch.bfloat16, 5e-2)
    return [(x, 1e-5), (x.to(half), tolerance), (x.to(half, memory_format=torch.channels_last), tolerance)]


def _filtered(x: torch.Tensor, impl: Any, *, f: torch.Tensor, options: Any) -> torch.Tensor:
    return upfirdn2d(x, f, impl=impl, **options)


def _activated(x: torch.Tensor, impl: Any, *, b: torch.Tensor, act: str) -> torch.Tensor:
    return bias_act(x, b.to(x.dtype), act=act, clamp=2.0, impl=impl)


def try_ops(device: str) -> list[Finding]:
    """Compare each op with plain PyTorch, with first and second derivatives, as ``auto`` runs it."""
    b, f = torch.linspace(-0.05, 0.05, 8, device=device), setup_filter([1, 3, 3, 1], device=device)
    filters: dict[str, dict[str, Any]] = {
        "up 2": {"up": 2, "padding": [2, 1, 2, 1]},
        "down 2": {"down": 2, "padding": 1},
        "filter": {"padding": [2, 1, 2, 1]},
    }
    ops: dict[str, Op] = {
        f"upfirdn2d {name}": functools.partial(_filtered, f=f, options=options)
        for name, options in filters.items()
    }
    ops |= {f"bias_act {act}": functools.partial(_activated, b=b, act=act) for act in ACTIVATIONS}
    compiled = device in dispatch.loaded_devices() and dispatch.mode() != "ref"
    inputs, path = sample_inputs(device), "compiled" if compiled else "plain PyTorch"
    return [compare(name, op, inputs, path) for name, op in ops.items()]


def compare(name: str, op: Op, inputs: list[tuple[torch.Tensor, float]], path: str) -> Finding:
    """Compare an op with plain PyTorch on inputs with their tolerances; ``path`` names what ``auto`` runs."""
    remedy, agreement = "use --ops=ref, and report this", ""
    try:
        for x, tolerance in inputs:
            both = [results(functools.partial(op, impl=impl), x) for impl in ("auto", "ref")]
            differences = [relative(got, expected) for got, expected in zip(*both, strict=True)]
            largest = max(differences, key=lambda value: (math.isnan(value), value))
            agreement = agreement or f"agrees to {largest:.0e}"
            if not largest < tolerance:
                fault = f"differs from plain PyTorch by {largest:.1e} in {x.dtype}"
                return Finding(name, f"{path}, {agreement}", fault, remedy, needed=True)
    except RuntimeError as error:
        return Finding(name, path, one_line(str(error)), remedy, needed=True)
    return Finding(name, f"{path}, {agreement}")


def report(findings: list[Finding]) -> None:
    """Print findings for people."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'!!' if finding.fault else 'ok'}  {finding.name:{width}}  {finding.state}")
        if finding.fault:
            print(f"    {'':{width}}  {finding.fault}\n    {'':{width}}  to do: {finding.remedy}")


@click.command(cls=Command)
@click.option(
    "--ops",
    type=click.Choice(MODES),
    envvar=dispatch.VARIABLE,
    default="auto",
    help="Requested implementation.  [default: $GGDR_OPS, else auto]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where the ops run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@friendly_errors
def main(ops: dispatch.Impl, device: str, as_json: bool) -> None:
    """Report what this machine has and lacks for the compiled ops, and try each op."""
    allow_tf32(allowed=False)
    findings = [*check_versions(), *check_tools(), check_cache()]
    if not any(finding.needed for finding in findings):
        where = pick_device(device).type
        findings.append(check_path(ops, where))
    if not any(finding.needed for finding in findings):
        findings += try_ops(where)
    broken = any(finding.needed for finding in findings)
    if as_json:
        print(
            json.dumps({"works": not broken, "findings": [asdict(finding) for finding in findings]}, indent=1)
        )
    else:
        report(findings)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
