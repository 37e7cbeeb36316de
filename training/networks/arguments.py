"""Arguments that files may give the networks' constructors, in their order. The names are the reference's."""

from torch_utils.ops.bias_act import ACTIVATIONS
from torch_utils.pickles.arguments import (
    MAX_LAYERS,
    MAX_WIDTH,
    Arguments,
    at_least_zero,
    boolean,
    integer,
    number,
    odd_size,
    one_of,
    optional,
    taps,
)

_WIDTH = integer(0, MAX_WIDTH)
_ACTIVATION = one_of(*ACTIVATIONS)
_ARCHITECTURE = one_of("orig", "skip", "resnet")
_IMAGE: Arguments = {"img_resolution": integer(1, MAX_WIDTH), "img_channels": integer(1, MAX_WIDTH)}
_CAPACITY: Arguments = {
    "channel_base": _WIDTH,
    "channel_max": _WIDTH,
    "num_fp16_res": integer(0, MAX_LAYERS),
    "conv_clamp": optional(at_least_zero),
    "architecture": _ARCHITECTURE,
}
_BLOCK: Arguments = {"activation": _ACTIVATION, "resample_filter": taps, "fp16_channels_last": boolean}
_MAPPING: Arguments = {
    "num_layers": integer(0, MAX_LAYERS),
    "embed_features": optional(_WIDTH),
    "layer_features": optional(_WIDTH),
    "activation": _ACTIVATION,
    "lr_multiplier": number,
    "w_avg_beta": optional(number),
}
_SYNTHESIS: Arguments = {**_CAPACITY, **_BLOCK, "kernel_size": odd_size, "use_noise": boolean}

GENERATOR: Arguments = {
    "z_dim": _WIDTH,
    "c_dim": _WIDTH,
    "w_dim": _WIDTH,
    **_IMAGE,
    "mapping_kwargs": _MAPPING,
    "synthesis_kwargs": _SYNTHESIS,
}

DISCRIMINATOR: Arguments = {
    "c_dim": _WIDTH,
    **_IMAGE,
    "architecture": _ARCHITECTURE,
    **_CAPACITY,
    "cmap_dim": optional(_WIDTH),
    "block_kwargs": {**_BLOCK, "freeze_layers": integer(0, MAX_WIDTH)},
    "mapping_kwargs": _MAPPING,
    "epilogue_kwargs": {
        "mbstd_group_size": optional(integer(1, MAX_WIDTH)),
        "mbstd_num_channels": _WIDTH,
        "activation": _ACTIVATION,
    },
    "decoder_res": optional(integer(1, MAX_WIDTH)),
    "decoder_kwargs": {
        "kernel_size": odd_size,
        "activation": _ACTIVATION,
        "num_classes": optional(integer(1, MAX_WIDTH)),
    },
}
