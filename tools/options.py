"""Options that several commands for trained networks share."""

import click

from dnnlib.cli import PATH, PATH_OR_URL, ClassNumber, FiniteFloat, environment_option
from dnnlib.environment import OFFLINE

network = click.option(
    "--network",
    type=PATH_OR_URL,
    metavar="PATH|URL",
    required=True,
    help="network pickle, or the .safetensors file that tools/convert.py made of one",
)
any_network = click.option(
    "--network",
    type=PATH_OR_URL,
    metavar="PATH|URL",
    required=True,
    help="network pickle, or what tools/convert.py made of one (.safetensors .onnx)",
)
offline = environment_option(
    "--offline",
    variable=OFFLINE,
    flag_value="1",
    help="download nothing; what was downloaded before is used",
)
device = click.option(
    "--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True
)
truncation = click.option(
    "--trunc",
    "truncation_psi",
    type=FiniteFloat(),
    default=1,
    show_default=True,
    help="truncation psi: 1 varied, 0 average",
)
class_idx = click.option(
    "--class", "class_idx", type=ClassNumber(), metavar="INT", help="class of a conditional network"
)
noise_mode = click.option(
    "--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True
)
outdir = click.option(
    "--outdir", type=PATH, metavar="DIR", required=True, help="where the pictures go; made if need be"
)
batch = click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="INT",
    help="pictures at a time; changes none of them",
)
