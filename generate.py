"""Generate images from a trained network."""

from typing import Any

import click

from dnnlib.cli import (
    PATH,
    Command,
    GridSize,
    distinct,
    friendly_errors,
    ops_option,
    overwrite_option,
    parse_int_list,
)
from dnnlib.errors import UserError
from tools import options


@click.command(cls=Command)
@options.any_network
@click.option("--seeds", metavar="LIST", help="random seeds, such as 0-49,85; writes seedNNNN.png")
@options.truncation
@options.class_idx
@options.noise_mode
@click.option(
    "--projected-w",
    type=PATH,
    metavar="FILE",
    help="generate from the array 'w' of this .npz file instead of seeds; writes projNN.png",
)
@options.outdir
@overwrite_option
@click.option(
    "--grid",
    type=GridSize(),
    metavar="COLSxROWS",
    help="write one picture, grid.png, in place of single ones",
)
@options.batch
@options.device
@options.offline
@ops_option
@friendly_errors
def main(seeds: str | None, projected_w: str | None, grid: tuple[int, int] | None, **others: Any) -> None:
    """Generate images from a trained network.

    \b
    python generate.py --outdir=out --seeds=0-49,85 --network=network-snapshot-000100.pkl
    python generate.py --outdir=out --seeds=0-19 --trunc=0.7 --class=1 --grid=5x4 --network=cifar10.pkl

    The same command may replace its own pictures. Pictures of another network, class, truncation or noise are
    replaced only with --overwrite; give each its own --outdir. A repeated seed is made once.
    """
    if (seeds is None) == (projected_w is None):
        raise UserError("give either --seeds or --projected-w")
    numbers = [] if seeds is None else parse_int_list(seeds)
    if grid is None:  # each seed is a file
        numbers = distinct(numbers, "--seeds")

    from training.inference.picture_files import GenerateOptions, generate

    print(generate(GenerateOptions(seeds=numbers, projected_w=projected_w, grid=grid, **others)))


if __name__ == "__main__":
    main()
