"""Whole runs in miniature: what they leave behind, that they can be repeated, and that they learn."""

import dataclasses
import json
import os
import re
import signal
import types
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib.errors import Unavailable, UserError
from dnnlib.interrupt import InterruptFlag
from metrics import in_training
from tests.support.runs import make_images, open_small, small_state
from torch_utils import distributed
from torch_utils.persistence import load_network_pkl
from training import training_loop
from training.data.batches import image_batches
from training.data.dataset import ImageFolderDataset
from training.data.pictures import from_uint8
from training.phases import Reals, build_phases
from training.run import session, ticks
from training.run.reporting import SampleGrid
from training.run.session import Session
from training.run.state import RunState, training_set_kwargs
from training.run.state_file import read_state

CONTRACT_STATS = [
    "Progress/kimg",
    "Progress/augment",
    "Timing/sec_per_kimg",
    "Loss/scores/real",
    "Loss/scores/fake",
    "Loss/signs/real",
    "Loss/G/loss",
    "Loss/D/loss",
    "Loss/D/loss_gen_reg",
    "Loss/r1_penalty",
    "Loss/pl_penalty",
]


def train(folder: Any, run_dir: Any, metrics_required: Any = True, **options: Any) -> Any:
    config, dataset = open_small(folder, **options)
    run_dir.mkdir()
    training_loop.run(config, run_dir, dataset, metrics_required=metrics_required)
    return run_dir


def weights(run_dir: Any, name: Any = "network-snapshot-000000.pkl") -> Any:
    data = load_network_pkl(run_dir / name)
    return {
        f"{part}.{key}": value
        for part in ("G", "D", "G_ema")
        for key, value in data[part].state_dict().items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("run")
    return train(make_images(root / "images"), root / "run", reg_type="ggdr")


def test_run_directory(finished: Any) -> None:
    assert {
        path.name.split(".")[0] if "tfevents" in path.name else path.name for path in finished.iterdir()
    } == {
        "training_options.json",
        "log.txt",
        "stats.jsonl",
        "reals.png",
        "fakes_init.png",
        "fakes000000.png",
        "network-snapshot-000000.pkl",
        "training-state-0000000012.pt",
        "training-state-0000000020.pt",
        "events",
    }
    ggdr = {"resolution": 8, "weight": 10, "start_kimg": 0, "kernel_size": 1, "activation": "linear"}
    assert json.loads((finished / "training_options.json").read_text())["ggdr"] == ggdr
    log = (finished / "log.txt").read_text()
    assert "Data: all 16 images are decoded in memory\nBatch: " in log
    assert "tick 0" in log
    assert "Finished" in log


def test_statistics_have_the_contracts_names(finished: Any) -> None:
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.004, 0.012, 0.02]
    for name in CONTRACT_STATS:
        assert set(lines[0][name]) == {"num", "mean", "std"}, name
    assert lines[1]["Loss/G/loss"]["num"] == 8
    assert lines[1]["Loss/scores/real"]["num"] == 8


def test_grids_show_16_by_8_images(finished: Any) -> None:
    for name in ("reals.png", "fakes_init.png", "fakes000000.png"):
        with PIL.Image.open(finished / name) as picture:
            assert (picture.size, picture.mode) == ((512, 256), "RGB")


def test_snapshot_opens_and_records_the_data_set(finished: Any) -> None:
    data = load_network_pkl(finished / "network-snapshot-000000.pkl")
    assert data["info"]["images_seen"] == 20
    assert data["training_set_kwargs"]["resolution"] == 32
    assert data["D"].decoder_res == 8
    assert float(data["augment_pipe"].p) in (0, pytest.approx(4 * 4 / 500_000))
    torch.testing.assert_close(
        data["G"].synthesis.b4.const, data["G_ema"].synthesis.b4.const, atol=0.05, rtol=0
    )
    config, _ = open_small(finished.parent / "images", reg_type="ggdr")
    assert not torch.equal(
        RunState.fresh(config, torch.device("cpu")).G_ema.synthesis.b4.const, data["G_ema"].synthesis.b4.const
    )


@pytest.mark.parametrize(
    "options",
    [
        {"reg_type": "none", "aug": "noaug"},
        {"reg_type": "ggdr", "cond": True, "mirror": True, "channels": 1},
        {"cfg": "cifar", "mbstd_group": 4, "map_depth": 2},
        {"freezed": 2, "workers": 2},
        {"reg_type": "ggdr", "precision": "bf16"},
    ],
    ids=["baseline", "conditional greyscale", "cifar", "freezed", "bfloat16"],
)
def test_variants_run_and_repeat_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    monkeypatch.setattr(
        session, "check_bfloat16", lambda device: None
    )  # a processor without it gives the same numbers
    options = {"kimg": 0.012, "snap": 50, **options}
    channels = options.pop("channels", 3)
    folder = make_images(tmp_path / "images", channels=channels, classes=3 if options.get("cond") else 0)
    first, second = (weights(train(folder, tmp_path / name, **options)) for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_losses_in_bfloat16_follow_those_in_float32() -> None:
    """Of the first step of each phase, with the same draws."""
    real, losses = torch.rand([4, 3, 32, 32], generator=torch.Generator().manual_seed(0)), []
    for precision in ("fp32", "bf16"):
        state = small_state(reg_type="ggdr", aug="fixed", p=0.3, gamma=10, precision=precision)
        if precision == "fp32":  # the one difference besides is the clamp, which is not reached
            assert state.config.generator.num_fp16_res == 0
        run_steps(state, real, 1)
        losses.append({name: summary.mean for name, summary in state.stats.flush().items()})
    assert losses[0].keys() == losses[1].keys()
    assert losses[0] != losses[1]
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=0.05, abs=0.02), name


def test_frozen_layers_stay(tmp_path: Path) -> None:
    state = small_state(freezed=3)
    before = {key: value.clone() for key, value in state.D.state_dict().items()}
    run_steps(state, torch.rand([4, 3, 32, 32]), 3)
    same = {
        key
        for key, value in state.D.state_dict().items()
        if torch.equal(value, before[key]) and "filter" not in key
    }
    assert same == {
        "b32.fromrgb.weight",
        "b32.fromrgb.bias",
        "b32.conv0.weight",
        "b32.conv0.bias",
        "b32.conv1.weight",
        "b32.conv1.bias",
    }


def run_steps(state: Any, real: Any, steps: Any) -> None:
    reals = Reals(real, torch.zeros([len(real), state.config.data.label_dim]), None, None)
    for _ in range(steps):
        training_loop.step(state, build_phases(state), reals)


def test_overfits_a_handful_of_images() -> None:
    """D learns to tell 4 images from a generator that stands still, and its decoder G's features."""
    state = small_state(reg_type="ggdr", aug="noaug", cbase=512, cmax=16, dlr=0.01)
    real = from_uint8(
        torch.from_numpy(np.random.default_rng(0).integers(0, 256, [4, 3, 32, 32], dtype=np.uint8))
    )
    phase = next(p for p in build_phases(state) if p.name == "D_main")
    history = []
    for _ in range(150):
        training_loop.run_phase(state, phase, Reals(real, torch.zeros([4, 0]), None, None))
        history.append(state.stats.flush())
        state.steps += 1
    first, last = history[0], history[-1]
    assert last["Loss/D/loss"].mean < 0.3 * first["Loss/D/loss"].mean
    assert last["Loss/D/loss_gen_reg"].mean < 0.7 * first["Loss/D/loss_gen_reg"].mean


@pytest.mark.slow
def test_generator_learns_four_images() -> None:
    """The whole loop on four images: the average's pictures come close to them, each within reach of one."""
    state = small_state(
        reg_type="ggdr", aug="noaug", cbase=512, cmax=32, batch=8, gamma=0.1, resolution=16, ggdr_res=8
    )
    rng = np.random.default_rng(0)
    blocks = rng.choice([-0.8, 0.8], size=[4, 3, 2, 2])
    real = torch.from_numpy(np.kron(blocks, np.ones([8, 8]))).float()
    grid = torch.randn([16, 8])

    def distance() -> Any:
        with torch.no_grad():
            fakes = state.G_ema(grid, None, noise_mode="const")
        return (fakes[:, None] - real[None]).square().mean(dim=[2, 3, 4]).min(dim=1).values.mean().item()

    before = distance()
    run_steps(state, real.repeat(2, 1, 1, 1), 1000)
    assert distance() < 0.25 * before


def test_transfer_from_a_baseline_to_ggdr(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    source = train(folder, tmp_path / "source", reg_type="none") / "network-snapshot-000000.pkl"
    data = load_network_pkl(source)
    config, _ = open_small(folder, reg_type="ggdr", resume=str(source))
    assert config.augment.kimg == 100
    state = RunState.fresh(config, torch.device("cpu"))
    for name, module in (("G", state.G), ("D", state.D), ("G_ema", state.G_ema)):
        for key, value in data[name].state_dict().items():
            assert torch.equal(module.state_dict()[key], value), f"{name}.{key}"
    fresh = RunState.fresh(dataclasses.replace(config, resume=None), torch.device("cpu"))
    assert torch.equal(state.D.b8_dec.weight, fresh.D.b8_dec.weight), "the decoder keeps its initial weights"


def test_ctrl_c_finishes_the_step_and_keeps_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_images(tmp_path / "images")
    steps = []
    original = training_loop.run_phase

    def interrupting(state: Any, phase: Any, *args: Any) -> None:
        original(state, phase, *args)
        steps.append((state.steps, phase.name))
        if steps[-1] == (2, "G_main"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training_loop, "run_phase", interrupting)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped at 0\.012 kimg by SIGINT"):
        train(folder, tmp_path / "run", kimg=10, tick=10, snap=50)
    assert steps[-1] == (2, "D_main")
    assert read_state(tmp_path / "run" / "training-state-0000000012.pt")["counters"]["images_seen"] == 12
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Stopped at 0.012 kimg by SIGINT; the checkpoint is training-state-0000000012.pt" in log
    assert f"go on with --continue={tmp_path / 'run'}" in log
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_failing_metric_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise UserError("the detector went away")

    monkeypatch.setattr(session, "preflight", lambda *args, **kwargs: None)
    monkeypatch.setattr(in_training, "evaluate", fail)
    run_dir = train(make_images(tmp_path / "images"), tmp_path / "run", metrics=("fid8_full",))
    assert "failed, training goes on: the detector went away" in (run_dir / "log.txt").read_text()
    assert "Finished" in (run_dir / "log.txt").read_text()


@pytest.mark.parametrize("required", [True, False])
def test_a_detector_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: Any
) -> None:
    """It ends the program where its metric was given, and not a run that goes on or has it by default."""
    monkeypatch.setenv("GGDR_OFFLINE", "1")
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    data = make_images(tmp_path / "images")
    if required:
        with pytest.raises(
            Unavailable, match=r"cannot download .*inception-2015-12-05\.pt .*put the file at"
        ):
            train(data, tmp_path / "run", metrics=("fid8_full",), metrics_required=True)
        assert not list((tmp_path / "run").iterdir())
        return
    run_dir = train(
        data, tmp_path / "run", metrics=("fid8_full", "fid4_full"), metrics_required=False, snap=1
    )
    log = (run_dir / "log.txt").read_text()
    assert re.search(
        r"Warning: nothing can be measured: cannot download .*\. Training goes on without; each snapshot",
        log,
    )
    assert len(list(run_dir.glob("fakes0*.png"))) >= 1
    assert log.count("cannot download") == 1, "once, and not again at each snapshot"
    assert "Finished" in log
    assert not list(run_dir.glob("metric-*"))


def test_metrics_compare_with_all_images_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither mirrored nor a subset, whatever is trained on."""
    seen = []
    monkeypatch.setattr(
        session, "preflight", lambda names, detector, reals, **kwargs: seen.append(len(reals))
    )
    monkeypatch.setattr(
        in_training, "evaluate", lambda names, *, dataset, **kwargs: seen.append(len(dataset)) or []
    )
    train(make_images(tmp_path / "images"), tmp_path / "run", metrics=("fid8_full",), mirror=True, kimg=0.004)
    assert set(seen) == {16}


@pytest.mark.parametrize("on", [False, True])
def test_switches_of_a_gpu_are_set(on: Any) -> None:
    """They are plain flags, which exist without a GPU too."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    try:
        session.set_up_gpu(small_state(nobench=not on, allow_tf32=on).config)
        assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == (on, on, on)
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def test_the_order_of_the_images_comes_from_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    draw = SampleGrid.draw
    monkeypatch.setattr(
        session,
        "image_batches",
        lambda *args, seed, **options: seeds.append(seed) or image_batches(*args, seed=seed, **options),
    )
    monkeypatch.setattr(SampleGrid, "draw", lambda *args: seeds.append(args[-1]) or draw(*args))
    config, dataset = open_small(make_images(tmp_path / "images"), kimg=0.004, seed=7)
    (tmp_path / "run").mkdir()
    training_loop.run(config, tmp_path / "run", dataset)
    assert seeds == [7, 7]


def test_what_a_snapshot_shows_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(session, "preflight", lambda *args, **options: None)
    monkeypatch.setattr(ticks, "measure_snapshot", lambda names, **options: given.update(options) or {})
    config, dataset = open_small(make_images(tmp_path / "images"), mirror=True, metrics=("fid8",), kimg=0.004)
    (tmp_path / "run").mkdir()
    drawn = []
    save = SampleGrid.save_fakes
    monkeypatch.setattr(
        SampleGrid,
        "save_fakes",
        lambda self, path, G, *args: drawn.append((path.name, G)) or save(self, path, G, *args),
    )
    training_loop.run(config, tmp_path / "run", dataset)
    assert given["mirror"]
    assert [name for name, _ in drawn] == ["fakes_init.png", "fakes000000.png"]
    assert all(G is given["generator"] for _, G in drawn)


def test_values_of_a_ticks_statistics(tmp_path: Path) -> None:
    config, dataset = open_small(make_images(tmp_path / "images"), aug="fixed", p=0.25)
    (tmp_path / "run").mkdir()
    training_loop.run(config, tmp_path / "run", dataset)
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    for line, images in zip(lines, (4, 8, 8), strict=True):
        assert line["Progress/augment"]["mean"] == 0.25
        seconds = line["Timing/sec_per_tick"]["mean"]
        assert line["Timing/sec_per_kimg"]["mean"] == pytest.approx(seconds / images * 1000)


def test_a_snapshot_says_how_its_data_are_opened(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", count=8, classes=3)
    config, dataset = open_small(folder, cond=True, subset=5, mirror=True)
    again = ImageFolderDataset(
        **training_set_kwargs(
            dataclasses.replace(config, data=dataclasses.replace(config.data, random_seed=3))
        )
    )
    assert again.fingerprint() != dataset.fingerprint(), "another seed, another subset"
    again = ImageFolderDataset(**training_set_kwargs(config))
    assert (again.identity(), len(again), again.label_dim) == (dataset.identity(), 10, 3)


@pytest.mark.parametrize("options", [{"subset": 6}, {"mirror": True}, {"subset": 6, "mirror": True}, {}])
def test_metrics_see_neither_subset_nor_mirror_images(tmp_path: Path, options: Any) -> None:
    config, dataset = open_small(make_images(tmp_path / "images"), metrics=("fid5_full",), **options)
    reals = session.measured_images(config, dataset)
    assert (len(reals), reals is dataset) == (16, not options)


def test_only_rank_0_goes_on_with_the_statistics_of_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    state = small_state()
    state.stats.report("Loss/x", 2.0)
    saved, counts = state.state_dict(), []
    for main in (True, False):
        monkeypatch.setattr(distributed, "is_rank0", lambda main=main: main)
        other = small_state()
        other.load_state_dict(saved)
        counts.append(other.stats.flush()["Loss/x"].num)
    assert counts == [1, 0]


def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Any, measure: Any) -> Any:
    """The state of a run whose snapshot at 8 kimg waits for ``measure``, and its ticks."""
    state = small_state(metrics=("fid5_full",))
    state.pending, state.images_seen = "network-snapshot-000008.pkl", 8000
    monkeypatch.setattr(ticks, "measure_snapshot", lambda names, **_: measure())
    run = Session(state, tmp_path, None, None, InterruptFlag(), log, set())
    return state, ticks.Ticks(run, None, None, None)


def test_metrics_go_to_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    log = types.SimpleNamespace(write_scalars=lambda *args: written.append(args))
    measuring(tmp_path, monkeypatch, log, lambda: {"fid5_full": 3.0})[1].measure()
    assert written == [({"Metrics/fid5_full": 3.0}, 8000)]


def test_several_ranks_finish_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that left in the middle would keep the others waiting."""
    monkeypatch.setattr(ticks, "on_rank0", lambda work, what: work())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "maxima", lambda values, what: list(values))
    state, ours = measuring(
        tmp_path, monkeypatch, None, lambda: signal.raise_signal(signal.SIGTERM) or {"fid5_full": 1.0}
    )
    with ours.session.interrupt as interrupt:
        ours.measure()
    assert interrupt.raised
    assert state.pending is None
