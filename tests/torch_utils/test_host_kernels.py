"""The GPU kernels, compiled as C++ and run on the CPU under AddressSanitizer, thread by thread.

The very text of ``csrc/*.cu`` runs here, with ``csrc/host_cuda.h`` in place of CUDA; so do the CPU's loops,
in uneven pieces. Every tensor lies in memory of exactly its size, so an access beyond it ends the program.
"""

import hashlib
import itertools
import os
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import op_checks as checks
from torch_utils.ops import bias_act, build, upfirdn2d

GPU_SOURCES = [build.SOURCES / name for name in build.CUDA_SOURCES if name.endswith(".cu")]
CPU_SOURCES = [build.SOURCES / name for name in build.CPU_SOURCES if "binding" not in name]
FLAGS = [
    "-std=c++20",
    "-O0",
    "-g1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-Wall",
    "-Wextra",
    "-Werror",
]
TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
UPFIRDN2D_GPU, BIAS_ACT_GPU, UPFIRDN2D_CPU, BIAS_ACT_CPU, ROUND, WIDEN, FAULT, DIVIDE = range(8)
ORDERS = {"forward": 0, "backward": 1, "shuffled": 2}
ACTS = list(bias_act.ACTIVATIONS)
Result = tuple[int, int, bytes]  # launches, blocks of the last one, what came out


#: The emulation of CUDA on the host.
EMULATION = Path(__file__).resolve().parents[1] / "cuda_emulation"


@pytest.fixture(scope="session")
def runner(build_cache: Path) -> Path:
    """The program, compiled at first use and kept for the next session of tests."""
    sources = [*GPU_SOURCES, *CPU_SOURCES, EMULATION / "host_runner.cpp"]
    compiler = build.find_compiler()
    texts = [
        path.read_bytes()
        for path in [*sources, *sorted(build.SOURCES.glob("*.h")), EMULATION / "host_cuda.h"]
    ]
    key = hashlib.sha256(
        b"\0".join([*texts, " ".join(FLAGS).encode(), build.version_line(compiler).encode()])
    ).hexdigest()[:20]
    target = build_cache / f"host-runner-{key}"
    if not target.exists():
        with build.exclusive(build_cache / f"{target.name}.lock", 300):
            _compile(compiler, sources, target)
    return target


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    def run(*arguments: str) -> None:
        result = subprocess.run(
            [compiler, *FLAGS, f"-I{EMULATION}", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr[:4000]

    objects = [f"{target}.{path.name}.o" for path in sources]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            ("-Wno-unknown-pragmas", f"-I{build.SOURCES}", "-x", "c++", "-c", str(s), "-o", o)
            for s, o in zip(sources, objects, strict=True)
        ]
        list(pool.map(lambda job: run(*job), jobs))
    run(*objects, "-o", f"{target}.tmp")
    os.rename(f"{target}.tmp", target)
    for path in objects:
        os.unlink(path)


def raw(tensor: torch.Tensor | None) -> bytes:
    """A tensor's numbers as they lie in memory."""
    return b"" if tensor is None else bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def encode(kind: int, ints: list[int], doubles: list[float], blobs: list[bytes]) -> bytes:
    """One case, as host_runner.cpp reads it."""
    parts = [
        struct.pack(f"<qq{len(ints)}q", kind, len(ints), *ints),
        struct.pack(f"<q{len(doubles)}d", len(doubles), *doubles),
    ]
    return b"".join(
        [*parts, struct.pack("<q", len(blobs)), *(struct.pack("<q", len(blob)) + blob for blob in blobs)]
    )


def run_cases(runner: Path, folder: Path, encoded: list[bytes]) -> list[Result]:
    """Run cases in one process; any report of a sanitizer fails the test."""
    folder.joinpath("cases").write_bytes(struct.pack("<q", len(encoded)) + b"".join(encoded))
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    command = [str(runner), str(folder / "cases"), str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    data, results = folder.joinpath("results").read_bytes(), []
    while data:
        launches, grid, size = struct.unpack_from("<3q", data)
        results.append((launches, grid, data[24 : 24 + size]))
        data = data[24 + size :]
    assert len(results) == len(encoded)
    return results


def decode(result: Result, dtype: torch.dtype) -> torch.Tensor:
    """What a case gave, in one dimension."""
    return torch.frombuffer(bytearray(result[2]), dtype=dtype)


def upfirdn2d_case(
    x: torch.Tensor, f: torch.Tensor, options: dict, order: str = "forward", kind: int = UPFIRDN2D_GPU
) -> tuple[bytes, Callable[[Result], None]]:
    """A case from a tensor in whatever layout, and the check of its result against plain PyTorch."""
    wide = upfirdn2d.upfirdn2d(x.double().contiguous(), f.double(), impl="ref", **options)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    out = torch.empty(wide.shape, memory_format=torch.channels_last if last else torch.contiguous_format)
    storage = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    (up_x, up_y), (down_x, down_y) = (upfirdn2d.parse_scale(options.get(key, 1)) for key in ("up", "down"))
    left, _, top, _ = upfirdn2d.parse_padding(options.get("padding", 0))
    (n, c, h, w), (out_h, out_w) = x.shape, wide.shape[2:]
    taps_x, taps_y = upfirdn2d.filter_size(f)
    axes = [w, out_w, up_x, down_x, left, taps_x, h, out_h, up_y, down_y, top, taps_y]
    flags = [
        int(f.ndim == 1),
        int(options.get("flip_filter", False)),
        ORDERS[order],
        x.storage_offset(),
        wide.numel(),
        0,
    ]
    ints = [TYPES[x.dtype], n, c, *axes, *x.stride(), *out.stride(), *flags]
    taps = f.to(torch.float64 if x.dtype == torch.float64 else torch.float32)

    def check(result: Result) -> None:
        got = torch.as_strided(decode(result, x.dtype), out.shape, out.stride())
        checks.assert_close(got, wide, x.dtype)

    return encode(kind, ints, [float(options.get("gain", 1))], [raw(storage), raw(taps), b""]), check


TILED = [
    {"padding": [2, 1, 1, 3]},
    {"up": 2, "padding": [2, 1, 3, 2], "gain": 4},
    {"down": 2, "padding": [1, 2, 2, 1], "flip_filter": True},
]
CROPS = [
    {"padding": [-3, 5, 6, -1]},
    {"up": 2, "padding": [-3, 3, 5, -1]},
    {"down": 2, "padding": [-3, 6, 5, -1]},
]
# Below, at and beyond one tile in every direction, odd sizes, single pixels' worth of output.
SIZES = [
    (1, 1, 33, 17),
    (2, 3, 16, 32),
    (2, 17, 5, 9),
    (1, 9, 7, 8),
    (1, 2, 2, 70),
    (1, 8, 4, 4),
    (1, 1, 35, 130),
    (1, 40, 18, 17),  # channels in packs of 4 and of 8, the last group not full
]


def kernel_cases(dtype: torch.dtype) -> list[tuple[bytes, Callable[[Result], None]]]:
    """Every kernel of upfirdn2d, over shapes, layouts and orders of threads."""
    orders, built = itertools.cycle(ORDERS), []
    names = ("plane4", "row12", "row8")  # none is symmetric
    filters = {name: checks.FILTERS[name] for name in names}
    every = dtype == torch.float32
    for shape, (name, f), options in itertools.product(
        SIZES if every else SIZES[::2], filters.items(), TILED + CROPS if every else TILED
    ):
        longer = 8 if name.startswith("row") else 0
        if longer and dtype == torch.float64:
            continue  # no tile: it takes a launch for each axis
        if name == "row8" and shape not in SIZES[::3]:
            continue
        padding = [p + longer for p in options["padding"]]
        x = checks.noise(*shape, dtype=dtype)
        for layout, laid in checks.layouts(x).items():
            if layout in ("transposed", "expanded", "islands") and shape != (2, 17, 5, 9):
                continue
            built.append(upfirdn2d_case(laid, f, {**options, "padding": padding}, next(orders)))
    return built


def general_cases(dtype: torch.dtype) -> list[tuple[bytes, Callable[[Result], None]]]:
    """What only the general kernel takes. It is not given separable filters."""
    built = []
    for shape in [(1, 1, 33, 17), (2, 17, 5, 9), (1, 2, 1, 40)]:
        for name, options in itertools.product(("plane", "plane4"), checks.RESAMPLINGS):
            for layout, laid in checks.layouts(checks.noise(*shape, dtype=dtype)).items():
                if layout == "expanded":
                    continue
                built.append(upfirdn2d_case(laid, checks.FILTERS[name], options, "shuffled"))
    return built


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_upfirdn2d_tiles(runner: Any, tmp_path: Path, dtype: Any) -> None:
    built = kernel_cases(dtype)
    for result, (_, check) in zip(
        run_cases(runner, tmp_path, [case for case, _ in built]), built, strict=True
    ):
        check(result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_upfirdn2d_general(runner: Any, tmp_path: Path, dtype: Any) -> None:
    built = general_cases(dtype)
    for result, (_, check) in zip(
        run_cases(runner, tmp_path, [case for case, _ in built]), built, strict=True
    ):
        check(result)


def test_upfirdn2d_on_the_cpu_in_pieces(runner: Any, tmp_path: Path) -> None:
    built = []
    for dtype, shape, name in itertools.product(
        [torch.float32, torch.bfloat16], [(2, 17, 5, 9), (1, 2, 3, 40)], ["outer4", "row17", "plane"]
    ):
        f = checks.FILTERS[name]
        for options in checks.RESAMPLINGS:
            x = checks.noise(*shape, dtype=dtype)
            for laid in (x, x.contiguous(memory_format=torch.channels_last)):
                built.append(upfirdn2d_case(laid, f, options, kind=UPFIRDN2D_CPU))
    for result, (_, check) in zip(
        run_cases(runner, tmp_path, [case for case, _ in built]), built, strict=True
    ):
        check(result)


def bias_act_case(
    kept: torch.Tensor,
    incoming: torch.Tensor | None,
    bias: torch.Tensor | None,
    step: int,
    act: str,
    order: int,
    constants: tuple[float, float, float],
    threads: str = "forward",
    skip: int = 0,
    kind: int = BIAS_ACT_GPU,
) -> bytes:
    """A case over flat tensors.

    ``skip`` numbers go before each tensor, or ``-skip`` before ``incoming`` alone, which spoils their
    alignment.
    """
    ints = [
        TYPES[kept.dtype],
        kept.numel(),
        step,
        1 if bias is None else bias.numel(),
        ACTS.index(act),
        order,
        ORDERS[threads],
        skip,
        0,
    ]
    gap, before = (
        torch.full([abs(skip)], torch.nan, dtype=kept.dtype),
        torch.full([max(skip, 0)], torch.nan, dtype=kept.dtype),
    )
    blobs = [
        b"" if incoming is None else raw(torch.cat([gap, incoming])),
        raw(torch.cat([before, kept])),
        raw(bias),
        b"",
    ]
    return encode(kind, ints, list(constants), blobs)


def expected_bias_act(
    kept: torch.Tensor,
    incoming: torch.Tensor | None,
    bias: torch.Tensor | None,
    step: int,
    act: str,
    order: int,
    constants: tuple[float, float, float],
) -> torch.Tensor:
    """The same from plain PyTorch in float64; what order 2 means is in ``bias_act_element``."""
    alpha, gain, clamp = constants
    kept = kept.double()
    if bias is not None:
        kept = kept + bias.double()[torch.arange(kept.numel()) // step % bias.numel()]

    def op(u: torch.Tensor) -> torch.Tensor:
        return bias_act.bias_act(
            u, act=act, alpha=alpha, gain=gain, clamp=None if clamp < 0 else clamp, impl="ref"
        )

    if order == 0:
        return op(kept)
    assert incoming is not None
    if act in ("softplus", "swish"):
        u = kept.requires_grad_(True)
    else:
        u = _inverse(act, kept / gain, alpha).requires_grad_(True)
    y = op(u)
    (slope,) = torch.autograd.grad(y.sum(), u, create_graph=True)
    inside = (y.abs() < clamp) if clamp >= 0 else torch.ones_like(y, dtype=torch.bool)
    if order == 1:
        return torch.where(inside, slope * incoming.double(), 0).detach()
    if not slope.requires_grad:
        return torch.zeros_like(kept)
    (curvature,) = torch.autograd.grad(slope.sum(), u, allow_unused=True)
    curvature = torch.zeros_like(u) if curvature is None else curvature
    if act not in ("softplus", "swish"):
        curvature = torch.where(slope == 0, 0, curvature / slope).detach()  # by y rather than by u
    return torch.where(inside, curvature * incoming.double(), 0).detach()


def _inverse(act: str, v: torch.Tensor, alpha: float) -> torch.Tensor:
    """The u with act(u) = v."""
    scale, selu = 1.0507009873554805, 1.6732632423543772
    inverses: dict[str, Callable[[], torch.Tensor]] = {
        "linear": lambda: v,
        "relu": lambda: torch.where(v > 0, v, -1),
        "lrelu": lambda: torch.where(v > 0, v, v / alpha),
        "tanh": lambda: v.atanh(),
        "sigmoid": lambda: v.logit(),
        "elu": lambda: torch.where(v > 0, v, v.clamp(max=0).log1p()),
        "selu": lambda: torch.where(v > 0, v / scale, (v.clamp(max=0) / (scale * selu)).log1p()),
    }
    return inverses[act]()


def results_of(act: str, size: int, gain: float, dtype: torch.dtype) -> torch.Tensor:
    """Numbers that ``gain · act`` can give, or that it takes in where the input is kept."""
    u = checks.noise(size, seed=3) * 2
    return (
        u.to(dtype)
        if act in ("softplus", "swish")
        else bias_act.bias_act(u, act=act, gain=gain, impl="ref").to(dtype)
    )


@pytest.mark.parametrize("kind", [BIAS_ACT_GPU, BIAS_ACT_CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_bias_act(runner: Any, tmp_path: Path, dtype: Any, kind: Any) -> None:
    """Every activation, order, clamp and way of lying in memory; sizes around packs and blocks."""
    encoded, expected, threads = [], [], itertools.cycle(ORDERS)
    biases = {"none": (None, 1), "inner": (5, 1), "outer": (3, 7), "one": (1, 4)}
    for act, order, clamp, (channels, step) in itertools.product(
        ACTS, (0, 1, 2), (-1.0, 0.6), biases.values()
    ):
        for size, skip in (
            ((1, 0), (173, 1)) if act != "lrelu" else ((1, 0), (7, 0), (255, 3), (258, -1), (2049, 0))
        ):
            constants = (
                0.2,
                -1.3,
                torch.tensor(clamp, dtype=dtype).item(),
            )  # the op rounds its clamp to what the type holds
            keeps_input = order == 0 or act in ("softplus", "swish")
            bias = checks.noise(channels, dtype=dtype, seed=5) if channels and keeps_input else None
            kept = (
                checks.noise(size, dtype=dtype, seed=6) * 2
                if order == 0
                else results_of(act, size, constants[1], dtype)
            )
            incoming = None if order == 0 else checks.noise(size, dtype=dtype, seed=7)
            case = (kept, incoming, bias, step, act, order, constants)
            encoded.append(
                bias_act_case(
                    *case, threads=next(threads), skip=0 if kind == BIAS_ACT_CPU else skip, kind=kind
                )
            )
            expected.append((expected_bias_act(*case), case))
    for result, (value, case) in zip(run_cases(runner, tmp_path, encoded), expected, strict=True):
        got = decode(result, dtype).double()
        tolerance = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}[
            dtype
        ]
        # Saturated results in half precision do not tell their input: there the derivative is what it is.
        sure = (
            value.isfinite()
            if dtype in (torch.float16, torch.bfloat16)
            else torch.ones_like(value, dtype=torch.bool)
        )
        torch.testing.assert_close(
            got[sure],
            value[sure],
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, case=case: f"{case[3:]}: {text}",
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_numbers_are_torchs(runner: Any, tmp_path: Path, dtype: Any) -> None:
    """Every number widens, and floats round, as torch's do: halfway cases, limits, subnormal numbers."""
    which = TYPES[dtype]
    halves = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    exact = halves.float()[halves.isfinite()]
    between = (exact.sort().values[:-1].double() + exact.sort().values[1:].double()) / 2
    random = (
        torch.randint(-(2**31), 2**31 - 1, [100000], generator=torch.Generator().manual_seed(0))
        .to(torch.int32)
        .view(torch.float32)
    )
    floats = torch.cat(
        [
            exact,
            between.float(),
            random,
            torch.tensor([65504.0, 65519.9, 65520.0, 3.4e38, 1e-45, torch.inf, -torch.inf, torch.nan]),
        ]
    )
    encoded = [encode(WIDEN, [which], [], [raw(halves)]), encode(ROUND, [which], [], [raw(floats)])]
    widened, rounded = run_cases(runner, tmp_path, encoded)
    torch.testing.assert_close(decode(widened, torch.float32), halves.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(decode(rounded, dtype), floats.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_upfirdn2d_beyond_32_bits(runner: Any, tmp_path: Path) -> None:
    """Images whose last pixels lie beyond 2^31 numbers.

    Only address space is taken: blocks at the end run, the others do not.
    """
    f = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    encoded, wanted = [], []
    # 2^32 numbers and more; the tile kernel, then the general one (three taps), contiguous and channels-last.
    for taps, last in itertools.product((f, f[:3, :3].contiguous()), (False, True)):
        channels, size = 64, 8200  # 64 * 8200 * 8200 = 4.3e9
        pad = taps.shape[0] - 1
        strides = (
            [channels * size**2, 1, channels * size, channels]
            if last
            else [channels * size**2, size**2, size, 1]
        )
        axis = [size, size, 1, 1, pad, taps.shape[0]]
        total = channels * size**2
        pixel, channel = (size - 1, size - 1), channels - 1
        offsets = [
            channel * strides[1] + (pixel[0] - i) * strides[2] + (pixel[1] - j) * strides[3]
            for i in range(3)
            for j in range(3)
        ]
        values = torch.arange(1.0, 10).half()
        grid = _grid(taps, last, channels, size)
        flags = [0, 1, ORDERS["forward"], 0, total, total]
        ints = [0, 1, channels, *axis, *axis, *strides, *strides, *flags]
        packed = struct.pack("<9q", *offsets)
        peeks = struct.pack("<2q", offsets[0], offsets[0] - strides[3])
        encoded.append(
            encode(
                UPFIRDN2D_GPU,
                ints,
                [1.0],
                [raw(values), raw(taps), struct.pack("<I", grid - 1), packed, peeks],
            )
        )
        image = torch.zeros([size_ := 6, size_], dtype=torch.float64)
        for (i, j), value in zip(itertools.product(range(3), range(3)), values, strict=True):
            image[-1 - i, -1 - j] = value
        y = upfirdn2d.upfirdn2d(image[None, None], taps.double(), padding=[pad, 0, pad, 0], flip_filter=True)[
            0, 0
        ]
        wanted.append((y[-1, -1], y[-1, -2], grid))
    for result, (a, b, grid) in zip(run_cases(runner, tmp_path, encoded), wanted, strict=True):
        assert result[1] == grid
        assert decode(result, torch.float16).tolist() == [a.item(), b.item()]


def _grid(taps: torch.Tensor, last: bool, channels: int, size: int) -> int:
    """Blocks that a launch has."""
    if taps.shape[0] == 3:
        return -(-channels * size * size // 256)
    return (-(-size // 16)) ** 2 * (channels // 32) if last else -(-size // 64) * -(-size // 32) * channels


def test_upfirdn2d_of_one_long_row(runner: Any, tmp_path: Path) -> None:
    """A row that is too long for offsets in 32 bits takes the general kernel."""
    width, f = 2**28 + 300, torch.arange(16.0).reshape(4, 4)
    offset, grid = width - 1, -(-(2**28 + 300) // 256)
    axes = [width, width, 1, 1, 3, 4, 1, 1, 1, 1, 3, 4]
    ints = [0, 1, 1, *axes, width, width, width, 1, width, width, width, 1, 0, 1, 0, 0, width, width]
    peeks = struct.pack("<q", offset)
    blobs = [raw(torch.tensor([2.0]).half()), raw(f), struct.pack("<I", grid - 1), peeks, peeks]
    (result,) = run_cases(runner, tmp_path, [encode(UPFIRDN2D_GPU, ints, [1.0], blobs)])
    assert result[:2] == (1, grid)
    assert decode(result, torch.float16).tolist() == [30.0]


def test_upfirdn2d_of_more_images_than_a_grid_has_blocks(runner: Any, tmp_path: Path) -> None:
    """The rest takes a second launch."""
    most, f = 2**31 - 1, torch.arange(16.0).reshape(4, 4)
    axis, strides = [1, 1, 1, 1, 3, 4], [1, 1, 1, 1]
    size = most + 5
    ints = [0, size, 1, *axis, *axis, *strides, *strides, 0, 1, 0, 0, size, size]
    offsets = struct.pack("<2q", 3, most + 3)
    blobs = [raw(torch.tensor([2.0, 3.0]).half()), raw(f), struct.pack("<I", 3), offsets, offsets]
    (result,) = run_cases(runner, tmp_path, [encode(UPFIRDN2D_GPU, ints, [1.0], blobs)])
    assert result[:2] == (2, 5)
    assert decode(result, torch.float16).tolist() == [30.0, 45.0]


def test_division_by_a_multiplication(runner: Any, tmp_path: Path) -> None:
    divisors = [1, 2, 3, 5, 7, 64, 641, 65535, 65536, 65537, 2**30 + 1, 2**31 - 1, 2**31]
    numbers = sorted(
        {min(max(k * d + e, 0), 2**31 - 1) for d in divisors for k in (0, 1, 2, 1000) for e in (-1, 0, 1)}
        | {2**31 - 2, 2**31 - 1}
    )
    blob = struct.pack(f"<{len(numbers)}I", *numbers)
    for result, d in zip(
        run_cases(runner, tmp_path, [encode(DIVIDE, [d], [], [blob]) for d in divisors]),
        divisors,
        strict=True,
    ):
        assert list(struct.unpack(f"<{len(numbers)}I", result[2])) == [n // d for n in numbers]


def test_bias_act_beyond_32_bits(runner: Any, tmp_path: Path) -> None:
    size, channels, step = 2**32 + 300 * 256, 7, 1000
    offsets = [size - 1, size - 2]
    bias = torch.arange(1.0, 8)
    ints = [0, size, step, channels, ACTS.index("linear"), 0, 0, 0, 1]
    blocks = 1 << 20  # the most that are launched: each goes on in strides
    encoded = encode(
        BIAS_ACT_GPU,
        ints,
        [0.0, 2.0, -1.0],
        [
            b"",
            raw(torch.tensor([3.0, 5.0]).half()),
            raw(bias.half()),
            struct.pack("<I", (size // 256 - 1) % blocks),
            struct.pack("<2q", *offsets),
        ],
    )
    (result,) = run_cases(runner, tmp_path, [encoded])
    expected = [
        2 * (value + bias[offset // step % channels].item())
        for offset, value in zip(offsets, (3.0, 5.0), strict=True)
    ]
    assert result[1] == blocks
    assert decode(result, torch.float16).tolist() == expected


@pytest.mark.parametrize(
    ("fault", "message"),
    [(0, "index 32 out of bounds"), (1, "16 of 32 threads reached the barrier"), (4, "heap-buffer-overflow")],
)
def test_the_runner_notices_faults(runner: Any, tmp_path: Path, fault: Any, message: Any) -> None:
    with pytest.raises(AssertionError, match=message):
        run_cases(runner, tmp_path, [encode(FAULT, [fault, 0], [], [])])


def test_a_missing_barrier_shows_in_some_order_of_threads(runner: Any, tmp_path: Path) -> None:
    rotated = [float((i + 1) % 32) for i in range(32)]
    results = run_cases(
        runner, tmp_path, [encode(FAULT, [fault, order], [], []) for fault in (2, 3) for order in (0, 1)]
    )
    without, with_barrier = (
        [decode(r, torch.float32).tolist() for r in pair] for pair in (results[:2], results[2:])
    )
    assert rotated not in without
    assert with_barrier == [rotated, rotated]
