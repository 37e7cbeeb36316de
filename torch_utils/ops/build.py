"""Builds the compiled ops from ``csrc/`` at first use, and keeps the result.

A build is one folder ``<cache>/<key>/`` whose name is a digest of everything that the result depends on:
sources, torch, CUDA, compiler, flags, architecture, Python's ABI. It is made under another name and renamed
when it is whole, so a build that was cut off leaves nothing that could be taken for one. While it is made, an
advisory lock keeps other processes from doing the same work. The system drops that lock with the process that
holds it, whichever way that ends.
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
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import torch_utils.ops.build_cache as build_cache
from dnnlib.environment import cache_root
from dnnlib.files import sync_folder

SOURCES = Path(__file__).parent / "csrc"
CPU_SOURCES = ("binding_cpu.cpp", "upfirdn2d_cpu.cpp", "bias_act_cpu.cpp")
CUDA_SOURCES = ("binding_cuda.cpp", "upfirdn2d.cu", "bias_act.cu")
NAME = "ggdr_ops"
TIMEOUT = 900.0  # seconds, for a build or for waiting for another process's
NEEDED_SPACE = 64 << 20  # bytes

# Loops over floats become vector code; infinities and NaN keep their meaning. What is written for 16 lanes
# should use them.
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

_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from torch_utils.ops.build import compile_job; compile_job(sys.argv[2])"


class BuildError(RuntimeError):
    """The ops cannot be built here. One line: what is missing, and what to do about it."""


class CompilerError(BuildError):
    """The compiler does not take the sources, and will not the next time."""


@dataclass(frozen=True)
class Toolchain:
    """What a build uses. Everything here goes into the key of its result.

    Attributes:
        compiler: path of the C++ compiler.
        compiler_version: the first line of what it says of itself.
        ninja: path.
        nvcc: path, None where the GPU's ops are not built.
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
        """Whether the GPU's ops are built too."""
        return self.nvcc is not None

    @property
    def sources(self) -> list[str]:
        """The source files."""
        return [str(SOURCES / name) for name in CPU_SOURCES + (CUDA_SOURCES if self.with_cuda else ())]


def builds_folder() -> Path:
    """``ops`` in the folder for everything that is cached (:func:`dnnlib.environment.cache_root`). Raises
    :class:`UserError`."""
    return cache_root() / "ops"


def first_line(*command: str) -> str:
    """The first line that a command prints. Raises :class:`BuildError` where it cannot be run."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"'{' '.join(command)}' does not work here ({_brief(str(error))})") from error
    return (result.stdout or result.stderr).strip().split("\n")[0]


def find_compiler() -> str:
    """The path of the C++ compiler: ``$CXX``, or ``g++`` or ``c++`` on the PATH. Raises
    :class:`BuildError`."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++"]
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    raise BuildError(
        f"no C++ compiler ({' or '.join(names)} is not on the PATH); install one, such as Debian's g++, or "
        "set CXX"
    )


def find_ninja() -> str:
    """The path of ninja: beside Python, where pip puts it, or on the PATH. Raises :class:`BuildError`."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    path = shutil.which("ninja", path=folders)
    if path is None:
        raise BuildError("no ninja, which runs the build; pip install ninja")
    return path


def find_nvcc() -> str | None:
    """The path of nvcc: in ``$CUDA_HOME``, on the PATH, or in ``/usr/local/cuda``; None if there is none."""
    homes = [home for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    folders = [str(Path(home) / "bin") for home in homes] + [
        os.environ.get("PATH", ""),
        "/usr/local/cuda/bin",
    ]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def nvcc_version(nvcc: str) -> str:
    """The CUDA release of an nvcc, such as ``13.0``. Raises :class:`BuildError` where it does not run or says
    nothing of it."""
    try:
        text = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{nvcc} does not run ({_brief(str(error))})") from error
    match = re.search(r"release (\d+\.\d+)", text)
    if match is None:
        raise BuildError(f"{nvcc} does not say which CUDA release it is of")
    return match[1]


def toolkit_folder(nvcc: str) -> str:
    """The CUDA toolkit's folder, as nvcc itself gives it: what is called nvcc on the PATH may be a script
    that lies elsewhere."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        dry = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", os.devnull],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if (match := re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)) is not None:
            return os.path.realpath(match[1].strip())
    return str(Path(nvcc).resolve().parent.parent)


def cuda_include_folders(cuda_home: str) -> list[str]:
    """Where CUDA's headers are, if not in the toolkit: in the packages that pip installs with torch."""
    if (Path(cuda_home) / "include" / "cuda_runtime.h").is_file():
        return []
    packages = Path(torch.__file__).parent.parent / "nvidia"
    return sorted(str(path.parent) for path in packages.glob("*/include/cuda_runtime.h"))


def cuda_obstacle() -> str | None:
    """Why the GPU's ops cannot be built here, None if they can."""
    if not torch.cuda.is_available():
        return "no GPU that PyTorch can use"
    if torch.version.cuda is None:
        return "this PyTorch is not built for CUDA"
    nvcc = find_nvcc()
    if nvcc is None:
        return f"no nvcc; install the CUDA {torch.version.cuda} toolkit and put its bin folder on the PATH, or set CUDA_HOME"
    try:
        version = nvcc_version(nvcc)
    except BuildError as error:
        return str(error)
    if version.split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"{nvcc} is of CUDA {version}, PyTorch of CUDA {torch.version.cuda}; install that toolkit or set CUDA_HOME to it"
    return None


def find_toolchain(with_cuda: bool) -> Toolchain:
    """What a build would use, the CUDA part of it only where asked for. Raises :class:`BuildError` if
    something is missing."""
    compiler = find_compiler()
    plain = Toolchain(
        compiler=compiler, compiler_version=first_line(compiler, "--version"), ninja=find_ninja()
    )
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
    """The processor's kind, on which the meaning of ``-march=native`` depends."""
    flags = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        flags = " ".join(
            sorted(
                set(re.findall(r"^(?:flags|Features|model|cpu family|CPU part)\s*:.*$", text, re.MULTILINE))
            )
        )
    return f"{platform.machine()} {flags}"


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
    """The name of the folder of a build."""
    return hashlib.sha256(json.dumps(describe(toolchain), sort_keys=True).encode()).hexdigest()[:20]


def library(
    toolchain: Toolchain,
    cache: Path,
    timeout: float = TIMEOUT,
    announce: Callable[[], None] = lambda: None,
    *,
    again: bool = True,
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[Path, float]:
    """The compiled library, from ``cache`` or built into it, and the seconds that building took (0: it was
    there).

    Args:
        toolchain: what to build with.
        cache: folder of builds.
        timeout: seconds, for a build or for waiting for another process's.
        announce: called before a build.
        again: try also what the compiler refused the last time.
        warn: called with a line where a build that is there is not used, because
            :mod:`torch_utils.ops.build_cache` says so.

    Raises :class:`BuildError`: it cannot be built, or not within ``timeout`` seconds, or the cache cannot be
    written.
    """
    try:
        cache, line = build_cache.own_folder(cache)
        if line is not None:
            warn(line)
        return _library(toolchain, cache, timeout, announce, again, warn)
    except build_cache.NotOurs as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(
            f"the cache {cache} cannot be written ({error.strerror}); set GGDR_CACHE_DIR to a folder that can"
        ) from error


def _library(
    toolchain: Toolchain,
    cache: Path,
    timeout: float,
    announce: Callable[[], None],
    again: bool,
    warn: Callable[[str], None],
) -> tuple[Path, float]:
    folder = cache / build_key(toolchain)
    target, failed = folder / f"{NAME}.so", cache / f"{folder.name}.failed"
    if target.is_file() and build_cache.fault(target) is None:
        return target, 0.0
    free = shutil.disk_usage(cache).free
    if free < NEEDED_SPACE:
        raise BuildError(
            f"only {free >> 20} MiB are free in {cache}, a build needs {NEEDED_SPACE >> 20}; set "
            "GGDR_CACHE_DIR to another disk"
        )
    start = time.monotonic()
    with exclusive(cache / f"{folder.name}.lock", timeout):
        if target.is_file():
            fault = build_cache.fault(target)
            if fault is None:
                return target, 0.0
            warn(f"{fault}, so it is not loaded but built again")
        if os.path.lexists(folder):
            build_cache.put_aside(folder)
        if failed.is_file() and not again:
            raise BuildError(
                f"{failed.read_text(encoding='utf-8')}; that was an earlier attempt, python tools/doctor.py "
                "makes another"
            )
        announce()
        try:
            _build(toolchain, folder, timeout)
        except CompilerError as error:
            draft = cache / f"{folder.name}.failed.tmp"
            draft.write_text(str(error), encoding="utf-8")
            draft.replace(failed)
            raise
        failed.unlink(missing_ok=True)
    return target, time.monotonic() - start


@contextlib.contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold an advisory lock on a file. What a dead process left is free: the system drops its lock with it.

    Raises :class:`BuildError` when another process, which the file names, holds it for longer than
    ``timeout`` seconds.
    """
    import fcntl

    with open(path, "a+", encoding="utf-8") as stream:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    stream.seek(0)
                    owner = stream.read().strip() or "another process"
                    raise BuildError(
                        f"waited {timeout:.0f} s for {owner}, which holds {path}; is it stuck?"
                    ) from None
                time.sleep(min(0.2, timeout / 10))
            except OSError:
                break  # a file system without locks; the final rename keeps results whole all the same
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


def _build(toolchain: Toolchain, folder: Path, timeout: float) -> None:
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    log = folder.parent / f"{folder.name}.log"
    try:
        job = work / "job.json"
        job.write_text(json.dumps({**asdict(toolchain), "folder": str(work)}), encoding="utf-8")
        _run_job(job, toolchain, log, timeout)
        kept = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        os.chmod(kept, 0o755)
        try:
            os.rename(work / f"{NAME}.so", kept / f"{NAME}.so")
            (kept / "built-with.json").write_text(json.dumps(describe(toolchain), indent=1), encoding="utf-8")
            os.rename(log, kept / "build.log")
            build_cache.seal(kept / f"{NAME}.so")
            try:
                os.rename(kept, folder)
            except OSError:
                if (
                    build_cache.fault(folder / f"{NAME}.so") is not None
                ):  # else another process without a lock was first
                    raise
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(kept, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_job(job: Path, toolchain: Toolchain, log: Path, timeout: float) -> None:
    """Compile in a process of its own, which can be ended with all that it started."""
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
    command = [sys.executable, "-c", _CHILD, str(SOURCES.parents[2]), str(job)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command,
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
    """The line of a build's output that says what went wrong."""
    patterns = [
        r".*No space left on device.*",
        r".*\b(?:fatal )?error\b\s?:.*",
        r".*undefined reference.*",
        r".*\w*Error: .*",
        r".*\S.*",
    ]
    for pattern in patterns:
        found = re.findall(rf"^{pattern}$", text, re.MULTILINE | re.IGNORECASE)
        if found:
            return _brief(found[-1] if pattern == patterns[-1] else found[0])
    return "it printed nothing"


def _brief(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + "…"


def compile_job(path: str) -> None:
    """What the process that :func:`_run_job` starts does: compile, then load the result to see that it can be
    loaded."""
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
