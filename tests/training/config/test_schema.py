"""training.config.schema: what is refused at construction, and JSON there and back."""

import dataclasses
import json
from typing import Any

import pytest

from dnnlib.errors import UserError
from training.augment import presets as pipelines
from training.config.options import AUGPIPES
from training.config.schema import (
    COLOR_AUGPIPES,
    AugmentConfig,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    GGDRConfig,
    LossConfig,
    MetricsConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)

COMPLETE = TrainConfig(
    data=DataConfig(
        path="/data/faces.zip",
        resolution=64,
        num_channels=3,
        label_dim=0,
        num_images=100,
        use_labels=False,
        max_size=None,
        xflip=False,
        random_seed=0,
    ),
    generator=GeneratorConfig(
        map_layers=2, channel_base=16384, channel_max=512, num_fp16_res=4, conv_clamp=256
    ),
    discriminator=DiscriminatorConfig(
        architecture="resnet",
        channel_base=16384,
        channel_max=512,
        num_fp16_res=4,
        conv_clamp=256,
        mbstd_group=4,
    ),
    augment=AugmentConfig(mode="ada", pipe="bgc", initial_p=0, target=0.6, kimg=500),
    loss=LossConfig(r1_gamma=1, pl_weight=2, style_mixing_prob=0.9),
    ggdr=GGDRConfig(resolution=16),
    optim=OptimConfig(lr_G=0.002, lr_D=0.002),
    schedule=ScheduleConfig(total_kimg=100, batch_size=16, batch_gpu=8, ema_kimg=5, ema_rampup=None),
    runtime=RuntimeConfig(
        device="auto", gpus=2, workers=3, fp32=False, nhwc=False, nobench=False, allow_tf32=False
    ),
    metrics=MetricsConfig(names=("fid50k_full", "pr50k3_full"), detector="auto"),
    seed=0,
    resume=None,
    description="faces-auto2",
)


def changed(**parts: Any) -> TrainConfig:
    """The complete configuration with other fields: ``changed(schedule={"batch_size": 8})``."""
    values = {
        name: dataclasses.replace(getattr(COMPLETE, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return dataclasses.replace(COMPLETE, **values)


@pytest.mark.parametrize(
    "config", [COMPLETE, changed(ggdr=None, resume="a.pkl", schedule={"ema_rampup": 0.05})]
)
def test_json_there_and_back(config: TrainConfig) -> None:
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert isinstance(again.metrics.names, tuple)
    assert isinstance(again.data, DataConfig)


def test_defaults_may_be_left_out_of_json() -> None:
    values = COMPLETE.to_dict()
    del values["optim"]["beta2"], values["ggdr"]["weight"]
    assert TrainConfig.from_dict(values) == COMPLETE


@pytest.mark.parametrize("section", [None, "data", "generator", "ggdr", "metrics"])
def test_unknown_keys_are_refused(section: str | None) -> None:
    values = COMPLETE.to_dict()
    (values if section is None else values[section])["surprise"] = 1
    with pytest.raises(UserError, match=rf"'{section or 'config'}'.*unknown keys \(surprise\)"):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(("section", "key"), [(None, "optim"), ("data", "path"), ("optim", "lr_G")])
def test_missing_keys_are_refused(section: str | None, key: str) -> None:
    values = COMPLETE.to_dict()
    del (values if section is None else values[section])[key]
    with pytest.raises(UserError, match=f"lacks {key}"):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize("value", [3, None, [1], "x"])
def test_a_section_must_be_a_dictionary(value: object) -> None:
    with pytest.raises(UserError, match="loss"):
        TrainConfig.from_dict({**COMPLETE.to_dict(), "loss": value})


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("data", "resolution", 64.0),
        ("data", "num_images", True),
        ("data", "xflip", 1),
        ("data", "path", None),
        ("generator", "conv_clamp", "256"),
        ("discriminator", "architecture", "unet"),
        ("augment", "mode", "sometimes"),
        ("loss", "r1_gamma", float("nan")),
        ("loss", "pl_weight", float("inf")),
        ("schedule", "batch_size", "16"),
        ("runtime", "device", "tpu"),
        ("metrics", "names", "fid50k_full"),
        ("upkeep", "on_nonfinite", "wait"),
    ],
)
def test_wrong_types_are_refused(part: str, field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{part}.{field}.* must be .*, not "):
        changed(**{part: {field: value}})


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("data", "max_size", 0),
        ("data", "random_seed", -1),
        ("generator", "map_layers", 0),
        ("generator", "channel_base", 0),
        ("generator", "conv_clamp", 0),
        ("generator", "num_fp16_res", -1),
        ("discriminator", "mbstd_group", 0),
        ("discriminator", "freeze_layers", -1),
        ("augment", "initial_p", 1.5),
        ("augment", "initial_p", -0.1),
        ("augment", "target", 2),
        ("augment", "interval", 0),
        ("loss", "r1_gamma", -1),
        ("loss", "style_mixing_prob", 1.1),
        ("ggdr", "weight", -1),
        ("ggdr", "start_kimg", -1),
        ("ggdr", "kernel_size", 2),
        ("data", "annotation_classes", -1),
        ("optim", "lr_G", 0),
        ("optim", "beta2", 1),
        ("optim", "D_reg_interval", 0),
        ("schedule", "total_kimg", 0),
        ("schedule", "kimg_per_tick", 0),
        ("schedule", "snapshot_ticks", 0),
        ("schedule", "ema_rampup", 0),
        ("schedule", "ema_kimg", -1),
        ("runtime", "workers", -1),
        ("upkeep", "checkpoint_minutes", -1),
    ],
)
def test_values_out_of_range_are_refused(part: str, field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{part}.{field}.* must "):
        changed(**{part: {field: value}})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": {"resolution": 48}}, "power of two"),
        ({"data": {"resolution": 4}}, "power of two from 8 up"),
        ({"data": {"use_labels": True}}, "--cond=1 needs labels"),
        ({"data": {"label_dim": 3}}, "label_dim must be 0"),
        ({"data": {"num_channels": 4}}, "have 4 channels, not 1 or 3"),
        ({"augment": {"pipe": "bgcx"}}, "no augmentation pipeline 'bgcx'"),
        ({"augment": {"mode": "noaug"}}, "noaug goes with pipe 'none'"),
        ({"augment": {"mode": "fixed"}}, "augment.target goes with"),
        ({"augment": {"target": None}}, "augment.target goes with"),
        ({"ggdr": {"resolution": 24}}, "--ggdr_res=24 must be a power of two"),
        ({"ggdr": {"resolution": 4}}, "--ggdr_res=4 must be a power of two, 8 or larger"),
        (
            {"ggdr": {"resolution": 64}},
            "--ggdr_res=64 must be smaller than the images, which are 64x64 pixels; choose 32 or less, such "
            "as 16",
        ),
        ({"ggdr": {"resolution": 128}}, "--ggdr_res=128 must be smaller"),
        ({"ggdr": {"resolution": (8, 64)}}, "--ggdr_res=64 must be smaller"),
        ({"ggdr": {"resolution": (8, 12)}}, "--ggdr_res=12 must be a power of two"),
        ({"ggdr": {"resolution": (16, 8)}}, "--ggdr_res=16,8 must name each target once, the smallest first"),
        ({"ggdr": {"resolution": (8, 8)}}, "each target once"),
        ({"ggdr": {"resolution": ()}}, "each target once"),
        ({"ggdr": {"activation": "relu"}}, "must be one of linear lrelu"),
        ({"data": {"annotation_classes": 2}}, "go with --reg_type=seg"),
        ({"ggdr": {"resolution": 8}, "data": {"resolution": 8}}, "images this small"),
        ({"runtime": {"gpus": 3}}, "--gpus=3 must be a power of two"),
        ({"runtime": {"gpus": 0}}, "--gpus=0 must be a power of two"),
        ({"runtime": {"fp32": True}}, "fp32 contradicts"),
        ({"schedule": {"batch_size": 15}}, "--batch=15 must be divisible by --gpus=2"),
        ({"schedule": {"batch_gpu": 3}}, "cannot be split into microbatches of 3 on 2 GPUs"),
        (
            {"schedule": {"batch_size": 12, "batch_gpu": 6}},
            "6 images of one GPU cannot be split into groups of 4",
        ),
        ({"schedule": {"batch_size": 2, "batch_gpu": 1}}, "path length regularisation"),
        ({"metrics": {"names": ("fid50k_full", "fid50k_full")}}, "repeated name"),
        ({"metrics": {"names": ("",)}}, "empty"),
        ({"metrics": {"detector": ""}}, "--detector is empty"),
        (
            {"upkeep": {"keep_snapshots": "first:2"}},
            "--keep-snapshots=first:2: 'first:2' is not one of last:N, every:N, best",
        ),
        (
            {"upkeep": {"keep_snapshots": "best"}, "metrics": {"names": ()}},
            "--keep-snapshots=best needs a metric",
        ),
        (
            {"upkeep": {"keep_snapshots": "best"}, "schedule": {"kimg_per_tick": 0.5, "snapshot_ticks": 1}},
            "--keep-snapshots=best needs snapshots at least 1 kimg apart",
        ),
        ({"generator": {"channel_base": 32}, "ggdr": None}, "--cbase=32 leaves no channel at 64x64"),
        ({"seed": -1}, "--seed"),
        ({"description": ""}, "description must be the name of a folder"),
    ],
)
def test_contradictions_are_refused_in_one_line(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        changed(**parts)
    assert "\n" not in str(caught.value)


def test_what_looks_odd_and_is_allowed() -> None:
    changed(schedule={"batch_size": 4, "batch_gpu": 2})  # the group of 4 is cut down to the 2 of one GPU
    changed(schedule={"batch_size": 2, "batch_gpu": 1}, loss={"pl_weight": 0})
    changed(ggdr={"resolution": 32})  # half the image resolution is the largest that D's encoder has
    changed(augment={"mode": "fixed", "target": None, "initial_p": 1})
    changed(metrics={"names": ()})
    changed(runtime={"workers": 0})


def test_kimg_are_whole_images() -> None:
    """A run that stopped after n images is complete with --kimg=n/1000, whatever the rounding."""
    for images in range(1, 3000):
        assert changed(schedule={"total_kimg": images / 1000}).schedule.total_images == images
    assert changed(schedule={"total_kimg": 0.0001}).schedule.total_images == 1


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        COMPLETE.seed = 1  # type: ignore[misc]


def test_pipeline_names_are_those_that_exist() -> None:
    assert set(AUGPIPES) == set(pipelines.PRESETS)
    colourful = {name for name, spec in pipelines.PRESETS.items() if spec.get("brightness", 0) > 0}
    assert set(COLOR_AUGPIPES) == colourful
