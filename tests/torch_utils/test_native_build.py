"""Building the compiled ops: the cache, its lock, missing or broken parts, and the log's line."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from torch_utils.native_build import prepare_native_ops
from torch_utils.ops import bias_act, build, dispatch, upfirdn2d
from torch_utils.ops.build import BuildOptions
from torch_utils.ops.build_cache import seal

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has set no mode and loaded nothing."""
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    with dispatch.fresh_state():
        yield


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading does nothing: a library is loaded once in a process, and these tests build stand-ins."""
    monkeypatch.setattr("torch_utils.ops.native.load", lambda path: None)


def script(folder: Path, name: str, text: str) -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_compiler(folder: Path, text: str) -> Path:
    """A compiler that knows its version and then does ``text``."""
    return script(
        folder,
        "fake-g++",
        f'case "$1" in --version|-dumpfullversion|-dumpversion|-v) exec g++ "$@";; esac\n{text}',
    )


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own at the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )


def test_nothing_is_built_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_load", lambda *args: pytest.fail("it tried to build"))
    assert bias_act.bias_act(torch.ones(2), act="lrelu").shape == (2,)
    upfirdn2d.filter2d(torch.ones(1, 1, 4, 4), upfirdn2d.setup_filter([1, 3, 3, 1]))
    assert "were not asked for" in dispatch.status_line()
    dispatch.set_mode("ref")
    bias_act.bias_act(torch.ones(2), act="lrelu")
    assert "as asked for" in dispatch.status_line()
    bias_act.bias_act(torch.ones(2), act="lrelu", impl="ref")


def test_the_environment_variable_asks_for_compiled_ops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_library: Any
) -> None:
    loads: list[BuildOptions] = []
    monkeypatch.setattr(
        build,
        "library",
        lambda toolchain, options: (loads.append(options), (tmp_path / "x.so", 0.0))[1],
    )
    monkeypatch.setattr("torch_utils.ops.native.bias_act", lambda x, *args: x)
    monkeypatch.setenv(dispatch.VARIABLE, "native")
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path))
    bias_act.bias_act(torch.ones(2))
    bias_act.bias_act(torch.ones(2))
    assert loads == [BuildOptions(retry_failed=True)]
    assert build.builds_folder() == tmp_path / "ops"
    assert dispatch.status_line() == f"Ops: compiled for cpu (from {tmp_path})"
    monkeypatch.setenv(dispatch.VARIABLE, "fast")
    with (
        dispatch.fresh_state(),
        pytest.raises(UserError, match="GGDR_OPS must be 'auto', 'ref' or 'native', not 'fast'"),
    ):
        prepare_native_ops()


def test_auto_takes_what_is_faster(monkeypatch: pytest.MonkeyPatch, no_library: Any) -> None:
    monkeypatch.setattr(build, "library", lambda *args, **options: (Path("x.so"), 0.0))
    dispatch.prepare("auto")
    x = torch.ones(2)
    assert dispatch.use_native("op", "auto", x)
    assert not dispatch.use_native("op", "auto", x, slower=True)
    assert dispatch.use_native("op", "native", x, slower=True)
    assert not dispatch.use_native("op", "auto", x, reason="that")
    dispatch.set_mode("native")
    assert dispatch.use_native("op", "auto", x, slower=True)


def test_auto_falls_back_and_native_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    line = prepare_native_ops("auto")
    assert line.startswith("Ops: plain PyTorch (no C++ compiler (g++ or c++ is not on the PATH); install one")
    assert bias_act.bias_act(torch.ones(2)).shape == (2,)
    with pytest.raises(
        dispatch.OpsUnavailable, match=r"bias_act: no compiled op for this call on cpu: no C\+\+ compiler"
    ):
        bias_act.bias_act(torch.ones(2), impl="native")
    with pytest.raises(UserError, match=r"no C\+\+ compiler.*install.*--ops=auto"):
        prepare_native_ops("native")
    assert prepare_native_ops("ref") == "Ops: plain PyTorch (as asked for)"


def test_a_compiler_that_is_named_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert "/nowhere/g++ is not on the PATH" in prepare_native_ops("auto")


def test_no_ninja(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"no ninja.*pip install ninja"):
        build.find_ninja()


def test_what_keeps_the_gpus_ops_from_being_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert build.reason_against_cuda() == "no GPU that PyTorch can use" or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "not built for CUDA" in str(build.reason_against_cuda())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    assert "no nvcc; install the CUDA 13.0 toolkit" in str(build.reason_against_cuda())
    for text, message in {
        "echo release 12.4, V12.4.99": "is of CUDA 12.4, PyTorch of CUDA 13.0; install that toolkit or set",
        "echo hello": "does not say which CUDA release",
        "exit 3": "does not work here",
    }.items():
        nvcc = script(tmp_path, "nvcc", text)
        monkeypatch.setattr(build, "find_nvcc", lambda nvcc=nvcc: str(nvcc))
        assert message in str(build.reason_against_cuda())
    script(tmp_path, "nvcc", "echo release 13.2, V13.2.1")
    assert build.reason_against_cuda() is None


def test_nvcc_is_found_where_cuda_home_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    nvcc = script(tmp_path / "bin", "nvcc", "exit 0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.find_nvcc() == str(nvcc)
    assert build.toolkit_folder(str(nvcc)) == str(tmp_path)
    packages = build.cuda_include_folders(str(tmp_path))
    assert all((Path(folder) / "cuda_runtime.h").is_file() for folder in packages)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    assert build.cuda_include_folders(str(tmp_path)) == []


def test_a_gpu_without_nvcc_leaves_the_cpus_ops(monkeypatch: pytest.MonkeyPatch, no_library: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(build, "reason_against_cuda", lambda: "no nvcc; install it")
    monkeypatch.setattr(build, "library", lambda *args, **options: (Path("f/x.so"), 12.3))
    line = prepare_native_ops("auto")
    assert (
        line
        == "Ops: compiled for cpu, plain PyTorch on the GPU (no nvcc; install it) (built in 12 s, kept in f)"
    )
    assert "compiled for cpu" in prepare_native_ops("native", device="cpu")
    with pytest.raises(UserError, match="on cuda there are none: no nvcc; install it"):
        prepare_native_ops("native", device="cuda")
    gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32)
    dispatch.set_mode("auto")
    assert not dispatch.use_native("op", "auto", gpu)


def test_a_failing_build_for_the_gpu_leaves_the_cpus_ops(
    monkeypatch: pytest.MonkeyPatch, no_library: Any
) -> None:
    def library(toolchain: build.Toolchain, *args: object, **options: object) -> tuple[Path, float]:
        if toolchain.with_cuda:
            raise build.BuildError("the build failed: nvcc: unsupported GNU version")
        return Path("f/x.so"), 0.0

    monkeypatch.setattr(build, "reason_against_cuda", lambda: None)
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(build, "nvcc_version", lambda nvcc: "13.0")
    monkeypatch.setattr(build, "library", library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "plain PyTorch on the GPU (the build failed: nvcc: unsupported GNU version)" in prepare_native_ops(
        "auto"
    )


@pytest.fixture
def toolchain() -> build.Toolchain:
    return build.find_toolchain(with_cuda=False)


def test_the_key_changes_with_whatever_the_result_depends_on(
    monkeypatch: pytest.MonkeyPatch, toolchain: Any, tmp_path: Path
) -> None:
    def variants() -> Iterator[build.Toolchain]:
        yield toolchain
        for change in (
            {"compiler": "/other"},
            {"compiler_version": "g++ 99"},
            {"nvcc": "n"},
            {"nvcc_version": "12"},
            {"architectures": ("8.6",)},
        ):
            yield replace(toolchain, **change)

    keys = [build.build_key(variant) for variant in variants()]
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.append(build.build_key(toolchain))
    monkeypatch.setattr(build, "processor", lambda: "x86_64 other flags")
    keys.append(build.build_key(toolchain))
    monkeypatch.setattr(build, "CPU_FLAGS", ("-O0",))
    keys.append(build.build_key(toolchain))
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "a.h").write_text("1")
    monkeypatch.setattr(build, "SOURCES", sources)
    keys.append(build.build_key(toolchain))
    (sources / "a.h").write_text("2")
    keys.append(build.build_key(toolchain))
    assert len(set(keys)) == len(keys)
    assert build.build_key(toolchain) == keys[-1]


def test_the_cache_is_quick_and_whole(
    build_cache: Path, compiled_ops: None, toolchain: build.Toolchain
) -> None:
    """The session's build: the library, its log and its description, found without compiling."""
    start = time.monotonic()
    path, seconds = build.library(toolchain, BuildOptions(cache=build_cache))
    assert seconds == 0
    assert time.monotonic() - start < 5  # well under one second on a machine with nothing else to do
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "build.log",
        "built-with.json",
        f"{build.NAME}.so",
        f"{build.NAME}.so.sha256",
    ]
    assert json.loads((path.parent / "built-with.json").read_text())["torch"] == torch.__version__
    assert "warning" not in (path.parent / "build.log").read_text()
    assert not list(build_cache.glob(f"{path.parent.name}*.tmp"))


def test_another_process_finds_the_build(build_cache: Any, compiled_ops: Any) -> None:
    """A fresh process with ``GGDR_OPS`` alone, without a compiler: results agree there too."""
    code = """
import torch
from torch_utils.ops import bias_act, dispatch, upfirdn2d
f = upfirdn2d.setup_filter([1, 3, 3, 1])
x = torch.randn(1, 3, 16, 16)
def upsample(impl):
    return upfirdn2d.upsample2d(x, f, impl=impl)
def activate(impl):
    return bias_act.bias_act(x, torch.ones(3), act="lrelu", impl=impl)
for make in (upsample, activate):
    torch.testing.assert_close(make("auto"), make("ref"))
print(dispatch.status_line())
"""
    root = build_cache.parent / f"{build_cache.name}-root"
    root.mkdir(exist_ok=True)
    if not (root / "ops").exists():
        (root / "ops").symlink_to(build_cache)
    result = run_python(code, GGDR_OPS="native", GGDR_CACHE_DIR=str(root))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Ops: compiled for cpu (from ")


def test_a_failing_compiler_is_quoted_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = fake_compiler(tmp_path, 'echo "x.cpp:7:1: error: expected a miracle" >&2; exit 1')
    monkeypatch.setenv("CXX", str(compiler))
    line = prepare_native_ops_in(monkeypatch, tmp_path / "cache")
    assert "the build failed: x.cpp:7:1: error: expected a miracle (all of it: " in line
    entries = sorted(path.suffix for path in (tmp_path / "cache" / "ops").iterdir())
    assert entries == [".failed", ".lock", ".log"]


def test_what_a_compiler_refused_is_not_tried_at_each_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_library: Any
) -> None:
    monkeypatch.setattr(build, "_CHILD", ONLY_THE_COMPILER)
    compiler = fake_compiler(
        tmp_path, f'echo once >> {tmp_path}/calls; echo "x.cpp:7:1: error: expected a miracle" >&2; exit 1'
    )
    monkeypatch.setenv("CXX", str(compiler))

    def attempt(**options: Any) -> Any:
        with dispatch.fresh_state():
            line = prepare_native_ops_in(monkeypatch, tmp_path / "cache", **options)
        return line, len((tmp_path / "calls").read_text().split())

    assert "earlier attempt" not in attempt()[0]
    line, calls = attempt()
    assert calls == 1
    assert "expected a miracle" in line
    assert "that was an earlier attempt, python tools/doctor.py makes another" in line
    assert attempt(retry_failed=True)[1] == 2
    with dispatch.fresh_state(), pytest.raises(UserError, match="expected a miracle"):
        prepare_native_ops("native")
    assert attempt()[1] == 3


def prepare_native_ops_in(monkeypatch: pytest.MonkeyPatch, cache: Path, **options: float) -> str:
    """``auto``, with an empty cache."""
    monkeypatch.setenv("GGDR_CACHE_DIR", str(cache))
    return prepare_native_ops("auto", **options)


# In place of PyTorch's builder: run the compiler, and end as it does.
ONLY_THE_COMPILER = "import os, subprocess, sys; sys.exit(subprocess.call([os.environ['CXX'], '-c']))"


def test_a_build_that_takes_too_long_is_ended_with_all_its_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "_CHILD", ONLY_THE_COMPILER)
    compiler = fake_compiler(tmp_path, f"echo $$ >> {tmp_path}/pids; sleep 600")
    monkeypatch.setenv("CXX", str(compiler))
    line = prepare_native_ops_in(monkeypatch, tmp_path / "cache", timeout=3.0)
    assert "the build took longer than 3 s and was ended" in line
    (pid,) = (tmp_path / "pids").read_text().split()
    deadline = time.monotonic() + 10
    while (
        Path(f"/proc/{pid}").exists()
        and time.monotonic() < deadline
        and ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    ):
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or ") Z" in Path(f"/proc/{pid}/stat").read_text()


def test_a_disk_that_fills_up_during_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "_CHILD", ONLY_THE_COMPILER)
    compiler = fake_compiler(
        tmp_path, 'echo "/tmp/cc.s: fatal error: error writing: No space left on device" >&2; exit 1'
    )
    monkeypatch.setenv("CXX", str(compiler))
    line = prepare_native_ops_in(monkeypatch, tmp_path / "cache")
    assert line.startswith(
        "Ops: plain PyTorch (the build failed: /tmp/cc.s: fatal error: error writing: No space left on device"
    )


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the cache /proc/nowhere/ops cannot be written" in prepare_native_ops_in(
        monkeypatch, Path("/proc/nowhere")
    )


def test_a_library_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toolchain: Any
) -> None:
    folder = tmp_path / "ops" / build.build_key(toolchain)
    folder.mkdir(parents=True)
    (folder / f"{build.NAME}.so").write_bytes(b"not a library, but what was built")
    seal(folder / f"{build.NAME}.so")
    line = prepare_native_ops_in(monkeypatch, tmp_path)
    assert "the library cannot be loaded" in line
    assert f"remove the folder {folder} and start again" in line


HOLD = """
import sys, time
from pathlib import Path
from torch_utils.ops.build import exclusive
with exclusive(Path(sys.argv[1]), 5):
    print('held', flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(build.BuildError, match=r"waited 0 s for another process .*lock; is it stuck"),
                build.exclusive(lock, 0.2),
            ):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    assert lock.exists()
    with build.exclusive(lock, 1.0):
        pass


def test_a_file_system_without_locks_has_builds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toolchain: build.Toolchain
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    monkeypatch.setattr(build, "_build", stand_in)
    path, _ = build.library(toolchain, BuildOptions(cache=tmp_path))
    assert path.read_bytes() == SOUND


def test_who_waits_for_the_lock_takes_what_the_other_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toolchain: Any
) -> None:
    """The build appears while this process waits; it does not build again."""
    monkeypatch.setattr(build, "_build", lambda *args: pytest.fail("built again"))
    folder = tmp_path / build.build_key(toolchain)

    class Waiting:
        def __enter__(self) -> None:
            stand_in(toolchain, folder, 0)

        def __exit__(self, *args: object) -> None: ...

    monkeypatch.setattr(build, "exclusive", lambda path, timeout: Waiting())
    assert build.library(toolchain, BuildOptions(cache=tmp_path)) == (folder / f"{build.NAME}.so", 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1/3] g++ -Werror x\nx.cpp:3: error: bad\nninja: build stopped", "x.cpp:3: error: bad"),
        ("a\nnvcc fatal error : no arch\n", "nvcc fatal error : no arch"),
        (
            "ld: x.o: undefined reference to `f'\ncollect2: error: ld returned 1",
            "collect2: error: ld returned 1",
        ),
        ("Traceback\nRuntimeError: ninja is gone\n", "RuntimeError: ninja is gone"),
        ("one\n\ntwo\n\n", "two"),
        ("", "it printed nothing"),
    ],
)
def test_the_line_that_says_what_went_wrong(text: Any, message: Any) -> None:
    assert build.compiler_message(text) == message


ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
NVCC = pytest.mark.skipif(build.find_nvcc() is None, reason="no nvcc here")


def ptxas_table(output: str) -> list[dict[str, object]]:
    """The registers, spilled bytes and shared memory of each kernel, from the output of ``-Xptxas -v``."""
    rows, kernel, architecture, spilled = [], "", "", 0
    for line in output.splitlines():
        if (match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line)) is not None:
            kernel, architecture = match.groups()
        elif (match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)) is not None:
            spilled = int(match[1]) + int(match[2])
        elif (match := re.search(r"Used (\d+) registers", line)) is not None:
            shared = re.search(r"(\d+) bytes smem", line)
            row = {
                "kernel": kernel,
                "architecture": architecture,
                "registers": int(match[1]),
                "spilled": spilled,
            }
            rows.append({**row, "shared": int(shared[1]) if shared else 0})
    return rows


@NVCC
@pytest.mark.slow
@pytest.mark.parametrize("name", ["upfirdn2d.cu", "bias_act.cu"])
def test_kernels_compile_for_every_architecture(tmp_path: Path, name: Any) -> None:
    """Warnings are errors, nothing is spilled, shared memory fits. Writes ``build/ptxas-*.json``."""
    nvcc = build.find_nvcc()
    assert nvcc is not None
    includes = [f"-I{folder}" for folder in build.cuda_include_folders(build.toolkit_folder(nvcc))]
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    strict = ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra", "-Xptxas", "-v", "--threads", "2"]
    command = [
        nvcc,
        "-c",
        str(build.SOURCES / name),
        "-o",
        str(tmp_path / "out.o"),
        "-std=c++20",
        *build.CUDA_FLAGS,
        *includes,
        *targets,
        *strict,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr[:4000]
    rows = ptxas_table(result.stdout + result.stderr)
    assert {row["architecture"] for row in rows} == {f"sm_{a}" for a in ARCHITECTURES}
    assert len({row["kernel"] for row in rows}) > 50
    assert [row for row in rows if row["spilled"]] == []
    assert max(int(str(row["shared"])) for row in rows) <= 48 << 10
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / f"ptxas-{name.removesuffix('.cu')}.json").write_text(json.dumps(rows, indent=1))


@NVCC
@pytest.mark.slow
def test_the_gpus_library_builds_and_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library with the GPU part, for one architecture. Loading it needs no GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    path, seconds = build.library(build.find_toolchain(with_cuda=True), BuildOptions(cache=tmp_path))
    assert seconds > 0
    assert b"sm_90" in path.read_bytes()
    code = f"""
import torch
torch.ops.load_library({str(path)!r})
for op in ("upfirdn2d", "bias_act", "bias_act_grad"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ggdr::{{op}}", "CUDA"), op
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_build_from_nothing(tmp_path: Path, toolchain: Any) -> None:
    """Into an empty cache, in a process of its own; 60 s on two cores that do nothing else."""
    code = (
        "from torch_utils.native_build import prepare_native_ops; print(prepare_native_ops('native', 'cpu'))"
    )
    first = run_python(code, GGDR_CACHE_DIR=str(tmp_path))
    assert "Ops: compiled for cpu (built in " in first.stdout, first.stderr
    assert "Ops: compiled for cpu (from " in run_python(code, GGDR_CACHE_DIR=str(tmp_path)).stdout


def test_a_build_is_announced_and_a_cached_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(build, "_build", stand_in)
    toolchain = build.find_toolchain(with_cuda=False)
    for _ in range(2):
        build.library(toolchain, BuildOptions(cache=tmp_path, announce=lambda: said.append("building")))
    assert said == ["building"]


SOUND = bytes(range(256)) * 64


def stand_in(toolchain: Any, folder: Any, timeout: Any) -> None:
    """In place of a build."""
    folder.mkdir(mode=0o755)
    (folder / f"{build.NAME}.so").write_bytes(SOUND)
    seal(folder / f"{build.NAME}.so")


def zeroed(path: Any) -> None:
    path.write_bytes(SOUND[:4096] + bytes(4096) + SOUND[8192:])


def somebody_elses(path: Any) -> None:
    os.chown(path, 65534, 65534)


HARM = {
    "empty": lambda path: os.truncate(path, 0),
    "one byte short": lambda path: os.truncate(path, len(SOUND) - 1),
    "a zeroed page": zeroed,
    "another library": lambda path: path.write_bytes(b"planted"),
    "no checksum": lambda path: path.with_name(f"{path.name}.sha256").unlink(),
    "a checksum that is none": lambda path: path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe"),
    "everybody may write it": lambda path: path.chmod(0o777),
    "everybody may write its folder": lambda path: path.parent.chmod(0o777),
    "everybody may write its checksum": lambda path: path.with_name(f"{path.name}.sha256").chmod(0o666),
    "a library of somebody else": somebody_elses,
    "a folder of somebody else": lambda path: somebody_elses(path.parent),
    "a link to somebody else's": lambda path: (
        path.rename(path.with_name("x")),
        somebody_elses(path.with_name("x")),
        path.symlink_to("x"),
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_build_that_is_not_what_was_built_is_built_again_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toolchain: Any, harm: Any
) -> None:
    if "somebody else" in harm and os.getuid() != 0:
        pytest.skip("only root can give files away")
    monkeypatch.setattr(build, "_build", stand_in)
    said: list[str] = []
    path, _ = build.library(toolchain, BuildOptions(cache=tmp_path / "ops", warn=said.append))
    assert build.library(toolchain, BuildOptions(cache=tmp_path / "ops", warn=said.append)) == (path, 0.0)
    assert said == []
    HARM[harm](path)
    again, _ = build.library(toolchain, BuildOptions(cache=tmp_path / "ops", warn=said.append))
    assert again == path
    assert path.read_bytes() == SOUND
    assert len(said) == 1
    assert said[0].endswith(", so it is not loaded but built again")
    assert build.library(toolchain, BuildOptions(cache=tmp_path / "ops", warn=said.append)) == (path, 0.0)
    assert sorted(entry.suffix for entry in (tmp_path / "ops").iterdir()) == ["", ".lock"], (
        "what was put aside is gone"
    )


def test_builds_in_a_folder_of_somebody_else_are_neither_used_nor_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toolchain: Any
) -> None:
    monkeypatch.setattr(build, "_build", stand_in)
    path, _ = build.library(toolchain, BuildOptions(cache=tmp_path / "ops"))
    os.chmod(tmp_path / "ops", 0o755)
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)  # to whom the folder belongs to another
    if me == 0:
        os.chown(tmp_path / "ops", 65534, 65534)
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(
            "torch_utils.ops.build_cache._fault_of",
            lambda found: f"{found} is another's" if found == tmp_path / "ops" else None,
        )
        other, _ = build.library(toolchain, BuildOptions(cache=tmp_path / "ops", warn=said.append))
    assert other.parent.parent == tmp_path / f"ops-{me + 1}"
    assert path.read_bytes() == SOUND
    assert len(said) == 1
    assert said[0].endswith(
        f"so no compiled op in it is used; {tmp_path / f'ops-{me + 1}'} is used in its place"
    )
    monkeypatch.setattr(
        "torch_utils.ops.build_cache._fault_of", lambda found: f"{found} is another's"
    )  # that one too
    with pytest.raises(build.BuildError, match="; set GGDR_CACHE_DIR to a folder of your own"):
        build.library(toolchain, BuildOptions(cache=tmp_path / "ops"))


def test_a_folder_of_builds_is_made_for_one_to_write_and_is_kept_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toolchain: Any
) -> None:
    monkeypatch.setattr(build, "_build", stand_in)
    before = os.umask(0)
    try:
        path, _ = build.library(toolchain, BuildOptions(cache=tmp_path / "cache" / "ops"))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(entry.stat().st_mode) & 0o022 for entry in (path, path.parent, path.parent.parent)]
    assert modes == [0, 0, 0]
    path.parent.parent.chmod(0o777)
    build.library(toolchain, BuildOptions(cache=tmp_path / "cache" / "ops"))
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator ggdr::upfirdn2d does not exist"),
        OSError("no"),
        AttributeError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "y"),
    ],
)
def test_whatever_loading_raises_auto_goes_on_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def fail(path: Any) -> None:
        raise error

    monkeypatch.setattr(build, "_build", stand_in)
    monkeypatch.setattr("torch_utils.ops.native.load", fail)
    assert prepare_native_ops_in(monkeypatch, tmp_path).startswith(
        "Ops: plain PyTorch (the library cannot be "
    )
    with dispatch.fresh_state(), pytest.raises(UserError, match="the library cannot be "):
        prepare_native_ops("native")
