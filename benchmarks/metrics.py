"""Speed and memory of the metrics, as ratios to other implementations measured in turns in one run.

Usage:

    python benchmarks/metrics.py            # the sizes of docs/metrics.md: about 15 minutes on two cores
    python benchmarks/metrics.py --only=frechet --json=frechet.json
    python benchmarks/metrics.py --only=large --large=50000x50000x4096

Needs the ``compare`` extra (prdc), and the ``efficientnet`` extra for one of the two detectors. Threads are
what OMP_NUM_THREADS says, or the number of cores.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import json_option, write_json  # noqa: E402
from dnnlib.cli import Command, friendly_errors  # noqa: E402
from dnnlib.errors import UserError  # noqa: E402

Report = dict[str, Any]
TARGET = (50_000, 50_000, 4096)  # reals, fakes and features of the reference's precision and recall
PARTS = ("neighbours", "frechet", "extraction", "large")


@click.command(cls=Command)
@click.option(
    "--only",
    metavar="LIST",
    default="neighbours,frechet,extraction",
    show_default=True,
    help=f"of {', '.join(PARTS)}",
)
@click.option(
    "--neighbours",
    metavar="NxMxF",
    default="20000x20000x1280",
    show_default=True,
    help="reals, fakes and features, beside prdc",
)
@click.option(
    "--large", metavar="NxMxF", default="50000x50000x4096", show_default=True, help="the same without prdc"
)
@click.option("--dimensions", default=2048, show_default=True, metavar="INT", help="of the covariances")
@click.option(
    "--images",
    default=512,
    show_default=True,
    metavar="INT",
    help="that a detector is shown in a round (the slower a quarter)",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="INT",
    help="of each measurement, in turns",
)
@json_option
@friendly_errors
def main(
    only: str, neighbours: str, large: str, dimensions: int, images: int, rounds: int, json_file: str | None
) -> None:
    """Measure and print a table; times are medians over rounds, with the fastest and the slowest."""
    parts = only.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise UserError(f"--only={only}: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    report: Report = {"machine": machine()}
    print(f"{report['machine']['cpu']}, {report['machine']['threads']} threads")
    if "neighbours" in parts:
        report["neighbours"] = compare_neighbours(sizes(neighbours), rounds)
    if "frechet" in parts:
        report["frechet"] = compare_frechet(dimensions, rounds)
    if "extraction" in parts:
        counts = {"efficientnet-lite0": images, "inception's layers": max(images // 4, 2)}
        report["extraction"] = [compare_extraction(name, count, rounds) for name, count in counts.items()]
    if "large" in parts:
        report["large"] = measure_large(sizes(large))
    write_json(json_file, report)


def sizes(text: str) -> tuple[int, int, int]:
    """``NxMxF`` as three numbers. Raises :class:`UserError`."""
    try:
        n, m, width = (int(part) for part in text.split("x"))
    except ValueError as error:
        raise UserError(f"'{text}' is not three sizes such as 20000x20000x1280") from error
    return n, m, width


def machine() -> Report:
    """Processor, cores, threads and versions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        "unknown processor",
    )
    versions = {"numpy": np.__version__, "torch": torch.__version__}
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "versions": versions}


def summary(seconds: Sequence[float]) -> str:
    """Median, least and most, for the table."""
    return f"{statistics.median(seconds):9.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})"


def in_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each gives in every round. One goes first in one round and last in the next."""
    found: dict[str, list[Any]] = {name: [] for name in work}
    for number in range(rounds):
        for name in list(work)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(work[name]())
    return found


# Precision, recall, density and coverage. Each measurement is a process of its own, so that its peak memory
# is.


def compare_neighbours(shape: tuple[int, int, int], rounds: int) -> Report:
    """All four values with neighbourhood 5, as prdc computes them, and precision and recall alone."""
    kinds = ("prdc", "precision and recall", "all four")
    runs = in_turns({kind: functools.partial(apart, kind, shape) for kind in kinds}, rounds)
    print(f"\nNearest neighbours, {'x'.join(map(str, shape))}, float32 features")
    medians: dict[str, Report] = {}
    for kind in kinds:
        seconds = [run["seconds"] for run in runs[kind]]
        cpu_seconds = statistics.median(run["cpu_seconds"] for run in runs[kind])
        peak = max(run["peak_mib"] for run in runs[kind])
        medians[kind] = {"seconds": statistics.median(seconds), "cpu_seconds": cpu_seconds, "peak_mib": peak}
        print(f"  {kind:22s}{summary(seconds)}  {cpu_seconds:9.2f} s of CPU time  peak {peak:6.0f} MiB")
    ratios = {}
    for kind in kinds[1:]:
        ratio = {key: medians["prdc"][key] / value for key, value in medians[kind].items()}
        ratios[kind] = ratio
        print(
            f"  {kind}: {ratio['seconds']:.1f} times as fast as prdc, {ratio['cpu_seconds']:.1f} times by "
            f"CPU time (less dependent on other processes), 1/{ratio['peak_mib']:.1f} of its peak memory"
        )
    values = {kind: runs[kind][0]["values"] for kind in kinds}
    for name, value in values["all four"].items():
        if abs(value - values["prdc"][name]) > 1e-5 * abs(values["prdc"][name]):
            raise UserError(f"{name} is {value}, but prdc's is {values['prdc'][name]}")
    return {"shape": shape, "runs": runs, "ratios": ratios}


def measure_large(shape: tuple[int, int, int]) -> Report:
    """Precision and recall alone: time and peak memory. Raises :class:`UserError` above :func:`formula`."""
    run = apart("precision and recall", shape)
    n, m, width = shape
    base, peak, features = run["base_mib"], run["peak_mib"], 8 * width * (n + m) / 2**20
    limit = base + formula(shape)
    print(f"\nPrecision and recall, {'x'.join(map(str, shape))}: {run['seconds']:.0f} s")
    print(
        f"  peak {peak:.0f} MiB: interpreter and libraries {base:.0f}, features and their shifted copies "
        f"{features:.0f} (8 F (N + M)"
    )
    print(
        f"  bytes), work {peak - base - features:.0f}. The formula gives {base:.0f} + {formula(shape):.0f} = "
        f"{limit:.0f} MiB;"
    )
    print(
        f"  at {'x'.join(map(str, TARGET))} it gives {base:.0f} + {formula(TARGET):.0f} = "
        f"{base + formula(TARGET):.0f} MiB"
    )
    if peak > limit:
        raise UserError(f"the peak of {peak:.0f} MiB is above what the formula gives")
    return {"shape": shape, "formula_mib": limit, **run}


def formula(shape: tuple[int, int, int]) -> float:
    """MiB beside interpreter and libraries.

    Features, their shifted copies, 600 bytes a sample for candidates and radii, and tiles.
    """
    n, m, width = shape
    return (8 * width * (n + m) + 600 * (n + m)) / 2**20 + 100


def apart(kind: str, shape: tuple[int, int, int]) -> Report:
    """Run :func:`neighbours_once` in a process of its own."""
    command = [sys.executable, __file__, "neighbours-once", kind, json.dumps(shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"measuring {kind} failed: "
            f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        )
    result: Report = json.loads(done.stdout.splitlines()[-1])
    return result


def neighbours_once(kind: str, shape: tuple[int, int, int]) -> Report:
    """Time, peak memory of this process, and values."""
    n, m, width = shape
    functions = {"prdc": with_prdc, "precision and recall": with_ours, "all four": with_ours_all}
    work = functions[kind]()
    work(clouds(100, width, seed=0), clouds(100, width, seed=1))  # libraries that are loaded at first use
    base = peak_mib()
    real, gen = clouds(n, width, seed=0), clouds(m, width, seed=1)
    start, cpu_start = time.perf_counter(), time.process_time()
    values = work(real, gen)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = max(peak_mib(), base)  # the kernel counts in microbatches
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": peak,
        "base_mib": base,
        "values": values,
    }


def clouds(n: int, width: int, seed: int) -> np.ndarray:
    """Non-negative features, float32 ``[n, width]``, that vary mostly in few directions, as images' do."""
    shared = np.random.default_rng(9).standard_normal((64, width), dtype=np.float32)
    rng = np.random.default_rng(seed)
    rows = np.empty((n, width), np.float32)
    for start in range(0, n, 1000):
        part = rows[start : start + 1000]
        codes = rng.standard_normal((len(part), 64), dtype=np.float32)
        part[:] = np.maximum(codes @ shared / 8 + 0.3 * rng.standard_normal(part.shape, dtype=np.float32), 0)
    return rows


def with_prdc() -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """All four values, by prdc."""
    try:
        from prdc import compute_prdc
    except ImportError as error:
        raise UserError("prdc is not installed; pip install '.[compare]'") from error
    return lambda real, gen: {
        name: float(value) for name, value in compute_prdc(real, gen, nearest_k=5).items()
    }


def with_ours() -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """Precision and recall."""
    from metrics.precision_recall import precision_recall

    return lambda real, gen: dict(zip(("precision", "recall"), precision_recall(real, gen, 5), strict=True))


def with_ours_all() -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """All four values."""
    from dataclasses import asdict

    from metrics.overlap import overlaps

    return lambda real, gen: asdict(overlaps(real, gen, [5])[5])


def peak_mib() -> float:
    """The most memory that this process has held so far (its resident set)."""
    status = Path("/proc/self/status")
    if status.exists():  # since the program was loaded; ru_maxrss also remembers the process that started it
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            / 2**10
        )
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# Fréchet distance.


def compare_frechet(dimensions: int, rounds: int) -> Report:
    """Our Fréchet distance beside that by ``scipy.linalg.sqrtm``."""
    import scipy.linalg

    from metrics.frechet_inception_distance import frechet_distance

    mean = np.zeros(dimensions)
    one, other = (np.cov(clouds(2 * dimensions, dimensions, seed=seed), rowvar=False) for seed in (0, 1))

    def by_sqrtm() -> float:
        root = scipy.linalg.sqrtm(one @ other)
        return float(np.trace(one) + np.trace(other) - 2 * np.trace(root).real)

    def timed(work: Callable[[], float]) -> tuple[float, float]:
        start = time.perf_counter()
        value = work()
        return time.perf_counter() - start, value

    work = {"scipy.linalg.sqrtm": by_sqrtm, "ours": lambda: frechet_distance(mean, one, mean, other)}
    runs = in_turns({name: functools.partial(timed, function) for name, function in work.items()}, rounds)
    print(f"\nFréchet distance, {dimensions} dimensions")
    seconds = {name: [run[0] for run in of] for name, of in runs.items()}
    for name, of in seconds.items():
        print(f"  {name:22s}{summary(of)}  value {runs[name][0][1]:.9g}")
    ratio = statistics.median(seconds["scipy.linalg.sqrtm"]) / statistics.median(seconds["ours"])
    print(f"  ours: {ratio:.1f} times as fast")
    return {"dimensions": dimensions, "seconds": seconds, "ratio": ratio}


# From latents to statistics.


def compare_extraction(name: str, count: int, rounds: int) -> Report:
    """A pass over generated images, beside a loop that shows as many ready images to the same detector."""
    import torch

    from metrics.collecting import Collector, StatisticKey
    from metrics.sampling import fake_images
    from metrics.statistics import MomentsCollector

    device, generator, dataset = torch.device("cpu"), small_generator(), NoLabels()
    detector = efficientnet() if name == "efficientnet-lite0" else inception_layers()
    images = torch.cat(list(fake_images(generator, dataset, count, seed=0, device=device)))
    batches, features = images.split(64), [detector(part) for part in images.split(64)]
    collector = Collector({name: detector}, device, batch_size=64, progress=False)

    def timed(work: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        return run

    def gather() -> None:
        moments = MomentsCollector(count)
        for part in features:
            moments.append(part)
        moments.result()

    work = {
        "detector alone": timed(lambda: [detector(part) for part in batches]),
        "whole pass": timed(
            lambda: collector.fakes([StatisticKey(name, "moments", count)], generator, dataset, seed=0)
        ),
        "generator, conversion": timed(
            lambda: list(fake_images(generator, dataset, count, seed=0, device=device, batch_size=64))
        ),
        "statistics": timed(gather),
    }
    seconds = in_turns(work, rounds)
    print(f"\n{count} images of the demo's network (32x32) to moments of {name}")
    for kind, of in seconds.items():
        print(f"  {kind:22s}{summary(of)}")
    pairs = zip(seconds["whole pass"], seconds["detector alone"], strict=True)
    added = statistics.median(whole / alone for whole, alone in pairs) - 1
    print(f"  all that is not the detector adds {added:.1%}")
    return {"detector": name, "images": count, "seconds": seconds, "added": added}


class NoLabels:
    """The data set of an unconditional generator, whose items are never read."""

    name, resolution, num_channels, label_dim = "none", 32, 3, 0

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        raise IndexError(index)

    def get_label(self, index: int, /) -> np.ndarray:
        """None: there are no items."""
        raise IndexError(index)


def small_generator() -> Any:
    """That of tools/demo.py."""
    from training.networks import Generator

    return Generator(
        z_dim=512,
        c_dim=0,
        w_dim=512,
        img_resolution=32,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 512, "channel_max": 32},
    ).eval()


def efficientnet() -> Any:
    """The detector that works offline."""
    from metrics.features import open_detector

    return open_detector("efficientnet-lite0", "cpu")


def inception_layers() -> Any:
    """Inception v3 with random weights: the cost of the reference's detector, without its download."""
    import torch
    from torchvision.models import inception_v3

    from metrics.features import Detector, Outputs

    torch.manual_seed(0)
    network: Any = inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
    network.requires_grad_(requires_grad=False)
    network.fc = torch.nn.Identity()

    def features(images: torch.Tensor) -> torch.Tensor:
        resized = torch.nn.functional.interpolate(images, (299, 299), mode="bilinear")
        output: torch.Tensor = network(resized / 127.5 - 1)
        return output

    return Detector("inception's layers", Outputs("random weights", features), torch.device("cpu"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["neighbours-once"]:
        print(json.dumps(neighbours_once(sys.argv[2], tuple(json.loads(sys.argv[3])))))
    else:
        main()
