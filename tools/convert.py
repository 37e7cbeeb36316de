"""Convert networks between formats, and print what is in a file.

Usage:

    python tools/convert.py --network=net.pkl --info
    python tools/convert.py --network=net.pkl --out=net.safetensors
    python tools/convert.py --network=net.pkl --out=net.onnx
"""

import json
import sys
from pathlib import Path
from typing import Literal

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    PATH,
    Command,
    FiniteFloat,
    friendly_errors,
    output_file,
    overwrite_option,
    refuse_existing,
)
from dnnlib.errors import UserError
from tools import options

TARGETS = (".pkl", ".safetensors", ".onnx", ".pt2")


@click.command(cls=Command)
@options.any_network
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    help=f"file to write; its suffix tells the format: {' '.join(TARGETS)}",
)
@overwrite_option
@click.option(
    "--trunc", "psi", type=FiniteFloat(), help="truncation psi to fix in an export  [default: an input of it]"
)
@click.option(
    "--noise",
    type=click.Choice(["const", "external"]),
    help="an export's noise: the network's own, or inputs  [default: const]",
)
@click.option("--info", is_flag=True, help="print what is in the file")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON")
@options.offline
@friendly_errors
def main(
    network: str,
    out: str | None,
    psi: float | None,
    noise: Literal["const", "external"] | None,
    info: bool,
    as_json: bool,
) -> None:
    """Convert a network, or print what is in its file.

    \b
    .pkl           network pickle: all networks; train.py, generate.py and the reference's tools open it
    .safetensors   the same as plain tensors, with name.json beside it; both ways bit for bit
    .onnx          the averaged generator as a graph, checked with onnxruntime against the network
    .pt2           the same as a program of torch.export, which is written here and not read

    Exports are float32 with a dynamic batch size. There is no way back from them.
    """
    if out is None and not (info or as_json):
        raise UserError("give --out=FILE to convert, or --info to see what is in the file")
    if info or as_json:
        from training.inference.describe import describe_file, table

        about = describe_file(network)
        print(json.dumps(about, indent=2) if as_json else table(about))
    if out is not None:
        convert(network, out, psi, noise)


def convert(network: str, out: str, psi: float | None, noise: Literal["const", "external"] | None) -> None:
    """Write ``out``; the file appears complete and checked, or not at all."""
    suffix = Path(out).suffix.lower()
    if suffix in (".ts", ".pt"):
        raise UserError(
            f"--out={out}: PyTorch has deprecated TorchScript; write a program of torch.export (.pt2) instead"
        )
    if suffix not in TARGETS:
        raise UserError(f"--out={out}: the suffix tells the format, and must be one of {' '.join(TARGETS)}")
    if Path(out).resolve() == Path(network).resolve():
        raise UserError(f"--out={out} is the network itself; give another name")
    exporting = suffix in (".onnx", ".pt2")
    if not exporting and (psi is not None or noise is not None):
        raise UserError(
            f"--trunc and --noise have no effect on {suffix}, which holds the networks themselves; leave "
            "them out"
        )

    refuse_existing(out)
    if suffix == ".safetensors":
        refuse_existing(Path(out).with_suffix(".json"))

    from dnnlib.files import atomic_write, writing
    from training.inference.export import GeneratorGraph, GraphOptions, export
    from training.inference.files import load_networks, save_networks

    networks = load_networks(network)
    if not exporting:
        target = output_file(out)
        with writing(target.parent):
            save_networks(target, networks)
        print(f"{target}")
        return
    graph = GeneratorGraph(networks["G_ema"], GraphOptions(psi, noise or "const"))
    content, worst = export(graph, networks, suffix)
    target = output_file(out)
    with writing(target.parent), atomic_write(target) as stream:
        stream.write(content)
    print(f"{target}: takes {', '.join(graph.input_names())}")
    print(f"checked: pictures differ from the network's by {worst:.2g} at most (-1 is black, 1 is white)")


if __name__ == "__main__":
    main()
