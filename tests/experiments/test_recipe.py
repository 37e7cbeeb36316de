"""recipe: its command lines are accepted, have the paper's values, and are those of docs/recipes.md."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import calc_metrics
import dataset_tool
import train
from dnnlib.errors import UserError
from experiments import recipe
from experiments.paper_experiments import EXPERIMENTS, Comparison, Experiment
from experiments.recipe import Places, markdown, recipe_text, trainings
from metrics.registry import parse_metrics
from tests.support.analysis import make_pairs
from tests.support.runs import make_images
from tools import make_paired_dataset

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALL = [(name, one) for name in EXPERIMENTS for one in trainings(name, Places())]


def commands(text: str) -> list[list[str]]:
    """The command lines in a printed recipe, without ``python``."""
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("python ")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: Any) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("stand-ins")
    return {
        res: make_images(root / str(res), count=1 if res > 32 else 4, resolution=res)
        for res in (32, 256, 512)
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: Any) -> Path:
    return make_pairs(tmp_path_factory.mktemp("stand-ins") / "256", count=2, resolution=256)


def test_the_documentation_is_in_step() -> None:
    assert (DOCS / "recipes.md").read_text(encoding="utf-8") == markdown()


@pytest.mark.parametrize(("name", "one"), ALL, ids=[f"{name}-{one.title}" for name, one in ALL])
def test_training_command_lines_resolve(
    name: str, one: recipe.Training, images: dict[int, Path], pairs: Path
) -> None:
    experiment = EXPERIMENTS[name]
    assert one.train[0] == "train.py"
    # The stand-in has too few images for --subset, which is checked against them.
    arguments = [arg for arg in one.train[1:] if not arg.startswith(("--data=", "--subset="))]
    stand_in = pairs if one.reg_type == "seg" else images[experiment.resolution]
    result = CliRunner().invoke(train.main, [*arguments, f"--data={stand_in}", "--dry-run"])
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    method = {
        "resolution": experiment.ggdr_res,
        "weight": 10,
        "start_kimg": 0,
        "kernel_size": 1,
        "activation": "linear",
    }
    assert config["ggdr"] == ({**method, **VARIANTS.get(one.title, {})} if one.reg_type == "ggdr" else None)
    assert config["seg"] == ({"weight": 1} if one.reg_type == "seg" else None)
    folder = "/images" if one.title == "ADA without ground truth" else ""
    assert f"--data={recipe.data_path(experiment, Places())}{folder}" in one.train
    assert config["augment"]["mode"] == (
        "noaug" if "StyleGAN2" in one.title or name == "ablations" else "ada"
    )
    assert config["data"]["xflip"] == experiment.mirror
    assert config["schedule"]["total_kimg"] == (100000 if name == "cifar10" else 25000)
    assert config["loss"]["r1_gamma"] == {32: 0.01, 256: 1, 512: 0.5}[experiment.resolution]
    assert config["schedule"]["batch_size"] == 64
    subset = f"-subset{experiment.subset}" if experiment.subset else ""
    data = "images" if one.title == "ADA without ground truth" else experiment.data
    described = config["description"].replace(str(experiment.resolution), data + subset, 1)
    assert Path(one.run_dir).name == f"00000-{described}"
    assert (
        f"--network={one.run_dir}/network-snapshot-{config['schedule']['total_kimg']:06d}.pkl" in one.measure
    )


#: What each ablation changes.
VARIANTS: dict[str, dict[str, Any]] = {
    "target 8x8": {"resolution": 8},
    "target 16x16": {"resolution": 16},
    "target 32x32": {"resolution": 32},
    "target 64x64, leaky ReLU": {"activation": "lrelu"},
    "target 64x64, 3x3 convolutions": {"kernel_size": 3},
    "targets 32x32 and 64x64, not in the paper": {"resolution": [32, 64]},
}


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_the_other_command_lines_parse(name: str) -> None:
    lines = commands(recipe_text(name, Places()))
    prepare = "tools/make_paired_dataset.py" if EXPERIMENTS[name].annotations else "dataset_tool.py"
    assert [line[0] for line in lines] == [prepare, *["train.py", "calc_metrics.py"] * (len(lines) // 2)]
    assert len(lines) == 1 + 4 * len(EXPERIMENTS[name].comparisons) + 2 * len(EXPERIMENTS[name].variants)
    for script, *arguments in lines:
        if script == "dataset_tool.py":
            assert dataset_tool.main.make_context(script, list(arguments)).params["dest"].endswith(".zip")
        if script == "tools/make_paired_dataset.py":
            assert (
                make_paired_dataset.main.make_context(script, list(arguments)).params["dest"]
                == "datasets/ade20k256.zip"
            )
        if script == "calc_metrics.py":
            parse_metrics(calc_metrics.main.make_context(script, list(arguments)).params["metrics"])


def test_the_paper_s_figures() -> None:
    """Each comparison has the same scores on both sides; GGDR lowers FID except for ADA on 2k faces."""
    for name, experiment in EXPERIMENTS.items():
        for comparison in experiment.comparisons:
            assert list(comparison.without) == list(comparison.with_ggdr)
            without, with_ggdr = (
                float(scores["FID"].split()[0]) for scores in (comparison.without, comparison.with_ggdr)
            )
            assert (with_ggdr < without) == ((name, comparison.baseline) != ("ffhq-2k", "ADA"))
    assert len(EXPERIMENTS) == 13
    fids = {one.title: one.scores.get("FID") for one in EXPERIMENTS["ablations"].variants}
    assert list(fids.values()) == ["7.98", None, "6.56", "5.98", "5.28", "5.43", "5.25", None]


def test_printing(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        recipe.main, ["cifar10", "--gpus=1", "--kimg=10", "--seed=3", "--datasets=/data", "--outdir=out"]
    )
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if "--reg_type=ggdr" in line)
    said = {
        "--gpus=1",
        "--kimg=10",
        "--seed=3",
        "--data=/data/cifar10.zip",
        "--outdir=out/cifar10/ada-ggdr-seed3",
    }
    assert said <= set(shlex.split(line))
    assert "network-snapshot-000010.pkl" in result.output
    assert "FID 2.15 ± 0.02" in result.output
    only = CliRunner().invoke(recipe.main, ["cifar10", "--only=ggdr"]).output
    assert "--reg_type=ggdr" in only
    assert "--reg_type=none" not in only
    result = CliRunner().invoke(recipe.main, ["cifar10", "--only=seg"])
    assert result.exit_code == 1
    assert "--only=seg: recipe cifar10 trains with none and ggdr only" in result.output
    table = CliRunner().invoke(recipe.main, ["--list"]).output
    assert "| `afhq-wild` | AFHQ Wild | ADA | 3.05 | 2.06 | 0.76 | 0.80 | 0.13 | 0.27 |" in table
    assert "| `ablations` | tables 4a and 4b | target 64x64, leaky ReLU | 5.43 |" in table
    result = CliRunner().invoke(recipe.main, [])
    assert result.exit_code == 1
    assert "name a recipe: ffhq-2k" in result.output


def test_running_stops_at_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(recipe, "call", called.append)
    places = Places(datasets=str(tmp_path), outdir=str(tmp_path / "runs"))
    with pytest.raises(
        UserError, match=r"has not reached its end: there is no .*100000\.pkl; the same command line goes on"
    ):
        recipe.run_recipe("cifar10", places, "ggdr")
    assert [line[0] for line in called] == ["dataset_tool.py", "train.py"]
    assert "--reg_type=ggdr" in called[1]
    assert called[1][-1] == "--continue=auto"
    monkeypatch.undo()
    for name, script in (("cifar10", r"dataset_tool\.py"), ("ade20k", r"tools/make_paired_dataset\.py")):
        with pytest.raises(UserError, match=f"{script} ended with status 1"):
            recipe.run_recipe(name, Places(raw=str(tmp_path / "nothing"), datasets=str(tmp_path)), None)


def test_the_newest_run_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(recipe, "call", called.append)
    places = Places(datasets=str(tmp_path), outdir=str(tmp_path / "runs"))
    (tmp_path / "cifar10.zip").touch()
    one = next(one for one in trainings("cifar10", places) if one.reg_type == "none")
    for number in (0, 2, 10):
        folder = Path(one.run_dir.replace("/00000-", f"/{number:05d}-"))
        for run_dir, kimg in (
            (folder, 20),
            (folder, 100000),
            (folder.with_name(f"{number + 1:05d}-other"), 500),
        ):
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / f"network-snapshot-{kimg:06d}.pkl").touch()
    recipe.run_recipe("cifar10", places, "none")
    assert [line[0] for line in called] == ["train.py", "calc_metrics.py"]
    description = Path(one.run_dir).name.removeprefix("00000-")
    assert called[1][1].endswith(f"/00010-{description}/network-snapshot-100000.pkl")
    assert called[1][2:] == ["--metrics=fid50k_full,is50k", "--gpus=2"]
    (Path(one.run_dir.replace("/00000-", "/00010-")) / "network-snapshot-100000.pkl").unlink()
    with pytest.raises(UserError, match=r"has not reached its end: there is no .*/00010-"):
        recipe.run_recipe("cifar10", places, "none")


def test_repetitions_have_folders_of_their_own() -> None:
    runs = {one.run_dir for seed in (None, 0, 1) for one in trainings("cifar10", Places(seed=seed))}
    assert len(runs) == 6


@pytest.mark.slow
def test_a_recipe_runs_from_images_to_metrics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    make_images(tmp_path / "raw" / "discs", count=8)
    small = dict(cfg="auto", cbase=64, cmax=4, batch=4, kimg=0.008, device="cpu")
    comparison = Comparison(baseline="ADA", aug="ada", without={"FID": "2"}, with_ggdr={"FID": "1"})
    experiment = Experiment(
        title="discs", table="none", source="discs", origin="here", convert=(), data="discs32", resolution=32,
        options=small, ggdr_res=8,
        metrics="fid8_full", comparisons=(comparison,),
    )  # fmt: skip
    monkeypatch.setitem(EXPERIMENTS, "discs", experiment)
    places = {name: str(tmp_path / name) for name in ("raw", "datasets", "outdir")}
    monkeypatch.setattr(recipe, "call", lambda line, call=recipe.call: call(offline(line)))
    recipe.run_recipe("discs", Places(**places), None)
    output = capfd.readouterr().out
    assert output.count('"fid8_full"') >= 2, output
    assert "ADA with GGDR; the paper: FID 1" in output


def offline(line: list[str]) -> list[str]:
    """A command line with a detector that needs no download."""
    more = {"train.py": ["--metrics=none"], "calc_metrics.py": ["--detector=efficientnet-lite0"]}
    return [*line, *more.get(line[0], [])]
