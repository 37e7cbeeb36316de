"""Measure a network pickle, or image files: Fréchet and kernel distances, precision and recall, and the other
metrics."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from dnnlib import torchrun
from dnnlib.cli import PATH, PATH_OR_URL, Command, friendly_errors, ops_option, plural
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
    """Measure a network pickle or image files against real images, and print one line of JSON for each
    metric.

    When the pickle lies in a run directory, the lines are also appended to its metric-NAME.jsonl. Detectors
    by name: inception and vgg16 (the reference's, downloaded once; auto picks them) and efficientnet-lite0
    (works offline). Metrics and detectors are defined in docs/metrics.md.

    \b
    python calc_metrics.py --network=RUN/network-snapshot-000100.pkl --metrics=fid50k_full,pr50k3_full
    python calc_metrics.py --network=net.pkl --data=images.zip --metrics=fid2k_full --detector=efficientnet-lite0
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
    *,
    network: str | None,
    images: str | None,
    metrics: str,
    data: str | None,
    mirror: bool | None,
    verbose: bool,
    detector: str,
    device: str,
    batch: int,
    seed: int,
    offline: bool,
    no_cache: bool,
) -> None:
    """Evaluate, print and record, as the options of the same names say. Raises :class:`UserError`."""
    if (network is None) == (images is None):
        raise UserError("give either --network or --images")
    if images is not None and data is None:
        raise UserError(f"--images={images} is measured against real images; say where they are with --data")

    from dnnlib.download import forbid_downloads
    from metrics.registry import known_names, parse_metrics
    from metrics.results import append_result
    from metrics.runner import evaluate
    from torch_utils.device import announce_device
    from torch_utils.distributed import is_rank0, rank0_first
    from training.build import compute_as_trained
    from training.config.run_directory import OPTIONS_FILE
    from training.data.reals import open_images, open_reals
    from training.inference.files import load_networks

    parsed = parse_metrics(metrics)
    if not parsed:
        raise UserError(f"--metrics names no metric; known are {known_names()}")
    if offline:
        forbid_downloads()
    where = announce_device(device)
    generator, run_dir = None, None
    if network is not None:
        with rank0_first("opening the network"):
            networks = load_networks(network, need=["G_ema"])
        generator, trained_on = networks["G_ema"].to(where), networks["training_set_kwargs"]
        note = compute_as_trained(generator, networks["info"], where)
        if note is not None and is_rank0():
            print(f"Note: {note}", file=sys.stderr)
        dataset = open_reals(trained_on, data, generator)
        if mirror is None and data is None:
            mirror = trained_on.get("xflip", False)
        folder = Path(network).parent
        run_dir = folder if (folder / OPTIONS_FILE).is_file() else None
    else:
        assert data is not None
        dataset = open_images(data)
    if mirror and is_rank0() and not any(metric.family.reals == "as trained" for metric in parsed):
        print(
            "Note: --mirror=1 has no effect: these metrics compare with the images as they are, as in the "
            "reference",
            file=sys.stderr,
        )
    if verbose and is_rank0():
        print(
            f"Measuring {network or images} against {len(dataset)} images of {dataset.path} on {where}",
            file=sys.stderr,
        )
    measured = None if images is None else open_images(images)
    compare_contents(generator, dataset, measured)
    results = evaluate(
        metrics,
        generator=generator,
        images=measured,
        dataset=dataset,
        mirror=bool(mirror),
        detector=detector,
        device=where,
        batch_size=batch,
        seed=seed,
        progress=verbose,
        use_cache=not no_cache,
    )
    unrecorded: list[UserError] = []
    for result in results if is_rank0() else []:
        if network is None or run_dir is None:
            print(json.dumps({**result.record(network), **({} if images is None else {"images": images})}))
            continue
        try:
            print(append_result(result, run_dir, network))
        except UserError as error:  # what was measured is not lost for that
            print(result.json_line(os.path.relpath(network, run_dir)))
            unrecorded.append(error)
    if unrecorded:
        raise UserError(
            f"{plural(len(unrecorded), 'result')} could only be printed, not recorded in the run: "
            f"{unrecorded[0]}"
        )


def compare_contents(generator: Any, dataset: Any, measured: Any) -> None:
    """Raises :class:`UserError` unless all ranks opened the same network and images; ``generator`` or
    ``measured`` is None."""
    from torch_utils.distributed import world_size
    from training.inference.files import weights_sha256
    from training.run.replicas import check_same_content

    if world_size() > 1:
        content = {"real images (--data) by SHA-256": dataset.identity()}
        if generator is not None:
            content["weights (--network) by SHA-256"] = weights_sha256(generator)
        if measured is not None:
            content["images (--images) by SHA-256"] = measured.identity()
        check_same_content(content)


if __name__ == "__main__":
    main()
