"""Whether compiled ops and plain PyTorch train alike: the losses of the same steps on both paths.

Usage:

    python benchmarks/agreement.py [--steps 200] [--json FILE]

Both runs have the same seed, images and draws, and differ by float rounding only, which training amplifies
from step to step: Adam's first steps are as long for gradients of rounding's size as for others. For
comparison a third run, of plain PyTorch again, starts from weights that are rounded otherwise: each is
multiplied by 1 ± 6e-8 at random.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import data_option, json_option, write_json  # noqa: E402
from dnnlib.cli import Command, friendly_errors  # noqa: E402
from torch_utils.native_build import prepare_native_ops  # noqa: E402
from training.config.options import overrides  # noqa: E402
from training.config.resolve import resolve  # noqa: E402
from training.data.batches import image_batches  # noqa: E402
from training.data.opening import inspect_data, open_dataset  # noqa: E402
from training.phases import Reals, build_phases  # noqa: E402
from training.run.state import RunState  # noqa: E402
from training.training_loop import step  # noqa: E402

LOSSES = ("Loss/G/loss", "Loss/D/loss", "Loss/D/loss_gen_reg")


@click.command(cls=Command)
@data_option
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--batch", type=int, default=8, show_default=True)
@click.option("--cbase", type=int, default=1024, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
@friendly_errors
def main(data: str, steps: int, batch: int, cbase: int, seed: int, json_file: str | None) -> None:
    """Train the same steps on both paths and print how far the losses are apart."""
    options = dict(
        reg_type="ggdr",
        aug="ada",
        batch=batch,
        batch_gpu=batch,
        cbase=cbase,
        seed=seed,
        device="cpu",
        metrics=(),
        workers=0,
    )
    found = {name: losses(name, data, steps, options) for name in ("ref", "native", "ref, rounded otherwise")}
    apart = {}
    print(f"{'':<28}" + "".join(f"{name:>22}" for name in LOSSES))
    for other in ("native", "ref, rounded otherwise"):
        apart[other] = {
            name: [abs(a - b) for a, b in zip(found["ref"][name], found[other][name], strict=True)]
            for name in LOSSES
        }
        print(f"largest difference of ref and {other}")
        for first, last in windows(steps):
            print(
                f"{f'  steps {first} to {last}':<28}"
                + "".join(f"{max(apart[other][name][first - 1 : last]):>22.2g}" for name in LOSSES)
            )
    for path, values in found.items():
        print(f"{f'mean, {path}':<28}" + "".join(f"{sum(values[name]) / steps:>22.4f}" for name in LOSSES))
    settings = {**options, "data": data, "steps": steps}
    write_json(json_file, {"losses": found, "differences": apart, "settings": settings})


def windows(steps: int) -> list[tuple[int, int]]:
    """Step 1, steps 2 to 5, 6 to 20 and so on, as far as there are any."""
    ends = [end for end in (1, 5, 20, 50, 100, 200, 1000) if end < steps] + [steps]
    return list(zip([1] + [end + 1 for end in ends[:-1]], ends, strict=True))


def losses(run: str, data: str, steps: int, options: dict[str, Any]) -> dict[str, list[float]]:
    """The losses of each step, by name, of one of the runs that :func:`main` compares."""
    print(prepare_native_ops("native" if run == "native" else "ref", "cpu"), file=sys.stderr)
    described, _ = inspect_data(data, cond=False, subset=None, mirror=False, seed=options["seed"])
    config = resolve(overrides(**options), described)
    dataset, state = open_dataset(config.data), RunState.build(config, torch.device("cpu"))
    if run.endswith("otherwise"):
        generator = torch.Generator().manual_seed(1)
        for parameter in [*state.G.parameters(), *state.D.parameters()]:
            parameter.data *= 1 + 2**-24 * (2 * torch.randint(2, parameter.shape, generator=generator) - 1)
    phases = build_phases(state)
    found: dict[str, list[float]] = {name: [] for name in LOSSES}
    loader = image_batches(dataset, batch_size=options["batch"], seed=options["seed"], start=0, workers=0)
    with (
        contextlib.closing(loader) as batches,
        click.progressbar(range(steps), label=run, file=sys.stderr) as progress,
    ):
        for _ in progress:
            step(state, phases, Reals.of(next(batches), dataset, state.device))
            summaries = state.stats.flush()
            for name in LOSSES:
                found[name].append(summaries[name].mean)
    return found


if __name__ == "__main__":
    main()
