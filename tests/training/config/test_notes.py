"""training.config.notes: sentences about what the program decides by itself."""

from typing import Any

from tests.support.runs import described_data, explained, resolved_config
from training.config.notes import describe_batch


def test_what_is_worth_a_note() -> None:
    assert explained() == ""
    assert "There is one image" in explained(described_data(num_images=1))
    assert "There is one image" in explained(described_data(num_images=2, xflip=True))
    assert "There is one image" not in explained(described_data(num_images=2))
    grey = described_data(num_channels=1)
    assert "greyscale" in explained(grey)
    assert "hue and saturation do nothing" in explained(grey, augpipe="bgcf")
    assert explained(grey, augpipe="bg") == ""
    assert explained(grey, aug="noaug") == ""
    assert "tuned for 256x256 images; these are 128x128" in explained(cfg="paper256", gpus=8)
    assert "tuned" not in explained(described_data(resolution=256), cfg="paper256", gpus=8)
    assert "over 2 images, all that a GPU has, in place of 4" in explained(batch=2)
    assert "--freezed=2 without --resume" in explained(freezed=2)
    assert "--freezed" not in explained(freezed=2, resume="a.pkl")
    assert "--freezed=99: D has 16 layers above 4x4, and all of them are frozen" in explained(
        freezed=99, resume="a.pkl"
    )


def test_the_reason_for_a_target_resolution() -> None:
    assert "--ggdr_res=8 was chosen, a quarter of the image resolution" in explained(
        described_data(resolution=32), reg_type="ggdr"
    )
    assert "--ggdr_res=8 was chosen, the smallest there is" in explained(
        described_data(resolution=16), reg_type="ggdr"
    )


def test_ggdr_options_without_ggdr_are_pointed_out() -> None:
    given: dict[str, Any] = {"ggdr_res": 64, "ggdr_weight": 5.0}
    assert resolved_config(**given) == resolved_config()
    assert "--ggdr-weight --ggdr_res without --reg_type=ggdr: no effect" in explained(**given)
    paired = described_data(annotation_classes=2)
    assert "--ggdr-kernel --ggdr-act without --reg_type=ggdr: no effect" in explained(
        paired, reg_type="seg", ggdr_kernel=3, ggdr_act="lrelu"
    )
    assert "--seg-weight without --reg_type=seg: no effect" in explained(reg_type="ggdr", seg_weight=2)
    assert explained(paired, reg_type="seg", seg_weight=2) == ""
    assert "no effect" not in explained()


def test_the_batch_in_microbatches() -> None:
    assert (
        describe_batch(resolved_config(cfg="paper256", gpus=2))
        == "64 images, 8 at once in each of 2 processes"
    )
    assert describe_batch(resolved_config(batch=8)) == "8 images, 8 at once"
    assert describe_batch(resolved_config(batch=8, batch_gpu=4)) == "8 images, 4 at once"
