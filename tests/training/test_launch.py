"""training.launch: what is checked before a run directory exists, and how it is numbered."""

import contextlib
import dataclasses
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from dnnlib import torchrun
from dnnlib.errors import UserError
from torch_utils import distributed, elastic
from training import launch
from training.config.options import overrides
from training.config.resolve import resolve
from training.config.schema import TrainConfig
from training.data.opening import inspect_data, open_dataset


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        PIL.Image.new("L", (16, 16), color=i).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def config(images: Path) -> TrainConfig:
    described, _ = inspect_data(str(images), cond=False, subset=None, mirror=False, seed=0)
    return resolve(overrides(), described)


@pytest.fixture
def fake_loop(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Puts a function in the place of training.training_loop.run."""

    def install(run: Callable[..., None]) -> None:
        module = types.ModuleType("training.training_loop")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "training.training_loop", module)

    return install


def test_data_is_described(images: Path) -> None:
    described, has_labels = inspect_data(str(images), cond=False, subset=3, mirror=True, seed=5)
    assert (described.resolution, described.num_channels, described.label_dim) == (16, 1, 0)
    assert (described.max_size, described.num_images, described.xflip, described.random_seed) == (
        3,
        6,
        True,
        5,
    )
    assert not has_labels
    assert len(open_dataset(described)) == 6


def test_a_subset_of_everything_is_the_same_images(images: Path) -> None:
    """The run's name says so all the same, as the reference's does."""
    described, everything = (
        inspect_data(str(images), cond=False, subset=n, mirror=False, seed=0)[0] for n in (4, None)
    )
    assert (described.max_size, described.num_images) == (4, 4)
    assert open_dataset(described).identity() == open_dataset(everything).identity()
    assert "-subset4-" in resolve(overrides(), described).description


def test_notes_on_the_data(images: Path) -> None:
    def notes(cond: bool = False) -> list[str]:
        return inspect_data(str(images), cond=cond, subset=None, mirror=False, seed=0)[1]

    (images / "more.heic").write_bytes(b"")
    labels = [[f"{i}.png", 3 * (i % 2)] for i in range(4)]
    (images / "dataset.json").write_text(json.dumps({"labels": [*labels, ["gone.png", 0]]}))
    left_out, unused = notes()
    assert "1 .heic" in left_out
    assert "has labels, which are not used" in unused
    left_out, gone, empty = notes(cond=True)
    assert "1 label for images that are not there, 'gone.png' first" in gone
    assert "2 of the 4 classes from 0 up have no image (1 first)" in empty
    (images / "dataset.json").write_text(json.dumps({"labels": labels[:2]}))
    assert "has labels that cannot be used: 'dataset.json' in" in notes()[1]


def test_a_run_that_lies_in_its_own_data_does_not_go_on(
    images: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "check_has_state", lambda run_dir: None)
    (images / "runs").mkdir()
    with pytest.raises(UserError, match=r"--continue '.*runs' lies in"):
        launch.go_on(config, images / "runs")


@pytest.mark.parametrize("subset", [0, 5, -1])
def test_impossible_subsets_are_refused(images: Path, subset: int) -> None:
    with pytest.raises(UserError, match=f"--subset={subset} must lie between 1 and 4"):
        inspect_data(str(images), cond=False, subset=subset, mirror=False, seed=0)


def test_data_that_changed_is_refused(images: Path, config: TrainConfig) -> None:
    (images / "3.png").unlink()
    with pytest.raises(UserError, match="num_images is 3, but the configuration says 4"):
        open_dataset(config.data)


def test_start_hands_everything_to_the_loop(tmp_path: Path, config: TrainConfig, fake_loop: Any) -> None:
    calls: list[Any] = []
    fake_loop(lambda *arguments, **options: calls.append(arguments))
    run_dir = launch.start(config, str(tmp_path / "runs" / "deep"))
    assert run_dir == tmp_path / "runs" / "deep" / "00000-images-auto1"
    assert run_dir.is_dir()
    [(given, given_dir, dataset)] = calls
    assert (given, given_dir, len(dataset)) == (config, run_dir, 4)


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    for name in ("00001-a", "00007-b", "notes", "99-c.txt", "123x"):
        (tmp_path / name).mkdir()
    assert launch.make_run_dir(str(tmp_path), "d").name == "00100-d"
    assert launch.make_run_dir(str(tmp_path), "d").name == "00101-d"


def test_a_number_taken_in_between_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "00000-d").mkdir()
    monkeypatch.setattr("os.listdir", lambda path: [])
    assert launch.make_run_dir(str(tmp_path), "d").name == "00001-d"


@pytest.mark.parametrize("outdir", ["file", "file/below", "/proc/nothing"])
def test_an_outdir_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outdir: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(UserError, match=f"--outdir={outdir}.*give a folder that can be written"):
        launch.make_run_dir(outdir, "d")


def refused(config: TrainConfig, outdir: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch.start(config, str(outdir))
    assert not outdir.exists()


def processes(images: Path, gpus: int) -> TrainConfig:
    described, _ = inspect_data(str(images), cond=False, subset=None, mirror=False, seed=0)
    return resolve(overrides(gpus=gpus), described)


def test_more_processes_than_a_machine_can_take_are_refused(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    launch.check_machine(8, "auto")
    refused(
        processes(images, 16),
        tmp_path / "runs",
        r"--gpus=16, but this machine takes 8 at most, 4 a core; use fewer",
    )


def test_more_processes_than_gpus_are_refused(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    launch.check_machine(2, "auto")
    refused(processes(images, 4), tmp_path / "runs", r"--gpus=4, but this machine takes 2 at most, one a GPU")
    started_by_torchrun(monkeypatch, world=8, here=2)
    launch.check_machine(8, "auto")
    started_by_torchrun(monkeypatch, world=8, here=4)
    refused(
        processes(images, 8),
        tmp_path / "runs",
        r"4 processes on this machine, but this machine takes 2 at most, one a GPU",
    )


def started_by_torchrun(monkeypatch: pytest.MonkeyPatch, world: int, here: int) -> None:
    for name, value in dict(RANK=0, WORLD_SIZE=world, LOCAL_WORLD_SIZE=here).items():
        monkeypatch.setenv(name, str(value))


def test_gpus_and_torchrun_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launch.process_count(None), launch.process_count(4)) == (None, 4)
    started_by_torchrun(monkeypatch, world=4, here=2)
    assert (launch.process_count(None), launch.process_count(4)) == (4, 4)
    with pytest.raises(UserError, match="--gpus=2, but 4 processes were started"):
        launch.process_count(2)


def test_who_starts_processes(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launch.needs_launcher(processes(images, 1), max_restarts=0)
    assert launch.needs_launcher(processes(images, 1), max_restarts=1), "somebody has to restart it"
    assert launch.needs_launcher(processes(images, 2), max_restarts=0)
    started_by_torchrun(monkeypatch, world=2, here=2)
    assert not launch.needs_launcher(processes(images, 2), max_restarts=1)


def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    wanted = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, device="cuda"))
    refused(wanted, tmp_path / "runs", "--device=cuda, but PyTorch finds no usable GPU")


def test_a_pickle_that_is_not_there_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    refused(
        dataclasses.replace(config, resume=str(tmp_path / "no.pkl")),
        tmp_path / "runs",
        "no.pkl does not exist",
    )
    refused(dataclasses.replace(config, resume=str(tmp_path)), tmp_path / "runs", "is a folder")


def test_a_broken_pickle_leaves_no_directory(tmp_path: Path, images: Path) -> None:
    """With the real training loop, which loads the pickle before it writes anything."""
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(b"\x80\x04\x95abc")
    described, _ = inspect_data(str(images), cond=False, subset=None, mirror=False, seed=0)
    options = overrides(resume=str(broken), metrics=(), cbase=128, cmax=8, device="cpu")
    with pytest.raises(UserError, match=r"broken\.pkl"):
        launch.start(resolve(options, described), str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("metrics", "fault", "message"),
    [
        ("pr2003_full", "detector", "no detector"),
        ("pr2003_full", "cache", "cache folder .* can't be written"),
        ("dc2005_full", "few", "needs at least 6 real images, but the data set 'images' has 4"),
        ("fid200_full", "offline", "cannot download .*inception.*put the file at"),
    ],
)
def test_metrics_that_cannot_be_had_end_the_run_before_its_first_step(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, metrics: str, fault: str, message: str
) -> None:
    """With the real training loop."""
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GGDR_OFFLINE", "1")
    if fault == "cache":
        (tmp_path / "cache").write_text("")
    described, _ = inspect_data(str(images), cond=False, subset=None, mirror=False, seed=0)
    detector = str(tmp_path / "none.pt") if fault == "detector" else "auto"
    options = overrides(metrics=(metrics,), detector=detector, cbase=128, cmax=8, device="cpu")
    with pytest.raises(UserError, match=message):
        launch.start(resolve(options, described), str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("error", [UserError("no detector"), KeyboardInterrupt()])
def test_an_end_before_anything_was_written_leaves_no_directory(
    tmp_path: Path, config: TrainConfig, fake_loop: Any, error: BaseException
) -> None:
    def run(_config: TrainConfig, _run_dir: Path, _dataset: object, **_options: object) -> None:
        raise error

    fake_loop(run)
    with pytest.raises(type(error)):
        launch.start(config, str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_error_later_keeps_what_was_written(tmp_path: Path, config: TrainConfig, fake_loop: Any) -> None:
    def run(_config: TrainConfig, run_dir: Path, _dataset: object, **_options: object) -> None:
        (run_dir / "log.txt").write_text("hours of work")
        raise UserError("image 17 is broken")

    fake_loop(run)
    with pytest.raises(UserError, match="image 17"):
        launch.start(config, str(tmp_path / "runs"))
    assert [path.name for path in tmp_path.glob("runs/*/*")] == ["log.txt"]


def test_how_workers_join(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def worker(**options: Any) -> contextlib.AbstractContextManager[None]:
        seen.append((options["cuda"], options["timeout"], options["prepare_timeout"]))
        return contextlib.nullcontext()

    monkeypatch.setattr(torchrun, "is_worker", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(elastic, "worker", worker)
    for device, *seconds in ((None, None, None), ("auto", 5, 6), ("cpu", 5, None)):
        with launch.among_workers(device, *seconds):
            pass
    assert seen == [
        (True, distributed.TIMEOUT, distributed.PREPARE_TIMEOUT),
        (True, 5, 6),
        (False, 5, distributed.PREPARE_TIMEOUT),
    ]


def test_a_restart_goes_on_in_its_own_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write to the launcher's store must not lead a run into another directory."""
    monkeypatch.setattr(torchrun, "is_worker", lambda: True)
    mine, other = tmp_path / "runs" / "00000-a", tmp_path / "other" / "00000-a"
    for run_dir in (mine, other):
        run_dir.mkdir(parents=True)
        (run_dir / "training-state-0000000004.pt").touch()
    (tmp_path / "runs" / "00001-a").symlink_to(other)
    monkeypatch.setattr(elastic, "recall", lambda key: str(mine))
    assert launch.interrupted_run(str(tmp_path / "runs")) == mine
    for named in (other, tmp_path / "runs" / "00001-a", tmp_path / "runs" / ".." / "other" / "00000-a"):
        monkeypatch.setattr(elastic, "recall", lambda key, named=named: str(named))
        with pytest.raises(UserError, match=r"told to go on in .*, which is not in --outdir="):
            launch.interrupted_run(str(tmp_path / "runs"))
    with pytest.raises(UserError, match="not in --outdir=None"):
        launch.interrupted_run(None)
