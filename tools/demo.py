"""Train with GGDR on the bundled images, generate pictures and measure them.

Usage:

    python tools/demo.py [--outdir=demo-run]

Prints each of its three command lines before it runs it. 6 to 10 minutes on two CPU cores.
"""

import os
import shutil
import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import PATH, Command, FiniteFloat, friendly_errors, output_folder
from dnnlib.errors import UserError
from dnnlib.foreground import run_program
from metrics.results import read_results

ROOT = Path(__file__).resolve().parent.parent
METRICS = ("fid1k_full", "pr1k3_full", "dc1k5_full")
TRAIN = (
    "train.py",
    "--data=data/emoji32.zip",
    "--reg_type=ggdr",
    "--cfg=cifar",
    "--cbase=512",
    "--cmax=32",
    "--batch=32",
    "--mbstd-group=16",
    "--glr=0.005",
    "--gamma=3",
    "--snap=100",
    f"--metrics={','.join(METRICS)}",
    "--detector=efficientnet-lite0",
)


@click.command(cls=Command)
@click.option(
    "--outdir",
    default="demo-run",
    show_default=True,
    type=PATH,
    metavar="DIR",
    help="where everything goes; replaces an earlier demo",
)
@click.option(
    "--kimg",
    type=FiniteFloat(above=0),
    default=96.0,
    show_default=True,
    help="length of the training in thousands of images",
)
@friendly_errors
def main(outdir: str, kimg: float) -> None:
    """Train with GGDR on the bundled images, generate pictures and measure them."""
    root = Path(outdir).resolve()
    marker = root / ".demo"
    if root.exists() and (not root.is_dir() or (not marker.exists() and any(root.iterdir()))):
        raise UserError(
            f"--outdir={outdir} is a file, or has files that are not from a demo; name another folder"
        )
    output_folder(root)
    marker.touch()
    for old in set(root.iterdir()) - {marker}:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
    call(*TRAIN, f"--gpus={processes()}", f"--kimg={kimg:g}", f"--outdir={root}")
    (run_dir,) = (path for path in root.iterdir() if path.is_dir())
    network = max(run_dir.glob("network-snapshot-*.pkl"))
    call("generate.py", f"--network={network}", "--seeds=0-15", f"--outdir={root / 'generated'}")
    call(
        "calc_metrics.py",
        f"--network={network}",
        f"--metrics={','.join(METRICS)}",
        "--detector=efficientnet-lite0",
    )
    summarise(run_dir, root)


def processes() -> int:
    """One on a GPU; two on a CPU with several cores, which a network this small uses better than threads."""
    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def call(*arguments: str) -> None:
    """Print and run a command line; a failure ends the demo with its exit status."""
    print(f"\n$ python {' '.join(arguments)}", flush=True)
    status = run_program(arguments, ROOT)
    if status:
        sys.exit(status)


def summarise(run_dir: Path, root: Path) -> None:
    """Print the metrics at the start and the end of the training, and where the pictures are."""
    results: list[dict[str, float]] = [{}, {}]
    for metric in METRICS:
        records = read_results(run_dir, metric)
        for found, record in zip(results, (records[0], records[-1]), strict=True):
            found.update(record["results"])
    print("\nMeasured with efficientnet-lite0 (not comparable with Inception's values):")
    print(f"{'':32s}{'at the start':>14s}{'at the end':>14s}")
    for name in results[0]:
        print(f"{name:32s}{results[0][name]:14.4g}{results[1][name]:14.4g}")
    for title, path in (
        ("Real images:", run_dir / "reals.png"),
        ("Generated, before training:", run_dir / "fakes_init.png"),
        ("Generated, after training:", max(run_dir.glob("fakes[0-9]*.png"))),
        ("Single pictures:", root / "generated"),
        ("Everything of the run:", run_dir),
    ):
        print(f"{title:32s}{os.path.relpath(path)}")


if __name__ == "__main__":
    main()
