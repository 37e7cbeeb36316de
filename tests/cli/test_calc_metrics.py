"""calc_metrics.py on a small untrained network: what it prints, what it records, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import calc_metrics
from dnnlib.download import cached_path
from torch_utils.persistence import save_network_pkl
from training.networks import Discriminator, Generator

ROOT = Path(__file__).resolve().parents[2]
RESOLUTION = 16


class PooledPixels(torch.nn.Module):
    """A detector: the mean of each colour in each quarter of the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


class NotANumber(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=[2, 3]) * float("nan")


class WrongShape(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def write_images(
    folder: Path, count: int, resolution: int = RESOLUTION, mode: str = "RGB", labels: bool = False
) -> Path:
    folder.mkdir()
    rng = np.random.RandomState(0)
    shape = (resolution, resolution, 3) if mode == "RGB" else (resolution, resolution)
    for i in range(count):
        PIL.Image.fromarray(rng.randint(0, 256, shape).astype(np.uint8)).save(folder / f"{i:02d}.png")
    if labels:
        (folder / "dataset.json").write_text(
            json.dumps({"labels": [[f"{i:02d}.png", i % 2] for i in range(count)]})
        )
    return folder


def write_network(path: Path, /, c_dim: int = 0, diverged: bool = False, **training_set_kwargs: Any) -> Path:
    torch.manual_seed(0)
    shape = dict(img_resolution=RESOLUTION, img_channels=3)
    G = Generator(
        z_dim=8, c_dim=c_dim, w_dim=8, **shape, synthesis_kwargs=dict(channel_base=128, channel_max=8)
    )
    if diverged:
        G.get_parameter("synthesis.b16.torgb.bias").data.fill_(torch.nan)
    D = Discriminator(c_dim=c_dim, **shape, channel_base=128, channel_max=8)
    save_network_pkl(path, G=G, D=D, G_ema=G, training_set_kwargs=training_set_kwargs)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a run directory with a network trained on its half, mirrored, and a detector file."""
    root = tmp_path_factory.mktemp("calc")
    data = write_images(root / "data", 24, labels=True)
    run = root / "run"
    run.mkdir()
    (run / "training_options.json").write_text("{}")
    write_network(
        run / "net.pkl", path=str(data), max_size=12, xflip=True, use_labels=False, resolution=RESOLUTION
    )
    write_network(root / "alone.pkl")
    write_network(root / "conditional.pkl", c_dim=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(PooledPixels()).save(str(root / "detector.pt"))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def invoke(
    world: Path, *arguments: str, network: str | None = "alone.pkl", detector: str = "detector.pt"
) -> Any:
    measured = [] if network is None else [f"--network={world / network}"]
    return CliRunner().invoke(
        calc_metrics.main, [*measured, f"--detector={world / detector}", "--device=cpu", *arguments]
    )


def lines(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def refused(result: Any, message: str) -> None:
    assert result.exit_code != 0
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_in_a_run_directory(world: Path) -> None:
    """Metrics compare with the whole training set, not mirrored, and results are appended there too."""
    found = lines(invoke(world, "--metrics=fid20_full,pr203_full", network="run/net.pkl"))
    assert [set(line["results"]) for line in found] == [
        {"fid20_full"},
        {"pr203_full_precision", "pr203_full_recall"},
    ]
    for line in found:
        expected = {
            "num_real": 24,
            "mirror": False,
            "count": 20,
            "seed": 0,
            "dataset": "data",
            "resolution": RESOLUTION,
        }
        assert expected.items() <= line.items()
        assert line["detector"] == str(world / "detector.pt")
        assert line["snapshot_pkl"] == "net.pkl"
        recorded = (world / "run" / f"metric-{line['metric']}.jsonl").read_text().splitlines()
        assert json.loads(recorded[-1]) == line


def test_with_data_given(world: Path) -> None:
    data = f"--data={world / 'data'}"
    (plain,) = lines(invoke(world, "--metrics=fid20_full", data, network="run/net.pkl"))
    result = invoke(world, "--metrics=fid20_full", data, "--mirror=1", "--batch=5")
    (mirrored,) = lines(result)
    assert (plain["num_real"], mirrored["num_real"]) == (24, 24)
    assert plain["results"] == mirrored["results"]
    assert "--mirror=1 has no effect" in result.stderr
    assert not list(world.glob("metric-*.jsonl"))


def test_mirrored_reals(world: Path) -> None:
    """The reference's older metrics take them as in training, unless told otherwise; none with --data."""

    def reals(*arguments: str) -> tuple[bool, int]:
        (line,) = lines(invoke(world, "--metrics=fid48", "--verbose=0", *arguments, network="run/net.pkl"))
        return line["mirror"], line["num_real"]

    assert reals() == (True, 48)
    assert reals("--mirror=0") == (False, 24)
    assert reals(f"--data={world / 'data'}") == (False, 24)
    assert reals(f"--data={world / 'data'}", "--mirror=1") == (True, 48)
    assert (
        "no effect"
        not in invoke(world, "--metrics=fid48,fid20_full", "--mirror=1", network="run/net.pkl").stderr
    )


def test_images_in_place_of_a_network(world: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "generated", 30)
    result = invoke(
        world,
        f"--images={images}",
        "--metrics=fid20_full,pr50k3_full",
        f"--data={world / 'data'}",
        network=None,
    )
    first, second = lines(result)
    assert (first["count"], first["num_real"], second["count"], second["dataset"]) == (20, 24, 30, "data")
    assert (first["snapshot_pkl"], first["images"]) == (None, str(images))
    assert "pr50k3_full measures all 30 images of 'generated', not 50000" in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_against_its_copy_as_a_zip(world: Path, tmp_path: Path) -> None:
    """Identical images: no distance, and precision and recall are 1."""
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", world / "data")
    arguments = [
        f"--images={archive}",
        f"--data={world / 'data'}",
        "--metrics=fid24_full,pr243_full",
        "--verbose=0",
    ]
    first, second = lines(invoke(world, *arguments, network=None))
    assert first["results"]["fid24_full"] < 1e-6
    assert list(second["results"].values()) == [1, 1]


def test_the_bundled_images_against_themselves(tmp_path: Path) -> None:
    """The same with a real detector."""
    pytest.importorskip("efficientnet_lite_pytorch")
    with zipfile.ZipFile(ROOT / "data" / "emoji32.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))[:64]
        for name in names:
            archive.extract(name, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    common = [
        f"--images={tmp_path / 'a'}",
        f"--data={tmp_path / 'b'}",
        "--device=cpu",
        "--detector=efficientnet-lite0",
        "--verbose=0",
    ]
    first, second = lines(CliRunner().invoke(calc_metrics.main, [*common, "--metrics=fid64_full,pr643_full"]))
    assert abs(first["results"]["fid64_full"]) < 1e-3
    assert second["results"] == {"pr643_full_precision": 1, "pr643_full_recall": 1}


def test_images_that_do_not_fit(world: Path, tmp_path: Path) -> None:
    def refused_images(images: Path, message: str, metric: str = "fid20_full", *, data: bool = True) -> None:
        arguments = [
            f"--images={images}",
            f"--metrics={metric}",
            *([f"--data={world / 'data'}"] if data else []),
        ]
        refused(invoke(world, *arguments, network=None), message)

    good = write_images(tmp_path / "good", 12)
    refused_images(
        write_images(tmp_path / "grey", 12, mode="L"),
        "16x16 with 1 channel, but those of the data set 'data' are 16x16 with 3",
    )
    refused_images(
        write_images(tmp_path / "large", 12, resolution=32),
        "32x32 with 3 channels, but those of the data set 'data' are 16x16",
    )
    refused_images(tmp_path / "none", "none' does not exist")
    refused_images(good, "latent space; image files have none", metric="ppl2_wend")
    refused_images(good, "say where they are with --data", data=False)
    refused(invoke(world, f"--images={good}", "--metrics=fid20_full"), "give either --network or --images")
    refused(invoke(world, "--metrics=fid20_full", network=None), "give either --network or --images")


def test_cache(world: Path, cache: Path) -> None:
    arguments = ["--metrics=fid20_full", f"--data={world / 'data'}", "--verbose=0"]
    (without,) = lines(invoke(world, *arguments, "--no-cache"))
    assert not cache.exists()
    (filling,), (filled,) = lines(invoke(world, *arguments)), lines(invoke(world, *arguments))
    assert len(list((cache / "statistics").iterdir())) == 1
    assert without["results"] == filling["results"] == filled["results"]
    shutil.rmtree(cache)
    cache.write_text("")
    refused(invoke(world, *arguments), f"cache folder {cache / 'statistics'} can't be written")
    assert lines(invoke(world, *arguments, "--no-cache"))


def test_offline(world: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "GGDR_OFFLINE", ""
    )  # set rather than deleted, so that monkeypatch takes --offline back at the end
    data = f"--data={world / 'data'}"
    refused(
        invoke(world, "--metrics=fid20_full", data, "--offline", "--detector=inception"),
        f"put the file at {cache / 'downloads'}",
    )
    monkeypatch.setenv("GGDR_OFFLINE", "")
    address = "--network=https://example.org/net.pkl"
    refused(
        invoke(world, "--metrics=fid20_full", data, "--offline", address),
        "cannot download https://example.org/net.pkl",
    )


def test_a_network_by_address(world: Path, cache: Path) -> None:
    """What has been downloaded before is taken from the cache."""
    url = "https://example.org/net.pkl"
    target = cached_path(url)
    target.parent.mkdir(parents=True)
    target.write_bytes((world / "alone.pkl").read_bytes())
    (line,) = lines(invoke(world, "--metrics=fid20_full", f"--data={world / 'data'}", f"--network={url}"))
    assert line["snapshot_pkl"] == url


def test_seed_and_batch(world: Path) -> None:
    def value(*arguments: str) -> float:
        (line,) = lines(invoke(world, "--metrics=fid20_full", f"--data={world / 'data'}", *arguments))
        return float(line["results"]["fid20_full"])

    first = value("--batch=3")
    assert value("--batch=64", "--verbose=0") == first
    assert value("--seed=1") != first


def test_conditional_network(world: Path) -> None:
    (line,) = lines(
        invoke(world, "--metrics=fid20_full", f"--data={world / 'data'}", network="conditional.pkl")
    )
    assert np.isfinite(line["results"]["fid20_full"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--metrics=kid50k_fill"],
            "unknown metric 'kid50k_fill'; known are fid50k_full, kid50k_full, pr50k3_full",
        ),
        (["--metrics=none"], "names no metric"),
        (["--metrics=fid20_full", "--gpus=0"], "'--gpus'"),
        (["--metrics=fid20_full", "--batch=0"], "'--batch'"),
        (["--metrics=fid20_full", "--seed=-1"], "'--seed'"),
        (["--metrics=fid20_full", "--mirror=maybe"], "'--mirror'"),
        (["--metrics=fid20_full", "--snapshots=1"], "No such option"),
        (["--metrics=fid20_full"], "give --data"),
        (["--metrics=fid20_full", "--data=/no/such/folder"], "/no/such/folder"),
        (["--metrics=fid20_full", "--data=DATA", "--detector=nope"], "no detector 'nope'"),
        (["--metrics=fid20_full", "--data=DATA", "--detector=DATA"], "no detector"),
        (["--metrics=fid20_full", "--data=DATA", "--network=missing.pkl"], "missing.pkl"),
        (["--metrics=fid20_full", "--data=DATA", "--network=DETECTOR"], "not a network pickle"),
    ],
)
def test_refusals(world: Path, arguments: list[str], message: str) -> None:
    replaced = [
        a.replace("DATA", str(world / "data")).replace("DETECTOR", str(world / "detector.pt"))
        for a in arguments
    ]
    refused(invoke(world, *replaced), message)


def test_a_data_set_that_does_not_fit(world: Path, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", 3)
    refused(invoke(world, "--metrics=pr203_full", f"--data={few}"), "at least 4 real images")
    large = write_images(tmp_path / "large", 4, resolution=32)
    refused(invoke(world, "--metrics=fid20_full", f"--data={large}"), "32x32, not 16x16")
    grey = write_images(tmp_path / "grey", 4, mode="L")
    refused(invoke(world, "--metrics=fid20_full", f"--data={grey}"), "have 1 channel, the network's 3")
    refused(invoke(world, "--metrics=fid20_full", f"--data={few}", network="conditional.pkl"), "no labels")


def test_training_data_that_has_moved(world: Path, tmp_path: Path) -> None:
    write_network(tmp_path / "net.pkl", path="/gone/images.zip")
    refused(invoke(tmp_path, "--metrics=fid20_full", network="net.pkl"), "say where it is with --data")


def test_nothing_is_recorded_when_one_metric_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "training_options.json").write_text("{}")
    write_network(tmp_path / "net.pkl", path=str(write_images(tmp_path / "few", 3)))
    refused(
        invoke(
            tmp_path,
            "--metrics=fid20_full,pr203_full",
            f"--detector={world / 'detector.pt'}",
            network="net.pkl",
        ),
        "at least 4 real",
    )
    assert not list(tmp_path.glob("metric-*"))


@pytest.mark.parametrize(
    ("broken", "metrics", "message"),
    [
        ("NotANumber", "fid20_full", "NotANumber.pt' gave features [N, F] that are not finite"),
        (
            "WrongShape",
            "fid20_full",
            "WrongShape.pt' must give features [N, F] of N images, but gave [8, 3, 16, 16] of 8",
        ),
        ("network", "fid20_full", "renders values that are not finite"),
        (None, "fid20_full,ppl2_4_wend", "has no perceptual distance; use 'vgg16' or 'efficientnet-lite0'"),
        (None, "fid20_full,pr33_full", "the metric 'pr33_full' needs a count of at least 4"),
        (None, "fid20_full,ppl2_1_wend", "the metric 'ppl2_1_wend' needs a count of at least 2"),
        (None, "fid20_full,is20", "has no class probabilities"),
    ],
)
def test_nothing_is_left_of_what_fails(
    world: Path, tmp_path: Path, cache: Path, broken: str, metrics: str, message: str
) -> None:
    """Neither results nor statistics from a faulty detector are kept or printed."""
    (tmp_path / "training_options.json").write_text("{}")
    write_network(tmp_path / "net.pkl", diverged=broken == "network", path=str(world / "data"))
    detector = world / "detector.pt"
    if broken in ("NotANumber", "WrongShape"):
        detector = tmp_path / f"{broken}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(globals()[broken]()).save(str(detector))
    refused(
        invoke(tmp_path, f"--metrics={metrics}", "--verbose=0", network="net.pkl", detector=str(detector)),
        message,
    )
    assert not list(tmp_path.glob("metric-*"))
    assert detector == world / "detector.pt" or not list(cache.glob("statistics/*"))


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "calc_metrics.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_as_a_program(world: Path) -> None:
    common = [
        f"--network={world / 'alone.pkl'}",
        f"--data={world / 'data'}",
        f"--detector={world / 'detector.pt'}",
        "--device=cpu",
    ]
    good = shell("--metrics=fid20_full", *common)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["metric"] == "fid20_full"
    bad = shell("--metrics=fid20_fill", *common)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("Error: unknown metric 'fid20_fill'")
    assert bad.stderr.count("\n") == 1


def test_help_does_not_wait_for_torch() -> None:
    source = (
        "import sys, calc_metrics; calc_metrics.main(['--help'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    for option in [
        "network",
        "images",
        "metrics",
        "data",
        "mirror",
        "gpus",
        "verbose",
        "detector",
        "offline",
        "no-cache",
    ]:
        assert f"--{option} " in result.stdout


def test_results_that_cannot_be_recorded_are_printed(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run", ignore=shutil.ignore_patterns("metric-*"))
    (tmp_path / "run" / "metric-fid20_full.jsonl").mkdir()  # cannot be read or written, whoever runs this
    result = invoke(world, "--metrics=fid20_full,pr203_full", network=str(tmp_path / "run" / "net.pkl"))
    assert result.exit_code == 1
    assert [json.loads(line)["metric"] for line in result.stdout.splitlines()] == ["fid20_full", "pr203_full"]
    assert "Error: 1 result could only be printed, not recorded in the run: cannot read" in result.stderr
    assert (tmp_path / "run" / "metric-pr203_full.jsonl").exists()
