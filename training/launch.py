"""From options to a running training: look at the data, check, make the run directory, train.

torch is imported inside the functions, so that ``train.py --help`` need not wait for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib import torchrun
from dnnlib.download import forbid_downloads
from dnnlib.errors import UserError
from dnnlib.interrupt import StoppedInOrder, unwinding
from training.config.continuation import (
    check_has_state,
    check_owner,
    continued,
    explain_microbatches,
    find_run,
    flat,
    has_state,
    read_options,
)
from training.config.notes import explain, summarise
from training.config.options import OPTIONS, as_options, overrides
from training.config.pretrained import check_source, fetch_source
from training.config.resolve import resolve
from training.config.schema import MetricsConfig, TrainConfig
from training.data.opening import inspect_data, open_dataset

#: The name under which a run directory is remembered across restarts.
RUN_DIR = "run directory"

#: Most processes per core of a machine without GPU.
CPU_PROCESSES = 4

#: Fields and options in which ranks may differ: where the data lie, and how many processes read them.
OF_EACH_RANK = ("data.path", "data", "runtime.workers", "workers", "description")

if TYPE_CHECKING:
    from training.data.dataset import ImageFolderDataset


def command(options: Mapping[str, Any]) -> None:
    """Run the command line of ``train.py``: resolve the options, print what they mean, train.

    Args:
        options: all options by name (:data:`training.config.options.OPTIONS`); None where one was not given.

    Raises:
        UserError: something that the user can mend.
        SystemExit: with status 130 after Ctrl-C, or with the status of processes that this one started.
    """
    try:
        _command(overrides(**options))
    except KeyboardInterrupt:  # another Ctrl-C, while the one before was answered
        sys.exit(130)


def _command(given: dict[str, Any]) -> None:
    if given["offline"]:
        forbid_downloads()
    try:
        with (
            unwinding(announce=torchrun.rank() == 0),
            among_workers(device_of(given), given.get("dist_timeout"), given.get("prepare_timeout")),
        ):
            given["gpus"] = process_count(given.get("gpus"))
            _train(overrides(**given))
    except KeyboardInterrupt as interrupt:
        if torchrun.rank() == 0 and not isinstance(interrupt, StoppedInOrder):
            click.echo("Interrupted. What was already saved stays in the run directory.", err=True)
        sys.exit(130)


def _train(options: dict[str, Any]) -> None:
    metrics_required = "metrics" in options
    if metrics_required:
        options["metrics"] = metric_names(options["metrics"])
    config, run_dir, notes = resolve_run(options)
    compare_ranks(config, run_dir, dry_run=options["dry_run"])
    dry_run, max_restarts = options["dry_run"], options.get("max_restarts", 0)
    if not dry_run and needs_launcher(config, max_restarts):
        sys.exit(
            in_processes(
                config.runtime.gpus, config.runtime.device, max_restarts, options.get("dist_timeout")
            )
        )
    click.echo(json.dumps(config.to_dict(), indent=2))
    place = run_dir or os.path.join(options.get("outdir", ""), f"NNNNN-{config.description}")
    click.echo(f"\n{summarise(config, place)}\n", err=dry_run)
    for note in notes:
        click.echo(f"Note: {note}", err=dry_run)
    if dry_run:
        return
    if run_dir is not None:
        go_on(config, run_dir)
    else:
        start(config, options["outdir"], metrics_required=metrics_required)


def metric_names(text: str) -> tuple[str, ...]:
    """``"fid50k_full,pr50k3_full"`` to a tuple, ``"none"`` to an empty one. Raises :class:`UserError`."""
    from metrics.registry import parse_metrics

    return tuple(metric.name for metric in parse_metrics(text))


def check_metrics(metrics: MetricsConfig) -> None:
    """Raise :class:`UserError` where there cannot be such a detector."""
    from metrics.features import check_detector

    if metrics.names and metrics.detector != "auto":
        check_detector(metrics.detector)


def resolve_run(options: Mapping[str, Any]) -> tuple[TrainConfig, Path | None, list[str]]:
    """The configuration, the run directory to go on in (None for a new one), and notes.

    Raises :class:`UserError`.
    """
    source, outdir, trust = options.get("continue_"), options.get("outdir"), options["trust"]
    named = Path(source) if source not in (None, "auto") else None
    restarted = interrupted_run(outdir) if named is None else None
    run_dir = named or restarted
    if run_dir is None:
        config, notes = new_run(options)
        if source == "auto" and outdir is not None:
            run_dir, found = find_run(Path(outdir), config, trust=trust)
            notes += found
        if run_dir is None:
            if config.resume is not None:  # a continued run no longer needs its source
                check_source(config.resume)
            return config, None, notes
    before = read_options(run_dir)
    check_owner(run_dir, trust=trust)
    config = continued(before, in_run(options, run_dir), run_dir)
    if restarted is not None and config != new_run(options)[0]:
        raise UserError(
            f"the processes were told to go on in {run_dir}, which has other options; start the command again"
        )
    return config, run_dir, explain_microbatches(before, config)


def new_run(options: Mapping[str, Any]) -> tuple[TrainConfig, list[str]]:
    """The configuration of a new run, and notes about it. Raises :class:`UserError`."""
    if "data" not in options:
        raise click.MissingParameter(param_hint="'--data'", param_type="option")
    if "outdir" not in options and not options["dry_run"]:
        raise UserError(
            "--outdir is missing; say where the run directory goes, such as --outdir=training-runs"
        )
    cond = options.get("cond", False)
    described, notes = inspect_data(
        options["data"],
        cond=cond,
        subset=options.get("subset"),
        mirror=options.get("mirror", False),
        seed=options.get("seed", 0),
        annotated=options.get("reg_type") == "seg",
        outdir=options.get("outdir"),
    )
    config = resolve(options, described)
    check_metrics(config.metrics)
    return config, notes + explain(options, config)


def device_of(options: Mapping[str, Any]) -> str | None:
    """The device that is given, or that of the run to continue; None where neither says."""
    if "device" in options:
        return options["device"]
    if options.get("continue_", "auto") != "auto":
        with contextlib.suppress(UserError):  # resolve_run says what is wrong
            return read_options(Path(options["continue_"])).runtime.device
    return None


def in_run(options: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """The options in the form of a run's own.

    Raises :class:`UserError` for an ``--outdir`` that the run is not in.
    """
    outdir = options.get("outdir")
    if outdir is not None and Path(outdir).resolve() not in (
        run_dir.parent.resolve(),
        run_dir.resolve().parent,
    ):
        raise UserError(f"--outdir={outdir} is not where --continue={run_dir} lies; leave it out")
    return {**options, **({"data": os.path.abspath(options["data"])} if "data" in options else {})}


@contextlib.contextmanager
def among_workers(
    device: str | None, timeout: float | None = None, prepare_timeout: float | None = None
) -> Iterator[None]:
    """Where torchrun started this process, join the others for the block; elsewhere do nothing.

    Args:
        device: as in the configuration, None for ``auto``.
        timeout: seconds, None for the default, as for :func:`torch_utils.distributed.joined`.
        prepare_timeout: likewise.
    """
    if not torchrun.is_worker():
        yield
        return
    import torch

    from torch_utils import distributed, elastic

    with elastic.worker(
        cuda=device != "cpu" and torch.cuda.is_available(),
        timeout=timeout or distributed.TIMEOUT,
        prepare_timeout=prepare_timeout or distributed.PREPARE_TIMEOUT,
        one_line=(UserError, click.ClickException),
    ):
        yield


def process_count(gpus: int | None) -> int | None:
    """``--gpus``, or the number of processes under torchrun. Raises :class:`UserError` where they differ."""
    if not torchrun.is_worker():
        return gpus
    if gpus not in (None, torchrun.world_size()):
        raise UserError(
            f"--gpus={gpus}, but {torchrun.world_size()} processes were started; leave out --gpus under "
            "torchrun"
        )
    return torchrun.world_size()


def needs_launcher(config: TrainConfig, max_restarts: int) -> bool:
    """Whether the processes of this run have yet to be started."""
    return not torchrun.is_worker() and (config.runtime.gpus > 1 or max_restarts > 0)


def in_processes(count: int, device: str, max_restarts: int = 0, timeout: float | None = None) -> int:
    """Run this command line in ``count`` processes; their exit status. Raises :class:`UserError`."""
    check_machine(count, device)

    from torch_utils import distributed, elastic

    return elastic.launch(sys.argv, count, max_restarts=max_restarts, patience=timeout or distributed.TIMEOUT)


def interrupted_run(outdir: str | None) -> Path | None:
    """The run directory to go on in after a failure and a restart; None before its first checkpoint.

    Raises :class:`UserError` for one that is not in ``outdir``: :func:`start` did not make it.
    """
    if not torchrun.is_worker():
        return None
    from torch_utils import elastic

    recalled = elastic.recall(RUN_DIR)
    if recalled is None:
        return None
    run_dir = Path(recalled)
    if outdir is None or run_dir.is_symlink() or run_dir.parent.resolve() != Path(outdir).resolve():
        raise UserError(
            f"the processes were told to go on in {run_dir}, which is not in --outdir={outdir}; start the "
            "command again"
        )
    return run_dir if has_state(run_dir) else None


def compare_ranks(config: TrainConfig, run_dir: Path | None, *, dry_run: bool) -> None:
    """Where torchrun started this process, check that all ranks have the same program and options.

    Raises :class:`UserError`, which names the rank and the option, before anything is written.
    """
    if not torchrun.is_worker():
        return
    from training.run.replicas import check_same_options

    known = as_options(config)
    options = {
        option.flag: known[option.parameter]
        for option in OPTIONS
        if option.parameter in known and option.parameter not in OF_EACH_RANK
    }
    fields = {name: value for name, value in flat(config.to_dict()).items() if name not in OF_EACH_RANK}
    run = "a new run" if run_dir is None else f"to go on with {run_dir.resolve().name}"
    check_same_options(
        "train.py", {"the task": run, "--dry-run": dry_run, **options, **fields}, config.runtime.device
    )


def check_same_data(dataset: ImageFolderDataset) -> None:
    """Raise :class:`UserError` unless all ranks have the same images and labels."""
    from torch_utils import distributed
    from training.run.replicas import check_same_content

    if distributed.world_size() > 1:
        check_same_content({"training data (--data) by SHA-256": dataset.quick_identity()})


def start(config: TrainConfig, outdir: str, *, metrics_required: bool = True) -> Path:
    """Train in a new run directory under ``outdir``.

    The directory is removed again where nothing was written to it, because a detector or a network pickle
    proved unusable.

    Args:
        config: of the run.
        outdir: made if need be.
        metrics_required: as in :func:`training.training_loop.run`.

    Returns:
        the run directory, when the training is over.

    Raises:
        UserError: something is wrong with the configuration on this machine.
    """
    check_machine(config.runtime.gpus, config.runtime.device)
    if config.resume is not None:
        fetch_source(config.resume)  # before anything is made; the training finds it in the cache
    dataset = open_dataset(config.data)
    check_same_data(dataset)

    from torch_utils import elastic
    from torch_utils.parallel import on_rank0
    from training.training_loop import run

    def place() -> str:
        run_dir = make_run_dir(outdir, config.description)
        elastic.remember(RUN_DIR, str(run_dir))
        return str(run_dir)

    run_dir = Path(on_rank0(place, "the run directory"))
    try:
        run(config, run_dir, dataset, metrics_required=metrics_required)
    except BaseException:
        with contextlib.suppress(OSError):  # only an empty directory goes
            run_dir.rmdir()
        raise
    return run_dir


def go_on(config: TrainConfig, run_dir: Path) -> Path:
    """Continue the run in ``run_dir`` from its newest checkpoint; returns ``run_dir`` when it is over.

    Raises :class:`UserError`.
    """
    check_has_state(run_dir)
    check_machine(config.runtime.gpus, config.runtime.device)
    from training.data.file_tree import check_apart

    check_apart(run_dir, config.data.image_path, "--continue")
    dataset = open_dataset(config.data)
    check_same_data(dataset)

    from training.training_loop import run

    run(config, run_dir, dataset, metrics_required=False)
    return run_dir


def check_machine(gpus: int, device: str) -> None:
    """Raise :class:`UserError` where this machine lacks the device, or cannot run its part of the processes.

    Args:
        gpus: processes on all machines.
        device: as in the configuration.
    """
    import torch

    from torch_utils.device import pick_device

    here = torchrun.local_world_size() or gpus
    if pick_device(device).type == "cuda":
        limit, what = torch.cuda.device_count(), "at most, one a GPU"
    else:
        limit, what = max(CPU_PROCESSES * (os.cpu_count() or 1), 8), f"at most, {CPU_PROCESSES} a core"
    if here > limit:
        count = f"--gpus={gpus}" if here == gpus else f"{here} processes on this machine"
        raise UserError(
            f"{count}, but this machine takes {limit} {what}; use fewer, or several machines "
            "(docs/distributed.md)"
        )


def make_run_dir(outdir: str, description: str) -> Path:
    """Make ``outdir/NNNNN-description`` with the next free number, and ``outdir`` if need be.

    Raises :class:`UserError`.
    """
    root = Path(outdir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [
            int(match[0]) for name in os.listdir(root) if (match := re.match(r"\d+(?=-|$)", name)) is not None
        ]
        number = max(taken, default=-1) + 1
        while True:
            run_dir = root / f"{number:05d}-{description}"
            try:
                run_dir.mkdir()
            except FileExistsError:  # another run took it just now
                number += 1
                continue
            return run_dir
    except OSError as error:
        raise UserError(
            f"cannot make a run directory in --outdir={outdir}: {error.strerror}; give a folder that can be "
            "written"
        ) from error
