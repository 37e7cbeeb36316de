"""training.config.resolve: options over presets."""

import dataclasses
from typing import Any

import pytest

from dnnlib.errors import UserError
from tests.support.runs import described_data, explained, resolved_config
from training.config.options import OPTIONS


def test_resolving_twice_gives_the_same() -> None:
    assert resolved_config(cfg="paper256", gpus=8, reg_type="ggdr") == resolved_config(
        cfg="paper256", gpus=8, reg_type="ggdr"
    )


def test_a_preset_on_fewer_gpus_accumulates() -> None:
    schedule = resolved_config(cfg="paper256", gpus=1).schedule
    assert (schedule.batch_size, schedule.batch_gpu) == (64, 8)
    assert "accumulated over 8 passes of 8 images a GPU" in explained(cfg="paper256", gpus=1)
    assert "accumulated" not in explained(cfg="paper256", gpus=8)


@pytest.mark.parametrize(
    ("given", "path", "value"),
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
def test_each_option_reaches_its_field(given: dict[str, Any], path: str, value: object) -> None:
    found: Any = resolved_config(
        described_data(annotation_classes=3 if given.get("reg_type") == "seg" else 0), **given
    )
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(("fp32", "precision"), [(True, "bf16"), (True, "auto"), (False, "fp32")])
def test_contradictory_precision_is_refused(fp32: bool, precision: Any) -> None:
    with pytest.raises(
        UserError, match=f"--fp32={int(fp32)} contradicts --precision={precision}; leave one of them out"
    ):
        resolved_config(fp32=fp32, precision=precision)


def test_every_option_is_covered_by_the_list_above() -> None:
    covered = {
        name
        for mark in test_each_option_reaches_its_field.pytestmark
        for given, _, _ in mark.args[1]
        for name in given
    }
    assert {option.parameter for option in OPTIONS if option.field or option.read} - covered == {
        *("data", "cond", "subset", "mirror"),  # of the data set
        "cfg",
        "gpus",
        "resume",
    }  # tested by themselves


def test_defaults() -> None:
    resolved = resolved_config()
    assert resolved.ggdr is None
    assert (resolved.metrics.names, resolved.schedule.snapshot_ticks, resolved.runtime.gpus) == (
        ("fid50k_full",),
        50,
        1,
    )
    assert (resolved.augment.mode, resolved.augment.pipe, resolved.seed, resolved.resume) == (
        "ada",
        "bgc",
        0,
        None,
    )


@pytest.mark.parametrize(
    ("resolution", "chosen"), [(16, 8), (32, 8), (64, 16), (128, 64), (256, 64), (1024, 64)]
)
def test_the_default_target_resolution(resolution: int, chosen: int) -> None:
    resolved = resolved_config(described_data(resolution=resolution), reg_type="ggdr")
    assert resolved.ggdr is not None
    assert resolved.ggdr.resolution == chosen
    notes = explained(described_data(resolution=resolution), reg_type="ggdr")
    assert (f"--ggdr_res={chosen} was chosen" in notes) == (resolution <= 64)


@pytest.mark.parametrize(
    ("resolution", "ggdr_res"),
    [(8, None), (32, 32), (64, 64), (128, 256), (128, 4), (128, 48), (128, 0), (128, -8)],
)
def test_target_resolutions_that_cannot_work(resolution: int, ggdr_res: int | None) -> None:
    with pytest.raises(UserError, match="--ggdr_res="):
        resolved_config(described_data(resolution=resolution), reg_type="ggdr", ggdr_res=ggdr_res)


@pytest.mark.parametrize(
    ("given", "message"),
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
def test_contradictions_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved_config(**given)


def test_transfer_learning_adapts_faster_and_averages_at_once() -> None:
    fresh, transfer = resolved_config(), resolved_config(resume="x/net.pkl")
    assert (fresh.augment.kimg, fresh.schedule.ema_rampup) == (500, 0.05)
    assert (transfer.augment.kimg, transfer.schedule.ema_rampup, transfer.resume) == (100, None, "x/net.pkl")
    assert "Transfer learning: p adapts over 100 kimg in place of 500" in explained(resume="x/net.pkl")
    explicit = resolved_config(resume="noresume")
    assert dataclasses.replace(explicit, description=fresh.description) == fresh
