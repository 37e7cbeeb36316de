"""training.presets: options over recipes, names of runs, notes. The recipes' numbers: tests/parity/test_options_golden.py."""

import dataclasses
from typing import Any

import pytest

from dnnlib.errors import UserError
from training.config import DataConfig, TrainConfig
from training.presets import RECIPES, TrainOptions, data_name, explain, resolve


def data(**changes: Any) -> DataConfig:
    values: dict[str, Any] = {"path": "/d/faces.zip", "resolution": 128, "num_channels": 3, "label_dim": 0, "num_images": 100}
    values |= {"use_labels": False, "max_size": None, "xflip": False, "random_seed": 0}
    return DataConfig(**(values | changes))


def config(images: DataConfig | None = None, **said: Any) -> TrainConfig:
    return resolve(TrainOptions(**said), images or data())


def notes(images: DataConfig | None = None, **said: Any) -> str:
    return "\n".join(explain(TrainOptions(**said), config(images, **said)))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("gpus", [1, 2, 8, 16])
def test_every_recipe_runs_on_any_number_of_gpus(name: str, gpus: int) -> None:
    """The batch stays the recipe's, and all GPUs work on it."""
    resolved = config(cfg=name, gpus=gpus)
    schedule = resolved.schedule
    assert schedule.batch_size == config(cfg=name, gpus=1).schedule.batch_size or name == "auto"
    assert schedule.batch_size % (resolved.portion * gpus) == 0


@pytest.mark.parametrize(("name", "gpus", "recorded", "portion"), [("cifar", 8, 32, 8), ("paper256", 16, 8, 4), ("stylegan2", 1, 4, 4)])
def test_a_recipe_records_its_portion_and_no_gpu_takes_more_than_its_share(name: str, gpus: int, recorded: int, portion: int) -> None:
    resolved = config(cfg=name, gpus=gpus)
    assert (resolved.schedule.batch_gpu, resolved.portion) == (recorded, portion)


def test_resolving_twice_gives_the_same() -> None:
    assert config(cfg="paper256", gpus=8, reg_type="ggdr") == config(cfg="paper256", gpus=8, reg_type="ggdr")


def test_a_recipe_on_fewer_gpus_accumulates() -> None:
    schedule = config(cfg="paper256", gpus=1).schedule
    assert (schedule.batch_size, schedule.batch_gpu) == (64, 8)
    assert "accumulated over 8 passes of 8 images a GPU" in notes(cfg="paper256", gpus=1)
    assert "accumulated" not in notes(cfg="paper256", gpus=8)


@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        ({"gamma": 3.5}, "loss.r1_gamma", 3.5),
        ({"gamma": 0}, "loss.r1_gamma", 0),
        ({"kimg": 0.5}, "schedule.total_kimg", 0.5),
        ({"batch": 8}, "schedule.batch_gpu", 8),
        ({"snap": 3}, "schedule.snapshot_ticks", 3),
        ({"tick": 0.1}, "schedule.kimg_per_tick", 0.1),
        ({"cbase": 1024}, "generator.channel_base", 1024),
        ({"cbase": 1024}, "discriminator.channel_base", 1024),
        ({"cmax": 64}, "generator.channel_max", 64),
        ({"cmax": 64}, "discriminator.channel_max", 64),
        ({"map_depth": 4}, "generator.map_layers", 4),
        ({"glr": 0.001}, "optim.lr_G", 0.001),
        ({"dlr": 0.001}, "optim.lr_D", 0.001),
        ({"mbstd_group": 2}, "discriminator.mbstd_group", 2),
        ({"batch_gpu": 4}, "schedule.batch_gpu", 4),
        ({"freezed": 2}, "discriminator.freeze_layers", 2),
        ({"aug": "fixed", "p": 0.0}, "augment.initial_p", 0),
        ({"aug": "noaug"}, "augment.pipe", "none"),
        ({"target": 0.5}, "augment.target", 0.5),
        ({"augpipe": "bg"}, "augment.pipe", "bg"),
        ({"reg_type": "ggdr", "ggdr_res": 32}, "ggdr.resolution", 32),
        ({"reg_type": "ggdr", "ggdr_weight": 5}, "ggdr.weight", 5),
        ({"reg_type": "ggdr", "ggdr_start_kimg": 20}, "ggdr.start_kimg", 20),
        ({"reg_type": "ggdr", "ggdr_res": (16, 32)}, "ggdr.resolutions", (16, 32)),
        ({"reg_type": "ggdr", "ggdr_res": 16}, "ggdr.resolutions", (16,)),
        ({"reg_type": "ggdr", "ggdr_kernel": 3}, "ggdr.kernel_size", 3),
        ({"reg_type": "ggdr", "ggdr_act": "lrelu"}, "ggdr.activation", "lrelu"),
        ({"reg_type": "seg", "seg_weight": 2}, "seg.weight", 2),
        ({"reg_type": "seg"}, "seg.weight", 1),
        ({"fp32": True}, "generator.num_fp16_res", 0),
        ({"fp32": True}, "discriminator.conv_clamp", None),
        ({"precision": "fp32"}, "generator.num_fp16_res", 0),
        ({"precision": "bf16"}, "runtime.precision", "bf16"),
        ({"precision": "bf16"}, "generator.num_fp16_res", 4),
        ({"device": "cpu"}, "runtime.device", "cpu"),
        ({"workers": 0}, "runtime.workers", 0),
        ({"nhwc": True}, "runtime.nhwc", True),
        ({"nobench": True}, "runtime.nobench", True),
        ({"allow_tf32": True}, "runtime.allow_tf32", True),
        ({"metrics": ()}, "metrics.names", ()),
        ({"detector": "x.pt"}, "metrics.detector", "x.pt"),
        ({"seed": 7}, "seed", 7),
        ({"checkpoint_minutes": 0}, "upkeep.checkpoint_minutes", 0),
        ({"keep_snapshots": "last:2"}, "upkeep.keep_snapshots", "last:2"),
        ({"on_nonfinite": "ignore"}, "upkeep.on_nonfinite", "ignore"),
    ],
)
def test_each_option_reaches_its_field(said: dict[str, Any], path: str, value: object) -> None:
    found: Any = config(data(annotation_classes=3 if said.get("reg_type") == "seg" else 0), **said)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(("fp32", "precision"), [(True, "bf16"), (True, "auto"), (False, "fp32")])
def test_contradictory_precision_is_refused(fp32: bool, precision: Any) -> None:
    with pytest.raises(UserError, match=f"--fp32={int(fp32)} contradicts --precision={precision}; leave one of them out"):
        config(fp32=fp32, precision=precision)


def test_every_option_is_covered_by_the_list_above() -> None:
    covered = {name for mark in test_each_option_reaches_its_field.pytestmark for said, _, _ in mark.args[1] for name in said}
    assert {field.name for field in dataclasses.fields(TrainOptions)} - covered == {"cfg", "gpus", "resume"}  # tested by themselves


def test_defaults() -> None:
    resolved = config()
    assert resolved.ggdr is None
    assert (resolved.metrics.names, resolved.schedule.snapshot_ticks, resolved.runtime.gpus) == (("fid50k_full",), 50, 1)
    assert (resolved.augment.mode, resolved.augment.pipe, resolved.seed, resolved.resume) == ("ada", "bgc", 0, None)


@pytest.mark.parametrize(("resolution", "chosen"), [(16, 8), (32, 8), (64, 16), (128, 64), (256, 64), (1024, 64)])
def test_the_default_target_resolution(resolution: int, chosen: int) -> None:
    resolved = config(data(resolution=resolution), reg_type="ggdr")
    assert resolved.ggdr is not None
    assert resolved.ggdr.resolution == chosen
    said = notes(data(resolution=resolution), reg_type="ggdr")
    assert (f"--ggdr_res={chosen} was chosen" in said) == (resolution <= 64)


@pytest.mark.parametrize(("resolution", "ggdr_res"), [(8, None), (32, 32), (64, 64), (128, 256), (128, 4), (128, 48), (128, 0), (128, -8)])
def test_target_resolutions_that_cannot_work(resolution: int, ggdr_res: int | None) -> None:
    with pytest.raises(UserError, match="--ggdr_res="):
        config(data(resolution=resolution), reg_type="ggdr", ggdr_res=ggdr_res)


def test_ggdr_options_without_ggdr_are_pointed_out() -> None:
    said: dict[str, Any] = {"ggdr_res": 64, "ggdr_weight": 5.0}
    assert config(**said) == config()
    assert "--ggdr_res --ggdr-weight without --reg_type=ggdr: no effect" in notes(**said)
    paired = data(annotation_classes=2)
    assert "--ggdr-kernel --ggdr-act without --reg_type=ggdr: no effect" in notes(paired, reg_type="seg", ggdr_kernel=3, ggdr_act="lrelu")
    assert "--seg-weight without --reg_type=seg: no effect" in notes(reg_type="ggdr", seg_weight=2)
    assert notes(paired, reg_type="seg", seg_weight=2) == ""
    assert "no effect" not in notes()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"aug": "fixed"}, "--aug=fixed needs the probability"),
        ({"p": 0.5}, "--p=0.5 needs --aug=fixed"),
        ({"aug": "noaug", "p": 0.5}, "--p=0.5 needs --aug=fixed"),
        ({"aug": "fixed", "p": 1.5}, "--p .* between 0 and 1"),
        ({"aug": "fixed", "p": 0.5, "target": 0.6}, "--target=0.6 needs --aug=ada"),
        ({"aug": "noaug", "target": 0.6}, "--target=0.6 needs --aug=ada"),
        ({"target": -0.1}, "--target .* between 0 and 1"),
        ({"aug": "noaug", "augpipe": "bg"}, "--augpipe=bg contradicts --aug=noaug"),
        ({"augpipe": "nope"}, "no augmentation pipeline 'nope'"),
        ({"cfg": "nope"}, "no --cfg=nope"),
        ({"gpus": 0}, "--gpus=0"),
        ({"gpus": 3}, "--gpus=3"),
        ({"batch": 0}, "--batch"),
        ({"batch": 3, "gpus": 2}, "--batch=3 must be divisible by --gpus=2"),
        ({"batch": 1, "gpus": 2}, "--batch=1 must be divisible by --gpus=2"),
        ({"batch": 1}, "path length"),
        ({"batch": 6}, "groups of 4"),
        ({"kimg": 0}, "--kimg"),
        ({"snap": 0}, "--snap"),
        ({"gamma": -1}, "--gamma"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"freezed": -1}, "--freezed"),
        ({"workers": -1}, "--workers"),
        ({"seed": -1}, "--seed"),
        ({"resume": ""}, "--resume is empty"),
    ],
)
def test_contradictions_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**said)


def test_transfer_learning_adapts_faster_and_averages_at_once() -> None:
    fresh, transfer = config(), config(resume="x/net.pkl")
    assert (fresh.augment.kimg, fresh.schedule.ema_rampup) == (500, 0.05)
    assert (transfer.augment.kimg, transfer.schedule.ema_rampup, transfer.resume) == (100, None, "x/net.pkl")
    assert "Transfer learning: p adapts over 100 kimg in place of 500" in notes(resume="x/net.pkl")
    explicit = config(resume="noresume")
    assert dataclasses.replace(explicit, description=fresh.description) == fresh


@pytest.mark.parametrize(
    ("said", "images", "description"),
    [
        ({}, {}, "faces-auto1"),
        ({"gpus": 8}, {}, "faces-auto8"),
        ({"cfg": "paper256"}, {"use_labels": True, "label_dim": 3, "max_size": 50, "xflip": True}, "faces-cond-subset50-mirror-paper256"),
        ({"gamma": 0.125, "kimg": 1000000, "batch": 32}, {}, "faces-auto1-gamma0.125-kimg1000000-batch32"),
        ({"kimg": 2.5}, {}, "faces-auto1-kimg2.5"),
        ({"aug": "noaug"}, {}, "faces-auto1-noaug"),
        ({"aug": "fixed", "p": 0.25, "augpipe": "bg"}, {}, "faces-auto1-fixed-p0.25-bg"),
        ({"target": 0.5, "augpipe": "bgcf", "resume": "a/b.pkl", "freezed": 4}, {}, "faces-auto1-target0.5-bgcf-resumecustom-freezed4"),
        ({"resume": "noresume"}, {}, "faces-auto1-noresume"),
        ({"cbase": 4096, "cmax": 64, "map_depth": 4, "mbstd_group": 2}, {}, "faces-auto1-cbase4096-cmax64-map4-mbstd2"),
        ({"glr": 0.001, "dlr": 0.002}, {}, "faces-auto1-glr0.001-dlr0.002"),
        ({"reg_type": "ggdr", "ggdr_res": 32}, {}, "faces-auto1"),
        ({"reg_type": "ggdr", "ggdr_weight": 5, "ggdr_start_kimg": 1.5}, {}, "faces-auto1-ggdrweight5-ggdrstart1.5"),
        ({"ggdr_weight": 5, "seg_weight": 2}, {}, "faces-auto1"),
        ({"reg_type": "ggdr", "ggdr_res": (16, 32)}, {}, "faces-auto1-ggdrres16+32"),
        ({"reg_type": "ggdr", "ggdr_kernel": 3, "ggdr_act": "lrelu"}, {}, "faces-auto1-ggdrkernel3-ggdractlrelu"),
        ({"reg_type": "seg"}, {"annotation_classes": 2}, "faces-auto1-seg"),
        ({"reg_type": "seg", "seg_weight": 0.5, "ggdr_res": (8, 16)}, {"annotation_classes": 2}, "faces-auto1-seg-segweight0.5"),
        ({"fp32": True, "nhwc": True, "workers": 1, "snap": 1, "tick": 1.0, "seed": 3, "device": "cpu"}, {}, "faces-auto1"),
    ],
)
def test_names_of_runs(said: dict[str, Any], images: dict[str, Any], description: str) -> None:
    assert config(data(**images), **said).description == description


@pytest.mark.parametrize(("path", "name"), [("/a/b.zip", "b"), ("/a/b/", "b"), ("b", "b"), ("/a/b.c.zip", "b.c"), ("/", "data")])
def test_data_name(path: str, name: str) -> None:
    assert data_name(path) == name


def test_notes() -> None:
    assert notes() == ""
    grey = data(num_channels=1)
    assert "greyscale" in notes(grey)
    assert "hue and saturation do nothing" in notes(grey, augpipe="bgcf")
    assert notes(grey, augpipe="bg") == ""
    assert notes(grey, aug="noaug") == ""
    assert "tuned for 256x256 images; these are 128x128" in notes(cfg="paper256", gpus=8)
    assert "tuned" not in notes(data(resolution=256), cfg="paper256", gpus=8)
    assert "over 2 images, all that a GPU has, in place of 4" in notes(batch=2)
    assert "--freezed=2 without --resume" in notes(freezed=2)
    assert "--freezed" not in notes(freezed=2, resume="a.pkl")
    assert "--freezed=99: D has 16 layers above 4x4, and all of them are frozen" in notes(freezed=99, resume="a.pkl")
