"""Train StyleGAN2-ADA, with or without GGDR, on a folder or zip of images.

The options are those of the GGDR reference, and some more; docs are in README.md and in --help.
"""

import json
import os
import sys
from typing import Any

import click

from dnnlib.cli import Command, friendly_errors
from dnnlib.errors import UserError
from training import launch
from training.config import AUGPIPES, TrainConfig
from training.presets import RECIPES, TrainOptions, explain, resolve


def metric_names(text: str | None) -> tuple[str, ...] | None:
    """``"fid50k_full,pr50k3_full"`` to a tuple, ``"none"`` to an empty one, None to None. Raises :class:`UserError`."""
    from metrics.registry import parse_metrics  # here, because it takes its time

    return None if text is None else tuple(metric.name for metric in parse_metrics(text))


def summarise(config: TrainConfig, outdir: str | None) -> str:
    """What will be trained, in a few lines for a person."""
    data, schedule, ggdr = config.data, config.schedule, config.ggdr
    mirrored = f" ({data.num_images // 2} and their mirror images)" if data.xflip else ""
    lines = {
        "Output directory": os.path.join(outdir or "", f"NNNNN-{config.description}"),
        "Training data": data.path,
        "Training length": f"{schedule.total_kimg:g} kimg",
        "Batch": f"{schedule.batch_size} images, {schedule.batch_gpu} at once in each of {config.runtime.gpus} processes",
        "Number of images": f"{data.num_images}{mirrored}",
        "Image resolution": f"{data.resolution}x{data.resolution}, {data.num_channels} channels",
        "Conditional model": f"yes, {data.label_dim} labels" if data.use_labels else "no",
        "Mirroring": "yes" if data.xflip else "no",
        "GGDR": "off" if ggdr is None else f"feature maps at {ggdr.resolution}x{ggdr.resolution}, weight {ggdr.weight:g}",
    }
    return "\n".join(f"{name + ':':<19}{value}" for name, value in lines.items())


BOOL: dict[str, Any] = {"type": bool, "metavar": "BOOL"}


@click.command(cls=Command, context_settings={"max_content_width": 120})
# General.
@click.option("--outdir", metavar="DIR", help="Where the run directory goes  [required, but for --dry-run]")
@click.option("--gpus", metavar="INT", type=int, help="Number of GPUs, a power of two  [default: 1]")
@click.option("--snap", metavar="TICKS", type=int, help="Ticks between snapshots  [default: 50]")
@click.option("--tick", metavar="KIMG", type=float, help="Thousands of images between status lines  [default: 4]")
@click.option("--metrics", metavar="LIST", help="Metrics at every snapshot, by comma, or none  [default: fid50k_full]")
@click.option("--detector", metavar="PATH|NAME", help="Feature extractor of the metrics  [default: the one that each is defined with]")
@click.option("--seed", metavar="INT", type=int, help="Random seed  [default: 0]")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved configuration as JSON and stop")
# Data.
@click.option("--data", metavar="PATH", required=True, help="Training images: folder or zip")
@click.option("--cond", **BOOL, help="Condition on the labels of the data set  [default: 0]")
@click.option("--subset", metavar="INT", type=int, help="Train on only so many of the images  [default: all]")
@click.option("--mirror", **BOOL, help="Add a mirrored copy of every image  [default: 0]")
# Recipe.
@click.option("--cfg", type=click.Choice(list(RECIPES)), help="Recipe  [default: auto]")
@click.option("--gamma", metavar="FLOAT", type=float, help="Weight of R1  [default: by --cfg]")
@click.option("--kimg", metavar="KIMG", type=float, help="Training length in thousands of images  [default: by --cfg]")
@click.option("--batch", metavar="INT", type=int, help="Batch size over all GPUs  [default: by --cfg]")
@click.option("--cbase", metavar="INT", type=int, help="Channels times resolution  [default: by --cfg]")
@click.option("--cmax", metavar="INT", type=int, help="Largest number of channels  [default: 512]")
@click.option("--map-depth", metavar="INT", type=int, help="Layers of the mapping network  [default: by --cfg]")
@click.option("--glr", metavar="FLOAT", type=float, help="Learning rate of G  [default: by --cfg]")
@click.option("--dlr", metavar="FLOAT", type=float, help="Learning rate of D  [default: by --cfg]")
@click.option("--mbstd-group", metavar="INT", type=int, help="Group of the minibatch standard deviation  [default: by --cfg]")
# GGDR.
@click.option("--reg_type", type=click.Choice(["none", "ggdr"]), help="Regulariser of D  [default: none]")
@click.option("--ggdr_res", metavar="INT", type=int, help="Resolution of the target feature map  [default: 64; small images: a quarter]")
@click.option("--ggdr-weight", metavar="FLOAT", type=float, help="Weight of GGDR  [default: 10]")
@click.option("--ggdr-start-kimg", metavar="KIMG", type=float, help="Turn GGDR on after so much training  [default: 0]")
# Augmentation.
@click.option("--aug", type=click.Choice(["noaug", "ada", "fixed"]), help="Augmentation  [default: ada]")
@click.option("--p", metavar="FLOAT", type=float, help="Probability of augmentation, for --aug=fixed")
@click.option("--target", metavar="FLOAT", type=float, help="Target of ADA  [default: 0.6]")
@click.option("--augpipe", type=click.Choice(AUGPIPES), help="Augmentation pipeline  [default: bgc]")
# Transfer learning.
@click.option("--resume", metavar="PKL", help="Start from a network pickle  [default: noresume]")
@click.option("--freezed", metavar="INT", type=int, help="Freeze so many layers of D  [default: 0]")
# Machine.
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), help="Where to compute  [default: auto]")
@click.option("--fp32", **BOOL, help="No half precision  [default: 0]")
@click.option("--nhwc", **BOOL, help="Channels-last memory with half precision  [default: 0]")
@click.option("--nobench", **BOOL, help="No cuDNN benchmarking  [default: 0]")
@click.option("--allow-tf32", **BOOL, help="Allow TF32 in PyTorch  [default: 0]")
@click.option("--workers", metavar="INT", type=int, help="Processes that load images  [default: 3]")
@friendly_errors
def main(
    outdir: str | None,
    dry_run: bool,
    data: str,
    cond: bool | None,
    subset: int | None,
    mirror: bool | None,
    metrics: str | None,
    **said: Any,
) -> None:
    """Train StyleGAN2-ADA, with GGDR where --reg_type=ggdr says so.

    \b
    python train.py --outdir=training-runs --data=images.zip --mirror=1 --reg_type=ggdr
    python train.py --data=images.zip --cfg=paper256 --gpus=8 --dry-run
    """
    try:
        if outdir is None and not dry_run:
            raise UserError("--outdir is missing; say where the run directory goes, such as --outdir=training-runs")
        options = TrainOptions(metrics=metric_names(metrics), **said)
        seed = 0 if options.seed is None else options.seed
        described, has_labels = launch.inspect_data(data, cond=bool(cond), subset=subset, mirror=bool(mirror), seed=seed)
        config = resolve(options, described)
        if config.resume is not None:
            launch.check_file("--resume", config.resume)
        unused = ["The data set has labels, which are not used; --cond=1 conditions on them."] if has_labels and not cond else []
        click.echo(json.dumps(config.to_dict(), indent=2))
        click.echo("\n" + summarise(config, outdir) + "\n", err=dry_run)
        for note in unused + explain(options, config):
            click.echo(f"Note: {note}", err=dry_run)
        if outdir is not None and not dry_run:
            launch.start(config, outdir)
    except KeyboardInterrupt:
        click.echo("Interrupted. What was already saved stays in the run directory.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
