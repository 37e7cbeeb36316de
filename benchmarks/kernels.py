"""What the GPU's kernels cost in instructions, counted in the machine code: no GPU is needed.

Usage:

    python benchmarks/kernels.py [--arch 90]... [--json FILE]

nvcc compiles each ``.cu`` file for each architecture, ``cuobjdump`` disassembles it. Counted is what one
thread executes from its entry to its exit, over the outputs that it computes:

- Of two ways at a branch the longer one counts, so a thread whose pixels all exist executes no more than
  this. An instruction whose predicate is false counts too.
- A way that stores less at once than the kernel can is left out where another exists: it is for the last
  pixels of a row, and for results that are not aligned.
- Kernels are unrolled. An instruction in a loop counts as often as ``TRIPS`` says; a loop that it does not
  know is an error, as is a jump to a computed address.

The kernels for any factor and any activation are not counted: what they execute depends on the call.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.options import json_option
from dnnlib.cli import Command, friendly_errors
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from torch_utils.ops import build

SOURCES = ("upfirdn2d.cu", "bias_act.cu")
ARCHITECTURES = (80, 90, 100)
THREADS = 256  # of a block, in every kernel
TYPES = {"__half": "fp16", "__nv_bfloat16": "bf16", "float": "fp32", "double": "fp64"}
FACTORS = {(1, 1): "filter", (2, 1): "up2", (1, 2): "down2"}

#: How often the loops of a kernel run, by its name, in the order of their addresses.
TRIPS: dict[str, tuple[int, ...]] = {}


class Limits(NamedTuple):
    """What a multiprocessor has (CUDA C++ Programming Guide, technical specifications).

    ``shared`` is in bytes, of which each block takes 1 KiB for the system.
    """

    threads: int
    blocks: int
    shared: int


LIMITS = {
    75: Limits(1024, 16, 64 << 10),
    80: Limits(2048, 32, 164 << 10),
    86: Limits(1536, 16, 100 << 10),
    87: Limits(1536, 16, 164 << 10),
    89: Limits(1536, 24, 100 << 10),
    90: Limits(2048, 32, 228 << 10),
    100: Limits(2048, 32, 228 << 10),
    103: Limits(2048, 32, 228 << 10),
    120: Limits(1536, 24, 100 << 10),
    121: Limits(1536, 24, 100 << 10),
}
REGISTERS = 65536  # of a multiprocessor; a warp takes them in units of 256


INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z]\S*)(.*?);")
TILED = re.compile(r"void upfirdn2d_(4x4|4x4_channels|separable)<(\w+), (\d), (\d), Tile<(.*?)>, (\d+)>")
PACKS = re.compile(r"void bias_act_packs<(\w+), ([01]), Only<\(Act\)2>, (\d+), \(Bias\)(\d)>")
COMPUTED = -1  # the target of a jump to an address that the code computes


class Instruction(NamedTuple):
    """``target`` is the address that a branch or a call goes to; ``always`` is False under a predicate."""

    address: int
    name: str
    always: bool
    target: int | None

    @property
    def stores(self) -> int:
        """Bytes that it writes to global memory."""
        if not self.name.startswith("STG"):
            return 0
        width = re.search(r"\.(?:[US])?(8|16|64|128)\b", self.name)
        return int(width[1]) // 8 if width else 4


class Kernel(NamedTuple):
    """A kernel by what it does: ``name`` such as ``filter_nchw_fp16``, and the outputs of one thread."""

    name: str
    outputs: int


class Resources(NamedTuple):
    """What one kernel takes: registers of a thread, bytes of shared memory of a block."""

    registers: int
    shared: int


def parse_disassembly(text: str) -> dict[str, list[Instruction]]:
    """Every function's instructions, from what ``cuobjdump -sass`` prints."""
    functions: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in text.splitlines():
        if (found := re.match(r"\s*Function : (\S+)", line)) is not None:
            code = functions.setdefault(found[1], [])
        elif (found := INSTRUCTION.match(line)) is not None:
            address, predicate, name, operands = found.groups()
            target = None
            if name.startswith(("BRA", "BRX", "CALL", "JMP", "JMX")):
                last = re.search(r"0x([0-9a-f]+)\)?\s*$", operands)
                target = int(last[1], 16) if last and not name.startswith(("BRX", "JM")) else COMPUTED
            always = predicate is None and not re.match(r"\s*!?U?P\d", operands)
            code.append(Instruction(int(address, 16), name, always, target))
    return functions


def parse_resources(text: str) -> dict[str, Resources]:
    """Every function's registers and shared memory, from what ``cuobjdump -res-usage`` prints."""
    found = re.findall(r"Function (\S+):\s+REG:(\d+) .*?SHARED:(\d+)", text)
    return {name: Resources(int(registers), int(shared)) for name, registers, shared in found}


def identify(name: str) -> Kernel | None:
    """What a kernel does, from its name in C++; None where it is not counted."""
    name = re.sub(r"ggdr::|\(anonymous namespace\)::", "", name)
    if (found := TILED.match(name)) is not None:
        kind, dtype, up, down = found[1], TYPES[found[2]], int(found[3]), int(found[4])
        *tile, lanes_first = found[5].split(", ")
        planes, ox, oy, last = int(tile[2]), int(tile[3]), int(tile[4]), int(found[6])
        if kind == "separable" and last == 0:
            return None  # as many taps as the call says
        label = ("sep12_" if kind == "separable" else "") + FACTORS[up, down]
        if kind == "4x4_channels":
            return Kernel(f"{label}_nhwc_{dtype}", ox * oy * last)
        if lanes_first == "true":
            return Kernel(f"{label}_nhwc_{'' if kind == 'separable' else 'single_'}{dtype}", ox * oy)
        variant = "_small" if planes > 1 else "_unaligned" if last == 1 and kind == "4x4" else ""
        return Kernel(f"{label}{'' if kind == 'separable' else '_nchw'}{variant}_{dtype}", ox * oy)
    if (found := PACKS.match(name)) is not None:
        way = {"0": "", "1": "_nchw", "2": "_nhwc"}.get(found[4])
        if way is None:
            return None
        return Kernel(f"bias_act{'_gradient' * int(found[2])}{way}_{TYPES[found[1]]}", int(found[3]))
    return None


class _Ways:
    """The longest way from each instruction of a function to its end, from the last instruction on."""

    def __init__(self, code: list[Instruction], trips: tuple[int, ...]) -> None:
        self.code = code
        self.places = {instruction.address: place for place, instruction in enumerate(code)}
        self.loops = [
            range(self.places[i.target], place + 1)
            for place, i in enumerate(code)
            if i.name.startswith("BRA") and i.target is not None and i.target < i.address
        ]
        self.trips = trips
        self.widest = max((instruction.stores for instruction in code), default=0)
        self.lengths: list[float | None] = [None] * (len(code) + 1)  # None: no way leads on from here
        for place in reversed(range(len(code))):
            if not 0 < code[place].stores < self.widest:
                self.lengths[place] = self._from(place)

    def _from(self, place: int) -> float | None:
        instruction = self.code[place]
        ahead = [] if instruction.target is None else [self._at(instruction.target)]
        ends, jumps = instruction.name.startswith(("EXIT", "RET")), instruction.name.startswith("BRA")
        ways: list[float] = [0] if ends else []
        if jumps and instruction.target is not None and instruction.target > instruction.address:
            ways += [length for length in ahead if length is not None]
        after = self.lengths[place + 1]
        if after is not None and not (instruction.always and (ends or jumps)):
            called = ahead[0] if instruction.name.startswith("CALL") else 0
            ways += [] if called is None else [after + called]
        return max(ways) + self._times(place) if ways else None

    def _at(self, target: int) -> float | None:
        if target not in self.places:
            raise ValueError("a jump to an address that it computes")
        return self.lengths[self.places[target]]

    def _times(self, place: int) -> float:
        around = [number for number, loop in enumerate(self.loops) if place in loop]
        if around and around[-1] >= len(self.trips):
            return math.inf
        return math.prod(self.trips[number] for number in around)


def count_path(code: list[Instruction], trips: tuple[int, ...] = ()) -> int:
    """Instructions of the longest way through a function, as the head of this file says.

    Raises :class:`ValueError` where that cannot be told.
    """
    length = _Ways(code, trips).lengths[0]
    if length is None:
        raise ValueError("no way leads to its end")
    if length == math.inf:
        raise ValueError("it has a loop whose number of trips is not known")
    return int(length)


def occupancy(used: Resources, architecture: int) -> float | None:
    """Threads that a multiprocessor holds at once, of those that it could; None where that is not known."""
    limits = LIMITS.get(architecture)
    if limits is None:
        return None
    warps = THREADS // 32
    by_registers = REGISTERS // (-(-used.registers * 32 // 256) * 256 * warps)
    reserved = 0 if architecture < 80 else 1024
    by_shared = limits.shared // max(-(-(used.shared + reserved) // 128) * 128, 1)
    blocks = min(by_registers, by_shared, limits.blocks, limits.threads // THREADS)
    return blocks * THREADS / limits.threads


def find_tool(name: str, nvcc: str) -> str:
    """The path of one of the toolkit's programs: beside nvcc, on the PATH, or in PyTorch's package triton.

    Raises :class:`UserError`.
    """
    toolkit = Path(build.toolkit_folder(nvcc)) / "bin"
    triton = Path(torch.__file__).parent.parent / "triton" / "backends" / "nvidia" / "bin"
    folders = [str(toolkit), os.environ.get("PATH", ""), str(triton)]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        raise UserError(f"no {name}: it belongs to the CUDA toolkit; put its folder on the PATH")
    return path


def run(*command: str, text: str | None = None) -> str:
    """What a command prints. Raises :class:`UserError` with its first line where it fails."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().split("\n")[0]
        raise UserError(f"{Path(command[0]).name} failed (status {done.returncode}): {said}")
    return done.stdout


def measure(source: str, architecture: int, nvcc: str) -> list[dict[str, object]]:
    """Compile one file for one architecture and count its kernels."""
    cuobjdump = find_tool("cuobjdump", nvcc)
    includes = [f"-I{folder}" for folder in build.cuda_include_folders(build.toolkit_folder(nvcc))]
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        flags = ["-cubin", f"-arch=sm_{architecture}", "-std=c++20", *build.CUDA_FLAGS, *includes]
        run(nvcc, *flags, str(build.SOURCES / source), "-o", cubin)
        functions = parse_disassembly(run(cuobjdump, "-sass", cubin))
        resources = parse_resources(run(cuobjdump, "-res-usage", cubin))
    names = run("c++filt", text="\n".join(functions)).split("\n")
    rows: list[dict[str, object]] = []
    for (mangled, code), name in zip(functions.items(), names, strict=False):
        if (kernel := identify(name)) is None:
            continue
        try:
            instructions = count_path(code, TRIPS.get(kernel.name, ()))
        except ValueError as error:
            raise UserError(f"{kernel.name} on sm_{architecture} cannot be counted: {error}") from error
        rows.append(
            {
                "kernel": kernel.name,
                "architecture": f"sm_{architecture}",
                "instructions": instructions / kernel.outputs,
                "outputs_of_a_thread": kernel.outputs,
                **resources[mangled]._asdict(),
                "occupancy": occupancy(resources[mangled], architecture),
            }
        )
    return sorted(rows, key=lambda row: str(row["kernel"]))


def print_table(rows: list[dict[str, object]], architectures: list[int]) -> None:
    """One line a kernel, one group of columns an architecture."""
    by_kernel: dict[str, dict[str, dict[str, object]]] = defaultdict(dict)
    for row in rows:
        by_kernel[str(row["kernel"])][str(row["architecture"])] = row
    print("Instructions an output, registers, shared memory in bytes, occupancy:")
    print("| kernel |" + "".join(f" sm_{a} | regs | shared | occ. |" for a in architectures))
    print("|---|" + "---:|" * (4 * len(architectures)))
    for kernel, found in by_kernel.items():
        cells = []
        for architecture in architectures:
            row = found[f"sm_{architecture}"]
            share = "?" if row["occupancy"] is None else f"{row['occupancy']:.2f}"
            cells.append(f" {row['instructions']:.1f} | {row['registers']} | {row['shared']} | {share} |")
        print(f"| {kernel} |" + "".join(cells))


@click.command(cls=Command)
@click.option(
    "--arch",
    "wanted",
    type=click.IntRange(50, 999),
    multiple=True,
    help="Such as 90, as often as wanted  [default: those of 80, 90 and 100 that nvcc knows]",
)
@json_option
@friendly_errors
def main(wanted: tuple[int, ...], json_file: str | None) -> None:
    """Count the instructions of the GPU's kernels. Needs nvcc, and no GPU."""
    nvcc = build.find_nvcc()
    if nvcc is None:
        raise UserError(
            "no nvcc: install the CUDA toolkit, and put its bin folder on the PATH or set CUDA_HOME"
        )
    known = [int(number) for number in re.findall(r"sm_(\d+)", run(nvcc, "--list-gpu-code"))]
    if unknown := [number for number in wanted if number not in known]:
        listed = ", ".join(map(str, known))
        raise UserError(f"--arch: {nvcc} does not know sm_{unknown[0]}; it knows {listed}")
    architectures = sorted(set(wanted)) or [number for number in ARCHITECTURES if number in known]
    if not architectures:
        raise UserError(f"{nvcc} knows none of {', '.join(map(str, ARCHITECTURES))}: choose with --arch")
    find_tool("cuobjdump", nvcc)  # before the minutes that compiling takes
    rows = [row for a in architectures for source in SOURCES for row in measure(source, a, nvcc)]
    print_table(rows, architectures)
    if json_file is not None:
        chosen = f"sm_{90 if 90 in architectures else architectures[0]}"
        keys = {f"instructions_{r['kernel']}": r["instructions"] for r in rows if r["architecture"] == chosen}
        result = {"nvcc": build.nvcc_version(nvcc), "architecture": chosen, **keys, "rows": rows}
        with atomic_write(json_file, "w", encoding="utf-8") as stream:
            json.dump(result, stream, indent=1)


if __name__ == "__main__":
    main()
