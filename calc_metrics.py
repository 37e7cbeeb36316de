"""Measure a network pickle or image files: Fréchet and kernel distance, precision, recall and more."""

import sys
from typing import Any

import click

from dnnlib import torchrun
from dnnlib.cli import PATH, PATH_OR_URL, Command, friendly_errors, ops_option
from dnnlib.errors import UserError


@click.command(cls=Command)
@click.option(
    "--network",
    type=PATH_OR_URL,
    metavar="PATH|URL",
    help="network pickle (network-snapshot-*.pkl), or .safetensors",
)
@click.option(
    "--images",
    type=PATH,
    metavar="PATH",
    help="measure the images in this folder or zip, in place of a network's",
)
@click.option(
    "--metrics",
    metavar="LIST",
    default="fid50k_full",
    show_default=True,
    help="names with any count: fid5k_full,pr5k3_full",
)
@click.option(
    "--data",
    type=PATH,
    metavar="PATH",
    help="real images, a folder or a zip  [default: what the network was trained on]",
)
@click.option(
    "--mirror",
    type=bool,
    metavar="BOOL",
    help="mirrored reals in fid50k kid50k pr50k3  [default: as trained; no with --data]",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    metavar="INT",
    help="processes that share the images, each with a device  [default: 1]",
)
@click.option(
    "--verbose", type=bool, default=True, show_default=True, metavar="BOOL", help="progress on standard error"
)
@click.option(
    "--detector",
    type=PATH_OR_URL,
    metavar="NAME|PATH|URL",
    default="auto",
    show_default=True,
    help="detector by name, or a TorchScript file",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="INT",
    help="images at a time; changes no value but for a GPU's rounding",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="INT",
    help="which latents, labels and noise",
)
@click.option("--offline", is_flag=True, help="never download; say what is missing and where to put it")
@click.option("--no-cache", is_flag=True, help="neither read nor write the cache of the reals' statistics")
@ops_option
@friendly_errors
def main(gpus: int | None, device: str, **given: Any) -> None:
    r"""Measure a network pickle or image files against real images. Prints one line of JSON a metric.

    When the pickle lies in a run directory, the lines are also appended to its metric-NAME.jsonl. Detectors
    by name: inception and vgg16 (the reference's, downloaded once; auto picks them) and efficientnet-lite0
    (works offline). Metrics and detectors are defined in docs/metrics.md.

    \b
    python calc_metrics.py --network=RUN/network-snapshot-000100.pkl --metrics=fid50k_full,pr50k3_full
    python calc_metrics.py --network=net.pkl --metrics=fid2k_full --data=my.zip --detector=efficientnet-lite0
    python calc_metrics.py --images=generated/ --data=images.zip --metrics=fid50k_full
    """
    from training import launch

    with launch.among_workers(device):
        count = launch.process_count(gpus) or 1
        if count > 1 and not torchrun.is_worker():
            sys.exit(launch.in_processes(count, device))
        if torchrun.is_worker():
            from training.run.replicas import check_same_options

            check_same_options(
                "calc_metrics.py",
                {f"--{name.replace('_', '-')}": value for name, value in given.items()},
                device,
            )
        measure(device=device, **given)


def measure(
    metrics: str, *, device: str, verbose: bool, offline: bool, no_cache: bool, batch: int, **given: Any
) -> None:
    """Evaluate, print and record, as the options of the same names say. Raises :class:`UserError`."""
    if (given["network"] is None) == (given["images"] is None):
        raise UserError("give either --network or --images")
    if given["images"] is not None and given["data"] is None:
        raise UserError(
            f"--images={given['images']} is measured against real images; say where they are with --data"
        )

    from dnnlib.download import forbid_downloads
    from metrics.registry import known_names, parse_metrics
    from metrics.runner import evaluate
    from torch_utils.device import announce_device
    from torch_utils.distributed import is_rank0, world_size
    from training.inference.measuring import open_measured
    from training.run.replicas import check_same_content

    parsed = parse_metrics(metrics)
    if not parsed:
        raise UserError(f"--metrics names no metric; known are {known_names()}")
    if offline:
        forbid_downloads()
    where = announce_device(device)
    seed, detector = given.pop("seed"), given.pop("detector")
    measured = open_measured(**given, device=where)
    if measured.mirror and is_rank0() and not any(metric.family.reals == "as trained" for metric in parsed):
        print(
            "Note: --mirror=1 has no effect: these metrics compare with the images as they are, as in the "
            "reference",
            file=sys.stderr,
        )
    if verbose and is_rank0():
        reals = f"{len(measured.dataset)} images of {measured.dataset.path}"
        print(f"Measuring {measured.source} against {reals} on {where}", file=sys.stderr)
    if world_size() > 1:
        check_same_content(measured.content())
    results = evaluate(
        metrics,
        generator=measured.generator,
        images=measured.images,
        dataset=measured.dataset,
        mirror=measured.mirror,
        detector=detector,
        device=where,
        batch_size=batch,
        seed=seed,
        progress=verbose,
        use_cache=not no_cache,
    )
    if is_rank0():
        measured.print_results(results)


if __name__ == "__main__":
    main()
