"""Train StyleGAN2-ADA, with or without GGDR, on a folder or zip of images (docs/training.md)."""

from typing import Any

import click

from dnnlib.cli import Command, friendly_errors, host_memory_option, ops_option
from training import launch
from training.config.command_line import train_options


@click.command(cls=Command, context_settings={"max_content_width": 120})
@train_options
@ops_option
@host_memory_option
@friendly_errors
def main(**options: Any) -> None:
    """Train StyleGAN2-ADA, with GGDR where --reg_type=ggdr says so.

    --reg_type=seg trains D to segment real images instead; --data then has the folders images and
    annotations.

    \b
    python train.py --outdir=training-runs --data=images.zip --mirror=1 --reg_type=ggdr
    python train.py --data=images.zip --cfg=paper256 --gpus=8 --dry-run
    python train.py --outdir=training-runs --data=pairs --reg_type=seg
    python train.py --continue=training-runs/00000-images-mirror-auto1
    """
    launch.command(options)


if __name__ == "__main__":
    main()
