"""The training loop: sequence only. What a step computes is in ``objective.py``, what it changes in ``checkpoint.py``."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dnnlib.durations import format_duration
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.interrupt import InterruptFlag
from dnnlib.log import LogTee
from metrics.runner import append_result, evaluate, preflight
from torch_utils.device import pick_device
from torch_utils.host_memory import keep_freed_memory
from torch_utils.seeding import derive_seed, seed_everything
from training.build import describe_parameters
from training.checkpoint import RunState
from training.config import TrainConfig
from training.dataset import ImageFolderDataset, image_batches
from training.images import from_uint8
from training.objective import Batch
from training.reporting import RunLog, SampleGrid, TickTimer, loss_line, resource_summary, single_values, status_line


@dataclass(frozen=True)
class Phase:
    """One of the steps within a step: which network, how often, and with what gain on its loss."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    interval: int


def run(config: TrainConfig, run_dir: Path, dataset: ImageFolderDataset) -> None:
    """Train as ``config`` says and leave everything in ``run_dir``.

    Raises:
        UserError: something that the user can mend, before the first step wherever possible.
        KeyboardInterrupt: after Ctrl-C, when the current step is finished and a snapshot is written.
    """
    device = pick_device(config.runtime.device)
    state = RunState.fresh(config, device)
    reals = measured_images(config, dataset)
    preflight(config.metrics.names, config.metrics.detector, reals, device=device)
    with atomic_write(run_dir / "training_options.json", "w", encoding="utf-8") as stream:
        json.dump(config.to_dict(), stream, indent=2)
    with LogTee(run_dir / "log.txt"), InterruptFlag() as interrupt:
        _set_up_device(config, device)
        print(describe_parameters(G=state.G, D=state.D))
        log = RunLog(run_dir)
        print(log.tensorboard_status)
        try:
            train(state, run_dir, dataset, reals, log, interrupt)
        finally:
            log.close()


def measured_images(config: TrainConfig, dataset: ImageFolderDataset) -> ImageFolderDataset:
    """What metrics compare with: all images as they are, neither subset nor mirrored, as in the reference."""
    if not config.metrics.names or (config.data.max_size is None and not config.data.xflip):
        return dataset
    return ImageFolderDataset(config.data.path, resolution=config.data.resolution, use_labels=config.data.use_labels)


def train(
    state: RunState,
    run_dir: Path,
    dataset: ImageFolderDataset,
    reals: ImageFolderDataset,
    log: RunLog,
    interrupt: InterruptFlag,
) -> None:
    """Step until the schedule ends or Ctrl-C is pressed."""
    config, schedule, device = state.config, state.config.schedule, state.device
    grid = SampleGrid.draw(dataset, config.data.resolution, config.generator.z_dim, config.seed)
    grid.save_reals(run_dir / "reals.png")
    grid.save_fakes(run_dir / "fakes_init.png", state.G_ema, device, schedule.batch_gpu)
    phases = build_phases(state)
    batches = image_batches(
        dataset,
        batch_size=schedule.batch_size,
        seed=config.seed,
        start=state.images_seen,
        workers=config.runtime.workers,
        pin_memory=device.type == "cuda",
    )
    print(_loading(dataset, config.runtime.workers))
    print(f"Training for {schedule.total_kimg:g} kimg on {device} ...")
    timer, tick, tick_start = TickTimer(), 0, state.images_seen
    bar = _progress(schedule.kimg_per_tick)
    with bar, contextlib.closing(batches):
        while True:
            images, labels = next(batches)
            real, labels = from_uint8(images, device), labels.to(device, non_blocking=True)
            for phase in phases:
                if state.steps % phase.interval == 0:
                    run_phase(state, phase, real, labels, dataset)
            state.update_average()
            state.images_seen += schedule.batch_size
            state.steps += 1
            if state.pipe is not None and state.ada is not None:
                state.ada.update(state.pipe.p)
            bar.update(schedule.batch_size)

            done = state.images_seen >= schedule.total_kimg * 1000 or interrupt.raised
            if not done and tick_start < state.images_seen < tick_start + schedule.kimg_per_tick * 1000 and state.steps > 1:
                continue
            report_tick(state, log, timer, tick, state.images_seen - tick_start, bar)
            if done or tick % schedule.snapshot_ticks == 0:
                snapshot = state.save_snapshot(run_dir)
                grid.save_fakes(run_dir / f"fakes{state.images_seen // 1000:06d}.png", state.G_ema, device, schedule.batch_gpu)
                if not interrupt.raised:
                    evaluate_snapshot(state, run_dir, reals, log, snapshot)
            if done:
                break
            tick, tick_start = tick + 1, state.images_seen
            timer.begin_tick()
            bar.reset()
    if interrupt.raised:
        print(f"Stopped at {state.images_seen / 1000:g} kimg; the networks so far are in {snapshot}")
        raise KeyboardInterrupt
    print(f"Finished after {format_duration(timer.clock() - timer.start)}; everything is in {run_dir}")


def build_phases(state: RunState) -> list[Phase]:
    """The phases of a step, in order."""
    optim = state.config.optim
    known = {
        "G_main": Phase("G_main", state.G, state.G_opt, 1),
        "G_reg": Phase("G_reg", state.G, state.G_opt, optim.G_reg_interval),
        "D_main": Phase("D_main", state.D, state.D_opt, 1),
        "D_reg": Phase("D_reg", state.D, state.D_opt, optim.D_reg_interval),
    }
    return [known[name] for name in state.objective.terms]


def run_phase(state: RunState, phase: Phase, real: torch.Tensor, labels: torch.Tensor, dataset: ImageFolderDataset) -> None:
    """Zero the gradients, accumulate them over the batch in portions of ``batch_gpu``, and step the optimiser."""
    seed_everything(state.config.seed, "step", state.steps, phase.name)
    term = state.objective.terms[phase.name]
    phase.optimizer.zero_grad(set_to_none=True)
    phase.module.requires_grad_(True)
    rounds = list(split_batch(state, real, labels, dataset, phase.name))
    for batch in rounds:
        term(batch, phase.interval / len(rounds), state.images_seen)
    phase.module.requires_grad_(False)
    clean_gradients(phase.module)
    phase.optimizer.step()


def split_batch(
    state: RunState, real: torch.Tensor, labels: torch.Tensor, dataset: ImageFolderDataset, phase: str
) -> Iterator[Batch]:
    """The batch in portions of ``batch_gpu``, with fresh latents and labels drawn from the data set's."""
    config, device, n = state.config, state.device, len(real)
    z = torch.randn([n, config.generator.z_dim], device=device)
    gen_labels = torch.zeros([n, 0], device=device)
    if config.data.label_dim > 0:
        rng = np.random.default_rng(derive_seed(config.seed, "labels", state.steps, phase))
        drawn = np.stack([dataset.get_label(int(i)) for i in rng.integers(len(dataset), size=n)])
        gen_labels = torch.from_numpy(drawn).to(device)
    portions = [t.split(config.schedule.batch_gpu) for t in (real, labels, z, gen_labels)]
    for parts in zip(*portions, strict=True):
        yield Batch(*parts)


def clean_gradients(module: nn.Module) -> None:
    """Give parameters that the phase did not reach a zero gradient, and replace what is not finite.

    With the zero gradient, Adam's second moment decays for them too, as in the reference.
    """
    for param in module.parameters():
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        else:
            torch.nan_to_num(param.grad, nan=0, posinf=1e5, neginf=-1e5, out=param.grad)


def report_tick(state: RunState, log: RunLog, timer: TickTimer, tick: int, images: int, bar: tqdm) -> None:
    """Statistics and status line of the tick that just ended."""
    p = None if state.pipe is None else float(state.pipe.p)
    values = {
        "Progress/tick": float(tick),
        "Progress/kimg": state.images_seen / 1000,
        "Progress/augment": p or 0.0,
        **timer.summary(images),
        **resource_summary(state.device),
    }
    summaries = state.stats.flush()
    log.write({**summaries, **single_values(values)}, state.images_seen)
    bar.clear()
    print(status_line(tick, state.images_seen, values, p), flush=True)
    bar.set_postfix_str(loss_line(summaries), refresh=False)


def evaluate_snapshot(state: RunState, run_dir: Path, reals: ImageFolderDataset, log: RunLog, snapshot: Path) -> None:
    """Measure the snapshot, print and record the results. A metric that fails is reported and training goes on."""
    names, detector = state.config.metrics.names, state.config.metrics.detector
    try:
        results = evaluate(names, generator=state.G_ema, dataset=reals, detector=detector, device=state.device)
    except (UserError, RuntimeError, OSError) as error:
        print(f"Metrics {', '.join(names)} of {snapshot.name} failed, training goes on: {error}", flush=True)
        return
    for result in results:
        print(append_result(result, run_dir, snapshot), flush=True)
        log.write_scalars({f"Metrics/{name}": value for name, value in result.values.items()}, state.images_seen)


def _set_up_device(config: TrainConfig, device: torch.device) -> None:
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not config.runtime.nobench
        torch.backends.cuda.matmul.allow_tf32 = config.runtime.allow_tf32
        torch.backends.cudnn.allow_tf32 = config.runtime.allow_tf32
    else:
        print(keep_freed_memory())


def _loading(dataset: ImageFolderDataset, workers: int) -> str:
    if dataset.in_memory:
        return f"Data: all {dataset.num_images} images are decoded in memory"
    return f"Data: images are read as they are needed, {f'by {workers} processes' if workers else 'in this process'}"


def _progress(kimg_per_tick: float) -> tqdm:
    """A bar on standard error for the current tick; none where that is not a terminal."""
    return tqdm(total=round(kimg_per_tick * 1000), unit="img", desc="tick", leave=False, disable=None, dynamic_ncols=True)
