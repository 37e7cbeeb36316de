"""Print or run the command lines of figure 2 and tables 1 to 4 of Lee et al. 2022 (GGDR).

Usage:

    python experiments/recipe.py --list
    python experiments/recipe.py ffhq-140k
    python experiments/recipe.py cifar10 --run --only=ggdr --gpus=1

``docs/recipes.md`` has all of them (``--markdown``).
"""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import PATH, Command, FiniteFloat, friendly_errors
from dnnlib.errors import UserError
from dnnlib.foreground import run_program
from experiments.paper_experiments import EXPERIMENTS, Experiment, Scores, Variant
from training.config.options import overrides
from training.config.resolve import resolve
from training.config.run_directory import snapshot_name
from training.config.schema import IMAGES, DataConfig

ROOT = Path(__file__).resolve().parent.parent
REGULARISERS = ("none", "ggdr")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders, and values that replace those of a recipe.

    Attributes:
        raw: folder of the originals.
        datasets: folder of the data sets.
        outdir: folder of the runs.
        gpus: number of processes; None keeps the recipe's.
        kimg: length of the trainings; None keeps the recipe's.
        seed: of the trainings; None keeps the recipe's.
    """

    raw: str = "raw"
    datasets: str = "datasets"
    outdir: str = "training-runs"
    gpus: int | None = None
    kimg: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Training:
    """One training of an experiment.

    Attributes:
        title: for people.
        reg_type: its ``--reg_type``.
        scores: the paper's values.
        train: arguments after ``python`` that train.
        measure: arguments after ``python`` that measure the last snapshot.
        run_dir: the first run in its output directory.
        network: name of its last network pickle.
    """

    title: str
    reg_type: str
    scores: Scores
    train: list[str]
    measure: list[str]
    run_dir: str
    network: str


def prepare_command(experiment: Experiment, places: Places) -> list[str]:
    """The arguments after ``python`` that make the data set."""
    if experiment.annotations is not None:
        sources = [
            f"--images={places.raw}/{experiment.source}",
            f"--annotations={places.raw}/{experiment.annotations}",
        ]
        return [
            "tools/make_paired_dataset.py",
            *sources,
            f"--dest={data_path(experiment, places)}",
            *experiment.convert,
        ]
    return [
        "dataset_tool.py",
        f"--source={places.raw}/{experiment.source}",
        f"--dest={data_path(experiment, places)}",
        *experiment.convert,
    ]


def data_path(experiment: Experiment, places: Places) -> str:
    """The path of an experiment's data set."""
    return f"{places.datasets}/{experiment.data}.zip"


def variants(experiment: Experiment) -> Iterator[Variant]:
    """All trainings of an experiment; each comparison is a baseline without and with GGDR."""
    for comparison in experiment.comparisons:
        for reg_type in REGULARISERS:
            ggdr = (
                dict(reg_type="ggdr", ggdr_res=experiment.ggdr_res)
                if reg_type == "ggdr"
                else dict(reg_type="none")
            )
            yield Variant(
                slug=f"{comparison.slug}-{reg_type}",
                title=f"{comparison.baseline} {'with' if reg_type == 'ggdr' else 'without'} GGDR",
                options={"aug": comparison.aug, **ggdr},
                scores=comparison.with_ggdr if reg_type == "ggdr" else comparison.without,
            )
    yield from experiment.variants


def train_options(experiment: Experiment, variant: Variant, places: Places) -> dict[str, Any]:
    """The options of one training, without those of the data."""
    chosen = {
        name: value
        for name, value in (("gpus", places.gpus), ("kimg", places.kimg), ("seed", places.seed))
        if value is not None
    }
    return overrides(**{**experiment.options, **variant.options, **chosen})


def training(experiment: Experiment, name: str, variant: Variant, places: Places) -> Training:
    """The command lines of one training, and its run directory as the options name it."""
    options = train_options(experiment, variant, places)
    data = described_data(experiment, places, annotated=options.get("reg_type") == "seg")
    outdir = f"{places.outdir}/{name}/{variant.slug}" + (
        f"-seed{places.seed}" if places.seed is not None else ""
    )
    typed = {**options, "mirror": int(experiment.mirror) or None, "subset": experiment.subset}
    train = ["train.py", f"--outdir={outdir}", f"--data={data.path}"]
    train += [f"--{key}={_typed(value)}" for key, value in typed.items() if value is not None]
    config = resolve(options, data)
    run_dir = f"{outdir}/00000-{config.description}"
    network = snapshot_name(config.schedule.total_images)
    measure = ["calc_metrics.py", f"--network={run_dir}/{network}", f"--metrics={experiment.metrics}"]
    measure += [f"--gpus={config.runtime.gpus}"] if config.runtime.gpus > 1 else []
    return Training(
        variant.title, options.get("reg_type") or "none", variant.scores, train, measure, run_dir, network
    )


def _typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def described_data(experiment: Experiment, places: Places, *, annotated: bool) -> DataConfig:
    """The data set of an experiment as training describes it. It need not exist.

    The numbers of images and classes are stand-ins.
    """
    path = data_path(experiment, places)
    return DataConfig(
        path=f"{path}/{IMAGES}" if experiment.annotations and not annotated else path,
        resolution=experiment.resolution,
        num_channels=3,
        label_dim=0,
        num_images=experiment.subset or 1,
        use_labels=False,
        max_size=experiment.subset,
        xflip=experiment.mirror,
        random_seed=0,
        annotation_classes=2 if annotated else 0,
    )


def trainings(name: str, places: Places, only: str | None = None) -> list[Training]:
    """The trainings of an experiment; with ``only``, those with this ``--reg_type``.

    Raises:
        UserError: the experiment has none of them.
    """
    found = [training(EXPERIMENTS[name], name, variant, places) for variant in variants(EXPERIMENTS[name])]
    chosen = [one for one in found if only in (None, one.reg_type)]
    if not chosen:
        raise UserError(
            f"--only={only}: recipe {name} trains with "
            f"{' and '.join(dict.fromkeys(one.reg_type for one in found))} only"
        )
    return chosen


def shell(arguments: list[str]) -> str:
    """A command line to be typed."""
    return shlex.join(["python", *arguments])


def recipe_text(name: str, places: Places, only: str | None = None) -> str:
    """The command lines of an experiment as a shell script, with the paper's values in comments."""
    experiment = EXPERIMENTS[name]
    lines = [
        f"# {experiment.title} ({experiment.table})",
        *(f"# {note}" for note in experiment.notes),
        "",
        f"# Data: {places.raw}/{experiment.source} from {experiment.origin}",
        shell(prepare_command(experiment, places)),
    ]
    for one in trainings(name, places, only):
        lines += ["", f"# {one.title}{score_text(one.scores)}", shell(one.train), shell(one.measure)]
    return "\n".join(lines)


def score_text(scores: Scores) -> str:
    """``; the paper: FID 3.14, precision 0.69``, or nothing."""
    return "; the paper: " + ", ".join(f"{name} {value}" for name, value in scores.items()) if scores else ""


def overview() -> str:
    """All experiments with the paper's values, as a Markdown table."""
    lines = [
        "| recipe | data | baseline | FID | with GGDR | precision | with GGDR | recall | with GGDR |",
        "|---|---|---|" + "---:|" * 6,
    ]
    for name, experiment in EXPERIMENTS.items():
        for comparison in experiment.comparisons:
            pairs = [
                (comparison.without.get(score, ""), comparison.with_ggdr.get(score, ""))
                for score in ("FID", "precision", "recall")
            ]
            cells = [
                f"`{name}`",
                experiment.title,
                comparison.baseline,
                *(value for pair in pairs for value in pair),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablations() -> str:
    """All experiments with variants, with the paper's values, as a Markdown table."""
    lines = ["| recipe | table | training | FID |", "|---|---|---|---:|"]
    for name, experiment in EXPERIMENTS.items():
        lines += [
            f"| `{name}` | {experiment.table} | {one.title} | {one.scores.get('FID', '')} |"
            for one in experiment.variants
        ]
    return "\n".join(lines)


HEADER = """# Recipes of figure 2 and tables 1 to 4

The command lines that redo the figure and the tables of Lee et al. 2022 (GGDR), with the paper's values.
`python experiments/recipe.py --markdown` writes this file, and a test compares the two.
`python experiments/recipe.py NAME` prints one recipe; with `--run` it runs or continues it. `--only=ggdr`,
`--gpus`, `--seed` and `--kimg` change it; `--raw`, `--datasets` and `--outdir` name the folders.

**None of these has been run here** at this scale: they need 8 GPUs each (CIFAR-10: 2) and data that this
repository does not have. Tests check that every command line is accepted and resolves to the hyperparameters
of its `--cfg`. [results.md](results.md) has figure 2, the cost of the ablations, and GGDR with targets of 8×8
and 16×16 over several seeds, all on a CPU at 32×32.

All have in common (paper, section 4): λ = 10; a target map of 64×64, on CIFAR-10 8×8; R1 regularisation; FID
of 50,000 generated images against all training images. Figures with ± are mean and standard deviation of
three trainings (here `--seed=0`, `1`, `2`). StyleGAN2 is `--aug=noaug`, ADA `--aug=ada`. The inception score
of CIFAR-10 is 9.83 ± 0.04 without and 10.02 ± 0.06 with GGDR.

The paper does not give the length (here that of `--cfg`, 25,000 kimg, CIFAR-10 100,000), the measured
snapshot (here the last one; training measures FID at each), or how images were resized (here Lanczos).
"""


def markdown() -> str:
    """All of ``docs/recipes.md``."""
    parts = [HEADER, overview(), "", ablations(), ""]
    for name in EXPERIMENTS:
        parts += [f"## {name}", "", "```bash", recipe_text(name, Places()), "```", ""]
    return "\n".join(parts)


def run_recipe(name: str, places: Places, only: str | None) -> None:
    """Make the data set unless it exists, train (or continue a training) and measure.

    Raises:
        UserError: a command fails, or a training ended too early.
    """
    experiment, chosen = EXPERIMENTS[name], trainings(name, places, only)
    if Path(data_path(experiment, places)).exists():
        print(f"{data_path(experiment, places)} is there already")
    else:
        call(prepare_command(experiment, places))
    for one in chosen:
        call([*one.train, "--continue=auto"])
        call([one.measure[0], f"--network={trained_network(one)}", *one.measure[2:]])
        print(f"\n{one.title}{score_text(one.scores)}", flush=True)


def trained_network(one: Training) -> Path:
    """The last network pickle of a training's newest run. Raises :class:`UserError` if it ended too early."""
    first = Path(one.run_dir)
    description = first.name.partition("-")[2]
    runs = sorted(path for path in first.parent.glob("[0-9]*") if path.name.partition("-")[2] == description)
    network = (runs[-1] if runs else first) / one.network
    if not network.exists():
        raise UserError(
            f"the training has not reached its end: there is no {network}; the same command line goes on"
        )
    return network


def call(arguments: list[str]) -> None:
    """Print and run one of the project's programs. Raises :class:`UserError` when it fails."""
    print(f"\n$ {shell(arguments)}", flush=True)
    status = run_program([str(ROOT / arguments[0]), *arguments[1:]])
    if status:
        raise UserError(f"{arguments[0]} ended with status {status}")


@click.command(cls=Command)
@click.argument("name", required=False, type=click.Choice(list(EXPERIMENTS)), metavar="[NAME]")
@click.option("--list", "list_", is_flag=True, help="List the recipes, with the paper's values")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print docs/recipes.md")
@click.option("--run", "run_", is_flag=True, help="Run the command lines instead of printing them")
@click.option(
    "--only", type=click.Choice([*REGULARISERS, "seg"]), help="Only the trainings with this --reg_type"
)
@click.option(
    "--raw", default="raw", show_default=True, type=PATH, metavar="DIR", help="Where the originals are"
)
@click.option(
    "--datasets", default="datasets", show_default=True, type=PATH, metavar="DIR", help="Where data sets go"
)
@click.option(
    "--outdir", default="training-runs", show_default=True, type=PATH, metavar="DIR", help="Where runs go"
)
@click.option("--gpus", type=int, metavar="INT", help="In place of the recipe's number")
@click.option("--kimg", type=FiniteFloat(above=0), metavar="KIMG", help="In place of the recipe's length")
@click.option("--seed", type=int, metavar="INT", help="Random seed  [default: 0]")
@friendly_errors
def main(
    name: str | None,
    list_: bool,
    as_markdown: bool,
    run_: bool,
    only: str | None,
    raw: str,
    datasets: str,
    outdir: str,
    gpus: int | None,
    kimg: float | None,
    seed: int | None,
) -> None:
    """Print the command lines of a figure or a row of the GGDR paper's tables: data, trainings, metrics."""
    if list_ or as_markdown:
        print(f"{overview()}\n\n{ablations()}\n" if list_ else markdown(), end="")
        return
    if name is None:
        raise UserError(f"name a recipe: {', '.join(EXPERIMENTS)} (--list shows them)")
    places = Places(raw=raw, datasets=datasets, outdir=outdir, gpus=gpus, kimg=kimg, seed=seed)
    if run_:
        run_recipe(name, places, only)
    else:
        print(recipe_text(name, places, only))


if __name__ == "__main__":
    main()
