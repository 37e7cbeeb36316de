"""Shows that a change of the code changes no result: record before it, compare after it.

Usage:

    python benchmarks/same_losses.py record before.json     # on the code as it was
    python benchmarks/same_losses.py compare before.json    # on the code as it is; fails if they differ

Five small trainings of 60 steps run as command lines: without a regulariser, with GGDR, with segmentation,
with GGDR, ADA and labels, and in two processes. Recorded are the losses of each step, a hash of all weights
at the end, the keys of ``stats.jsonl`` and the configuration that ``--dry-run`` prints. All of it must be
equal to the bit, on the same machine with the same versions of PyTorch.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dnnlib.cli import Command, friendly_errors  # noqa: E402
from dnnlib.errors import UserError  # noqa: E402
from torch_utils.persistence import load_network_pkl  # noqa: E402

STEPS, BATCH = 60, 8

#: Options of all trainings: small networks, a status line after every step.
COMMON = (
    f"--batch={BATCH}", f"--kimg={STEPS * BATCH / 1000}", f"--tick={BATCH / 1000}", "--snap=1000",
    "--metrics=none", "--cbase=512", "--cmax=16", "--map-depth=2", "--device=cpu", "--ops=ref",
    "--workers=0", "--seed=3",
)  # fmt: skip

#: Trainings by name: the data set, and the options of each.
TRAININGS = {
    "none": ("labelled", ("--reg_type=none", "--aug=noaug")),
    "ggdr": ("labelled", ("--reg_type=ggdr", "--ggdr_res=8", "--aug=noaug")),
    "seg": ("paired", ("--reg_type=seg", "--aug=noaug")),
    "ggdr-ada-labels": (
        "labelled",
        ("--reg_type=ggdr", "--ggdr_res=8", "--aug=ada", "--target=0.2", "--cond=1", "--mirror=1"),
    ),
    "two-processes": ("labelled", ("--reg_type=ggdr", "--ggdr_res=8", "--batch-gpu=2", "--gpus=2")),
}

#: Statistics that depend on the clock or the machine.
VARYING = ("Timing/", "Resources/", "timestamp")


def make_data(folder: Path) -> None:
    """Two data sets of 24 images of 32×32 pixels: one with labels, and one of images and annotations."""
    rng = np.random.default_rng(0)
    for name in ("labelled", "paired/images", "paired/annotations"):
        (folder / name).mkdir(parents=True)
    labels = []
    for i in range(24):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = PIL.Image.fromarray(coarse).resize((32, 32), PIL.Image.Resampling.BILINEAR)
        image.save(folder / "labelled" / f"{i:02d}.png")
        image.save(folder / "paired/images" / f"{i:02d}.png")
        classes = PIL.Image.fromarray((coarse[:, :, 0] > 128).astype(np.uint8)).resize(
            (32, 32), PIL.Image.Resampling.NEAREST
        )
        classes.save(folder / "paired/annotations" / f"{i:02d}.png")
        labels.append([f"{i:02d}.png", i % 3])
    (folder / "labelled" / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")


def weights_hash(network_pkl: Path) -> str:
    """SHA-256 of all parameters and buffers of G, D and G_ema, names and shapes included."""
    digest = hashlib.sha256()
    networks = load_network_pkl(network_pkl)
    for name in ("G", "D", "G_ema"):
        for key, value in sorted(networks[name].state_dict().items()):
            digest.update(f"{name}.{key}{list(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def run_command(arguments: list[str]) -> str:
    """Run one of our command lines and return its standard output.

    Raises :class:`UserError` with its last line where it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise UserError(
            f"{' '.join(arguments)} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
        )
    return done.stdout


def train(folder: Path, name: str) -> dict[str, Any]:
    """Run one training and collect what must not change."""
    data, options = TRAININGS[name]
    command = ["train.py", f"--data={folder / data}", *COMMON, *options]
    config = json.loads(run_command([*command, "--dry-run"]))
    del config["data"]["path"]
    run_command([*command, f"--outdir={folder / 'runs' / name}"])
    (run_dir,) = (folder / "runs" / name).iterdir()
    lines = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    values = [{key: value for key, value in line.items() if not key.startswith(VARYING)} for line in lines]
    snapshots = sorted(run_dir.glob("network-snapshot-*.pkl"))
    return {
        "config": config,
        "keys": sorted(lines[-1]),
        "statistics": values,
        "weights": weights_hash(snapshots[-1]),
    }


@click.command(cls=Command)
@click.argument("action", type=click.Choice(["record", "compare"]))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@friendly_errors
def main(action: str, file: Path) -> None:
    """Record the results of five small trainings in FILE, or compare today's with those in FILE."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder))
        for name in TRAININGS:
            click.echo(f"{name}: training for {STEPS} steps", err=True)
            results[name] = train(Path(folder), name)
    results = json.loads(json.dumps(results))
    if action == "record":
        file.write_text(json.dumps(results), encoding="utf-8")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    different = [
        f"{name}: {part}"
        for name in TRAININGS
        for part in results[name]
        if results[name][part] != before[name][part]
    ]
    for name in TRAININGS:
        click.echo(
            f"{name:<16}{len(results[name]['statistics'])} steps, weights {results[name]['weights'][:16]}"
        )
    if different:
        raise UserError("these differ: " + ", ".join(different))
    click.echo("Everything is equal to the bit.")


if __name__ == "__main__":
    main()
