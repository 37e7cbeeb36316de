"""Builds the compiled ops from ``csrc/`` at first use, and keeps the result.

A build is one folder ``<cache>/<key>/``. The key is a digest of everything that the result depends on:
sources, torch, CUDA, compiler, flags, architecture, Python's ABI. A build is made under another name and
renamed once it is whole, so an interrupted build leaves nothing that passes for one. A lock keeps other
processes from doing the same work meanwhile. The system drops the lock when the process that holds it ends,
however it ends.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

import torch_utils.ops.build_cache as build_cache
from dnnlib.environment import cache_root
from dnnlib.files import atomic_write, sync_folder

SOURCES = Path(__file__).parent / "csrc"
CPU_SOURCES = ("binding_cpu.cpp", "upfirdn2d_cpu.cpp", "bias_act_cpu.cpp")
CUDA_SOURCES = ("binding_cuda.cpp", "upfirdn2d.cu", "bias_act.cu")
NAME = "ggdr_ops"
TIMEOUT = 900.0  # seconds, for a build or for waiting for another process's

# Loops over floats are vectorised; infinities and NaN keep their meaning. Loops written for 16 lanes use 16.
CPU_FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)
CUDA_FLAGS = ("-O3",)

_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from torch_utils.ops.build import compile_job; compile_job(sys.argv[2])"
)


class BuildError(RuntimeError):
    """The ops cannot be built here. One line: what is missing, and what to do about it."""


class CompilerError(BuildError):
    """The compiler rejects the sources, and would do so again."""


@dataclass(frozen=True)
class Toolchain:
    """What a build uses. Every field is part of the build's key.

    Attributes:
        compiler: path of the C++ compiler.
        compiler_version: the first line that it prints for ``--version``.
        ninja: path.
        nvcc: path; None builds the CPU ops only.
        nvcc_version: such as ``13.0``.
        cuda_home: the CUDA toolkit's folder.
        architectures: of the GPUs here, such as ``8.6``.
    """

    compiler: str
    compiler_version: str
    ninja: str
    nvcc: str | None = None
    nvcc_version: str | None = None
    cuda_home: str | None = None
    architectures: tuple[str, ...] = ()

    @property
    def with_cuda(self) -> bool:
        """Whether the GPU ops are built too."""
        return self.nvcc is not None

    @property
    def sources(self) -> list[str]:
        """The source files."""
        return [str(SOURCES / name) for name in CPU_SOURCES + (CUDA_SOURCES if self.with_cuda else ())]


@dataclass(frozen=True)
class BuildOptions:
    """How to look for a build, and how to make one.

    Attributes:
        cache: folder of builds; None takes :func:`builds_folder`.
        timeout: seconds for a build, or for waiting for another process's build.
        retry_failed: compile even if the compiler rejected the same sources before.
        announce: called before a build, which takes a while.
        warn: called with a line when an existing build may not be used.
    """

    cache: Path | None = None
    timeout: float = TIMEOUT
    retry_failed: bool = False
    announce: Callable[[], None] = lambda: None
    warn: Callable[[str], None] = lambda line: None


def builds_folder() -> Path:
    """``ops`` in :func:`dnnlib.environment.cache_root`. Raises :class:`UserError`."""
    return cache_root() / "ops"


def output_of(*command: str) -> str:
    """What a command prints. Raises :class:`BuildError` if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"'{' '.join(command)}' does not work here ({_brief(str(error))})") from error
    return (result.stdout or result.stderr).strip()


def version_line(program: str) -> str:
    """The first line that a program prints for ``--version``. Raises :class:`BuildError`."""
    return output_of(program, "--version").split("\n")[0]


def find_compiler() -> str:
    """The C++ compiler's path: ``$CXX``, or ``g++`` or ``c++`` on the PATH. Raises :class:`BuildError`."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++"]
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    raise BuildError(
        f"no C++ compiler ({' or '.join(names)} is not on the PATH); install one, such as Debian's g++, or "
        "set CXX"
    )


def find_ninja() -> str:
    """Ninja's path: beside Python, where pip puts it, or on the PATH. Raises :class:`BuildError`."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    path = shutil.which("ninja", path=folders)
    if path is None:
        raise BuildError("no ninja, which runs the build; pip install ninja")
    return path


def find_nvcc() -> str | None:
    """The path of nvcc in ``$CUDA_HOME``, on the PATH, or in ``/usr/local/cuda``; None if there is none."""
    homes = [home for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    folders = [*(f"{home}/bin" for home in homes), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def nvcc_version(nvcc: str) -> str:
    """The CUDA release of an nvcc, such as ``13.0``. Raises :class:`BuildError`."""
    match = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version"))
    if match is None:
        raise BuildError(f"{nvcc} does not say which CUDA release it is of")
    return match[1]


def toolkit_folder(nvcc: str) -> str:
    """The CUDA toolkit's folder as nvcc reports it: the nvcc on the PATH may be a script elsewhere."""
    with contextlib.suppress(BuildError):
        commands = output_of(nvcc, "--dryrun", "-x", "cu", os.devnull)
        if (match := re.search(r"^#\$ TOP=(.+)$", commands, re.MULTILINE)) is not None:
            return os.path.realpath(match[1].strip())
    return str(Path(nvcc).resolve().parent.parent)


def cuda_include_folders(cuda_home: str) -> list[str]:
    """Where CUDA's headers are if the toolkit has none: in the packages that pip installs with torch."""
    if (Path(cuda_home) / "include" / "cuda_runtime.h").is_file():
        return []
    packages = Path(torch.__file__).parent.parent / "nvidia"
    return sorted(str(path.parent) for path in packages.glob("*/include/cuda_runtime.h"))


def reason_against_cuda() -> str | None:
    """Why the GPU ops cannot be built here; None if they can."""
    if not torch.cuda.is_available():
        return "no GPU that PyTorch can use"
    wanted, nvcc = torch.version.cuda, find_nvcc()
    if wanted is None:
        return "this PyTorch is not built for CUDA"
    if nvcc is None:
        return (
            f"no nvcc; install the CUDA {wanted} toolkit and put its bin folder on the PATH, or set CUDA_HOME"
        )
    try:
        version = nvcc_version(nvcc)
    except BuildError as error:
        return str(error)
    if version.split(".")[0] != wanted.split(".")[0]:
        return (
            f"{nvcc} is of CUDA {version}, PyTorch of CUDA {wanted}; install that toolkit or set CUDA_HOME "
            "to it"
        )
    return None


def find_toolchain(*, with_cuda: bool) -> Toolchain:
    """Find what a build would use, on request with CUDA. Raises :class:`BuildError` if a part is missing."""
    compiler = find_compiler()
    plain = Toolchain(compiler, version_line(compiler), find_ninja())
    if not with_cuda:
        return plain
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc")
    capabilities = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    return replace(
        plain,
        nvcc=nvcc,
        nvcc_version=nvcc_version(nvcc),
        cuda_home=toolkit_folder(nvcc),
        architectures=tuple(f"{major}.{minor}" for major, minor in capabilities),
    )


@functools.cache
def processor() -> str:
    """The kind of processor, on which the meaning of ``-march=native`` depends."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = re.findall(r"^(?:flags|Features|model|cpu family|CPU part)\s*:.*$", text, re.MULTILINE)
    return f"{platform.machine()} {' '.join(sorted(set(flags)))}"


def describe(toolchain: Toolchain) -> dict[str, object]:
    """Everything that the result of a build depends on."""
    sources = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(SOURCES.iterdir())
        if path.is_file()
    }
    return {
        **asdict(toolchain),
        "torch": torch.__version__,
        "torch_revision": torch.version.git_version,
        "cuda": torch.version.cuda,
        "python": sysconfig.get_config_var("SOABI"),
        "processor": processor(),
        "flags": [CPU_FLAGS, CUDA_FLAGS],
        "sources": sources,
    }


def build_key(toolchain: Toolchain) -> str:
    """The name of a build's folder."""
    return hashlib.sha256(json.dumps(describe(toolchain), sort_keys=True).encode()).hexdigest()[:20]


def library(toolchain: Toolchain, options: BuildOptions) -> tuple[Path, float]:
    """The compiled library, from the cache or built into it.

    Returns:
        its path, and the seconds that building took: 0 if it was in the cache.

    Raises:
        BuildError: it cannot be built, or not in time, or the cache cannot be written.
    """
    cache = builds_folder() if options.cache is None else options.cache
    try:
        cache, line = build_cache.own_folder(cache)
        if line is not None:
            options.warn(line)
        return _library(toolchain, cache, options)
    except build_cache.NotOurs as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(
            f"the cache {cache} cannot be written ({error.strerror}); set GGDR_CACHE_DIR to a folder that can"
        ) from error


def _library(toolchain: Toolchain, cache: Path, options: BuildOptions) -> tuple[Path, float]:
    folder = cache / build_key(toolchain)
    target, failed = folder / f"{NAME}.so", cache / f"{folder.name}.failed"
    if target.is_file() and build_cache.fault(target) is None:
        return target, 0.0
    start = time.monotonic()
    with exclusive(cache / f"{folder.name}.lock", options.timeout):
        if target.is_file():
            fault = build_cache.fault(target)
            if fault is None:
                return target, 0.0
            options.warn(f"{fault}, so it is not loaded but built again")
        if os.path.lexists(folder):
            build_cache.put_aside(folder)
        if failed.is_file() and not options.retry_failed:
            raise BuildError(
                f"{failed.read_text(encoding='utf-8')}; that was an earlier attempt, python tools/doctor.py "
                "makes another"
            )
        options.announce()
        try:
            _build(toolchain, folder, options.timeout)
        except CompilerError as error:
            with atomic_write(failed, "w", encoding="utf-8") as stream:
                stream.write(str(error))
            raise
        failed.unlink(missing_ok=True)
    return target, time.monotonic() - start


@contextlib.contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold a lock on a file until the block or this process ends; none if the file system has no locks.

    Raises :class:`BuildError` if another process holds it for longer than ``timeout`` seconds.
    """
    # A soft lock would stay behind when its process is killed.
    lock = FileLock(path, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BuildError(
            f"waited {timeout:.0f} s for another process that holds {path}; is it stuck?"
        ) from None
    except OSError:
        pass  # no locks here; the final rename keeps results whole all the same
    try:
        yield
    finally:
        lock.release()


def _build(toolchain: Toolchain, folder: Path, timeout: float) -> None:
    """Compile in a temporary folder, and move the library, its log and its description to ``folder``."""
    log = folder.parent / f"{folder.name}.log"
    with _temporary_folder(folder) as work, _temporary_folder(folder) as kept:
        job = work / "job.json"
        job.write_text(json.dumps({**asdict(toolchain), "folder": str(work)}), encoding="utf-8")
        _run_job(job, toolchain, log, timeout)
        os.rename(work / f"{NAME}.so", kept / f"{NAME}.so")
        (kept / "built-with.json").write_text(json.dumps(describe(toolchain), indent=1), encoding="utf-8")
        os.rename(log, kept / "build.log")
        kept.chmod(0o755)
        build_cache.seal(kept / f"{NAME}.so")
        os.rename(kept, folder)
        sync_folder(folder.parent)


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A neighbour of ``folder`` that is removed at the end, unless it was renamed."""
    path = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _run_job(job: Path, toolchain: Toolchain, log: Path, timeout: float) -> None:
    """Compile in a process of its own, which can be killed with all that it started."""
    environment = os.environ | {
        "CXX": toolchain.compiler,
        "PATH": os.pathsep.join([str(Path(toolchain.ninja).parent), os.environ.get("PATH", "")]),
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count() or 1)),
    }
    if toolchain.with_cuda:
        environment |= {
            "CUDA_HOME": str(toolchain.cuda_home),
            "TORCH_CUDA_ARCH_LIST": ";".join(toolchain.architectures),
        }
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(SOURCES.parents[2]), str(job)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(
                    f"the build took longer than {timeout:.0f} s and was ended; its output is in {log}"
                ) from None
            raise
    if status != 0:
        message = compiler_message(log.read_text(encoding="utf-8", errors="replace"))
        lasting = status > 0 and "No space left on device" not in message
        raise (CompilerError if lasting else BuildError)(f"the build failed: {message} (all of it: {log})")


def compiler_message(text: str) -> str:
    """The line of a build's output that tells what went wrong."""
    patterns = [
        r".*No space left on device.*",
        r".*\b(?:fatal )?error\b\s?:.*",
        r".*undefined reference.*",
        r".*\w*Error: .*",
    ]
    for pattern in patterns:
        if (found := re.search(rf"^{pattern}$", text, re.MULTILINE | re.IGNORECASE)) is not None:
            return _brief(found[0])
    return _brief(text.strip().rpartition("\n")[2]) or "it printed nothing"


def _brief(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + "…"


def compile_job(path: str) -> None:
    """Compile, then load the result to test it. Runs in the process that :func:`_run_job` starts."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    folder = job.pop("folder")
    toolchain = Toolchain(**{**job, "architectures": tuple(job["architectures"])})
    from torch.utils.cpp_extension import load  # slow, and it looks for CUDA when imported

    load(
        NAME,
        toolchain.sources,
        extra_cflags=list(CPU_FLAGS),
        extra_cuda_cflags=list(CUDA_FLAGS),
        extra_include_paths=[
            str(SOURCES),
            *(cuda_include_folders(toolchain.cuda_home) if toolchain.cuda_home else []),
        ],
        build_directory=folder,
        with_cuda=toolchain.with_cuda,
        is_python_module=False,
        verbose=True,
    )
