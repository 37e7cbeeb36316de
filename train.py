"""Train StyleGAN2-ADA, with or without GGDR, on a folder or zip of images.

The options are those of the GGDR reference, and some more; docs are in README.md and in --help.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from dnnlib import torchrun
from dnnlib.cli import (
    PATH,
    PATH_OR_URL,
    Command,
    IntOrList,
    Seconds,
    friendly_errors,
    host_memory_option,
    ops_option,
)
from dnnlib.download import forbid_downloads
from dnnlib.errors import UserError
from dnnlib.interrupt import StoppedInOrder, unwinding
from training import launch
from training.config.continuation import check_owner, continued, explain_portions, find_run, read_options
from training.config.notes import describe_batch, explain
from training.config.options import TrainOptions
from training.config.presets import RECIPES
from training.config.pretrained import check_source
from training.config.resolve import resolve
from training.config.schema import AUGPIPES, GGDRConfig, MetricsConfig, TrainConfig


def metric_names(text: str | None) -> tuple[str, ...] | None:
    """``"fid50k_full,pr50k3_full"`` to a tuple, ``"none"`` to an empty one, None to None. Raises
    :class:`UserError`."""
    from metrics.registry import parse_metrics  # here, because it takes its time

    return None if text is None else tuple(metric.name for metric in parse_metrics(text))


def check_metrics(metrics: MetricsConfig) -> None:
    """Raises :class:`UserError` where there cannot be such a detector."""
    from metrics.features import check_detector  # here, because it takes its time

    if metrics.names and metrics.detector != "auto":
        check_detector(metrics.detector)


def new_run(outdir: str | None, dry_run: bool, said: dict[str, Any]) -> tuple[TrainConfig, list[str]]:
    """What the options ``said`` mean for a run of its own, and what to note about it. Raises
    :class:`UserError`."""
    if said["data"] is None:
        raise click.MissingParameter(param_hint="'--data'", param_type="option")
    if outdir is None and not dry_run:
        raise UserError(
            "--outdir is missing; say where the run directory goes, such as --outdir=training-runs"
        )
    options = TrainOptions(
        **{name: value for name, value in said.items() if name not in ("data", "cond", "subset", "mirror")}
    )
    described, notes = launch.inspect_data(
        said["data"],
        cond=bool(said["cond"]),
        subset=said["subset"],
        mirror=bool(said["mirror"]),
        seed=options.seed or 0,
        annotated=options.reg_type == "seg",
        outdir=outdir,
    )
    config = resolve(options, described)
    check_metrics(config.metrics)
    return config, notes + explain(options, config)


def resolve_run(
    outdir: str | None, dry_run: bool, continue_: str | None, said: dict[str, Any], *, trust: bool = False
) -> tuple[TrainConfig, Path | None, list[str]]:
    """The configuration, the run directory to go on in (None for a new one), and notes. Raises
    :class:`UserError`."""
    named = Path(continue_) if continue_ not in (None, "auto") else None
    restarted = launch.interrupted_run(outdir) if named is None else None
    run_dir = named or restarted
    if run_dir is None:
        config, notes = new_run(outdir, dry_run, said)
        if continue_ == "auto" and outdir is not None:
            run_dir, found = find_run(Path(outdir), config, trust=trust)
            notes += found
        if run_dir is None:
            if config.resume is not None:  # a run that goes on needs its source no more
                check_source(config.resume)
            return config, None, notes
    before = read_options(run_dir)
    check_owner(run_dir, trust=trust)
    config = continued(before, in_run(said, outdir, run_dir), run_dir)
    if restarted is not None and config != new_run(outdir, dry_run, said)[0]:
        raise UserError(
            f"the processes were told to go on in {run_dir}, which has other options; start the command again"
        )
    return config, run_dir, explain_portions(before, config)


def device_of(continue_: str | None) -> str | None:
    """The device of a run that is named to go on; None for another, or one whose options :func:`resolve_run`
    will find wanting."""
    if continue_ in (None, "auto"):
        return None
    with contextlib.suppress(UserError):
        return read_options(Path(continue_)).runtime.device
    return None


def in_run(said: dict[str, Any], outdir: str | None, run_dir: Path) -> dict[str, Any]:
    """The options as they compare with those of a run. Raises :class:`UserError` for an ``--outdir`` that it
    is not in."""
    if outdir is not None and Path(outdir).resolve() not in (
        run_dir.parent.resolve(),
        run_dir.resolve().parent,
    ):
        raise UserError(f"--outdir={outdir} is not where --continue={run_dir} lies; leave it out")
    return {**said, "data": None if said["data"] is None else os.path.abspath(said["data"])}


def describe_ggdr(ggdr: GGDRConfig | None) -> str:
    """Its line in :func:`summarise`."""
    if ggdr is None:
        return "off"
    maps = " and ".join(f"{res}x{res}" for res in ggdr.resolutions)
    usual = (ggdr.kernel_size, ggdr.activation) == (1, "linear")
    decoder = (
        "" if usual else f", decoder of {ggdr.kernel_size}x{ggdr.kernel_size} convolutions, {ggdr.activation}"
    )
    return f"feature maps at {maps}, weight {ggdr.weight:g}{decoder}"


def summarise(config: TrainConfig, run_dir: str | os.PathLike[str]) -> str:
    """What will be trained, in a few lines for a person."""
    data, schedule = config.data, config.schedule
    mirrored = f" ({data.num_images // 2} and their mirror images)" if data.xflip else ""
    lines = {
        "Output directory": os.fspath(run_dir),
        "Training data": data.path,
        "Training length": f"{schedule.total_kimg:g} kimg",
        "Batch": describe_batch(config),
        "Number of images": f"{data.num_images}{mirrored}",
        "Image resolution": f"{data.resolution}x{data.resolution}, {data.num_channels} channels",
        "Conditional model": f"yes, {data.label_dim} labels" if data.use_labels else "no",
        "Mirroring": "yes" if data.xflip else "no",
        "GGDR": describe_ggdr(config.ggdr),
        "Segmentation": "off"
        if config.seg is None
        else f"{data.annotation_classes} classes, weight {config.seg.weight:g}",
    }
    return "\n".join(f"{name + ':':<19}{value}" for name, value in lines.items())


BOOL: dict[str, Any] = {"type": bool, "metavar": "BOOL"}
SECONDS = Seconds()


@click.command(cls=Command, context_settings={"max_content_width": 120})
# General.
@click.option(
    "--outdir",
    type=PATH,
    metavar="DIR",
    help="Where the run directory goes  [required, but for --dry-run and --continue=RUN_DIR]",
)
@click.option("--gpus", metavar="INT", type=int, help="Number of GPUs, a power of two  [default: 1]")
@click.option("--snap", metavar="TICKS", type=int, help="Ticks between snapshots  [default: 50]")
@click.option(
    "--tick", metavar="KIMG", type=float, help="Thousands of images between status lines  [default: 4]"
)
@click.option(
    "--metrics", metavar="LIST", help="Metrics at every snapshot, by comma, or none  [default: fid50k_full]"
)
@click.option(
    "--detector",
    type=PATH_OR_URL,
    metavar="NAME|PATH|URL",
    help="Feature extractor of the metrics  [default: the one that each is defined with]",
)
@click.option("--seed", metavar="INT", type=int, help="Random seed  [default: 0]")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved configuration as JSON and stop")
# Data.
@click.option(
    "--data",
    type=PATH,
    metavar="PATH",
    help="Training images: folder or zip  [required, but for --continue=RUN_DIR]",
)
@click.option("--cond", **BOOL, help="Condition on the labels of the data set  [default: 0]")
@click.option("--subset", metavar="INT", type=int, help="Train on only so many of the images  [default: all]")
@click.option("--mirror", **BOOL, help="Add a mirrored copy of every image  [default: 0]")
# Recipe.
@click.option("--cfg", type=click.Choice(list(RECIPES)), help="Recipe  [default: auto]")
@click.option("--gamma", metavar="FLOAT", type=float, help="Weight of R1  [default: by --cfg]")
@click.option(
    "--kimg", metavar="KIMG", type=float, help="Training length in thousands of images  [default: by --cfg]"
)
@click.option("--batch", metavar="INT", type=int, help="Batch size over all GPUs  [default: by --cfg]")
@click.option(
    "--batch-gpu",
    metavar="INT",
    type=int,
    help="Images at once on a GPU, at most; the rest of its share follows  [default: by --cfg; with --batch, its whole share]",
)
@click.option("--cbase", metavar="INT", type=int, help="Channels times resolution  [default: by --cfg]")
@click.option("--cmax", metavar="INT", type=int, help="Largest number of channels  [default: 512]")
@click.option(
    "--map-depth", metavar="INT", type=int, help="Layers of the mapping network  [default: by --cfg]"
)
@click.option("--glr", metavar="FLOAT", type=float, help="Learning rate of G  [default: by --cfg]")
@click.option("--dlr", metavar="FLOAT", type=float, help="Learning rate of D  [default: by --cfg]")
@click.option(
    "--mbstd-group",
    metavar="INT",
    type=int,
    help="Group of the minibatch standard deviation  [default: by --cfg]",
)
# GGDR, or segmentation.
@click.option(
    "--reg_type", type=click.Choice(["none", "ggdr", "seg"]), help="Regulariser of D  [default: none]"
)
@click.option(
    "--ggdr_res",
    metavar="INT,…",
    type=IntOrList(),
    help="Resolution of the target feature map, or several  [default: 64; small images: a quarter, 8 at least]",
)
@click.option("--ggdr-weight", metavar="FLOAT", type=float, help="Weight of GGDR  [default: 10]")
@click.option(
    "--ggdr-start-kimg", metavar="KIMG", type=float, help="Turn GGDR on after so much training  [default: 0]"
)
@click.option("--ggdr-kernel", metavar="INT", type=int, help="Kernel of D's decoder, 1 or 3  [default: 1]")
@click.option(
    "--ggdr-act", type=click.Choice(["linear", "lrelu"]), help="Activation of D's decoder  [default: linear]"
)
@click.option("--seg-weight", metavar="FLOAT", type=float, help="Weight of segmentation  [default: 1]")
# Augmentation.
@click.option("--aug", type=click.Choice(["noaug", "ada", "fixed"]), help="Augmentation  [default: ada]")
@click.option("--p", metavar="FLOAT", type=float, help="Probability of augmentation, for --aug=fixed")
@click.option("--target", metavar="FLOAT", type=float, help="Target of ADA  [default: 0.6]")
@click.option("--augpipe", type=click.Choice(AUGPIPES), help="Augmentation pipeline  [default: bgc]")
# Transfer learning.
@click.option(
    "--resume",
    type=PATH_OR_URL,
    metavar="PKL",
    help="Start from a network pickle: path, address, or ffhq256 and the like  [default: noresume]",
)
@click.option("--freezed", metavar="INT", type=int, help="Freeze so many layers of D  [default: 0]")
# Long runs.
@click.option(
    "--continue",
    "continue_",
    type=PATH,
    metavar="RUN_DIR|auto",
    help="Go on where a run stopped; auto: if --outdir has it, else start",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Go on with a run that another user owns; it can start any program (SECURITY.md)",
)
@click.option(
    "--checkpoint-minutes",
    metavar="MINUTES",
    type=float,
    help="Between run states, besides snapshots; 0: none  [default: 10]",
)
@click.option(
    "--keep-snapshots",
    metavar="RULES",
    help="Snapshots that stay: last:N, every:N, best, by comma  [default: all]",
)
@click.option(
    "--on-nonfinite",
    type=click.Choice(["stop", "ignore"]),
    help="When gradients stay infinite or undefined  [default: stop]",
)
# Machine.
@click.option(
    "--device", type=click.Choice(["auto", "cuda", "cpu"]), help="Where to compute  [default: auto]"
)
@click.option("--fp32", **BOOL, help="No half precision  [default: 0]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="auto: float16 on a GPU; bf16 also on a CPU  [default: auto]",
)
@ops_option
@host_memory_option
@click.option("--nhwc", **BOOL, help="Channels-last memory with half precision  [default: 0]")
@click.option("--nobench", **BOOL, help="No cuDNN benchmarking  [default: 0]")
@click.option("--allow-tf32", **BOOL, help="Allow TF32 in PyTorch  [default: 0]")
@click.option("--workers", metavar="INT", type=int, help="Processes that load images  [default: 3]")
@click.option("--offline", is_flag=True, help="Never download; say what is missing and where to put it")
# Several processes.
@click.option(
    "--max-restarts",
    metavar="INT",
    type=click.IntRange(min=0),
    default=0,
    help="Go on by itself after so many failures  [default: 0]",
)
@click.option(
    "--dist-timeout",
    metavar="SECONDS",
    type=SECONDS,
    help="Patience with a process that does not answer  [default: 600]",
)
@click.option(
    "--prepare-timeout",
    metavar="SECONDS",
    type=SECONDS,
    help="Patience with downloads and metrics  [default: 3600]",
)
@friendly_errors
def main(
    outdir: str | None,
    dry_run: bool,
    continue_: str | None,
    trust: bool,
    metrics: str | None,
    offline: bool,
    max_restarts: int,
    dist_timeout: float | None,
    prepare_timeout: float | None,
    **said: Any,
) -> None:
    """Train StyleGAN2-ADA, with GGDR where --reg_type=ggdr says so.

    --reg_type=seg trains D to segment real images instead; --data then has the folders images and
    annotations.

    \b
    python train.py --outdir=training-runs --data=images.zip --mirror=1 --reg_type=ggdr
    python train.py --data=images.zip --cfg=paper256 --gpus=8 --dry-run
    python train.py --outdir=training-runs --data=pairs --reg_type=seg
    python train.py --continue=training-runs/00000-images-mirror-auto1
    """
    if offline:
        forbid_downloads()
    try:
        with (
            unwinding(announce=torchrun.rank() == 0),
            launch.among_workers(said["device"] or device_of(continue_), dist_timeout, prepare_timeout),
        ):
            said["gpus"] = launch.process_count(said["gpus"])
            config, run_dir, notes = resolve_run(
                outdir, dry_run, continue_, {**said, "metrics": metric_names(metrics)}, trust=trust
            )
            launch.compare_ranks(config, run_dir, dry_run=dry_run)
            if not dry_run and launch.needs_launcher(config, max_restarts):
                sys.exit(
                    launch.in_processes(
                        config.runtime.gpus, config.runtime.device, max_restarts, dist_timeout
                    )
                )
            click.echo(json.dumps(config.to_dict(), indent=2))
            click.echo(
                "\n"
                + summarise(config, run_dir or os.path.join(outdir or "", f"NNNNN-{config.description}"))
                + "\n",
                err=dry_run,
            )
            for note in notes:
                click.echo(f"Note: {note}", err=dry_run)
            if dry_run:
                return
            if run_dir is not None:
                launch.go_on(config, run_dir)
            elif outdir is not None:
                launch.start(config, outdir, insist_on_metrics=metrics is not None)
    except KeyboardInterrupt as interrupt:
        if torchrun.rank() == 0 and not isinstance(interrupt, StoppedInOrder):
            click.echo("Interrupted. What was already saved stays in the run directory.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
