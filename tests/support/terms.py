"""What loss terms are given, without networks."""

from collections.abc import Mapping

import torch

from training.objective import Augmentation, Microbatch, PassOutputs


def decoded(
    decoder_maps: torch.Tensor | Mapping[int, torch.Tensor],
    augmentation: Augmentation | None = None,
    generator_maps: Mapping[int, torch.Tensor] | None = None,
    annotations: torch.Tensor | None = None,
) -> PassOutputs:
    """The outputs of a pass in which D's decoder made some maps, or one of its own resolution."""
    if isinstance(decoder_maps, torch.Tensor):
        decoder_maps = {decoder_maps.shape[2]: decoder_maps}
    nothing = torch.zeros([0])
    batch = Microbatch(nothing, nothing, nothing, nothing, annotations)
    return PassOutputs(
        batch=batch,
        images=nothing,
        logits=nothing,
        augmentation=augmentation or Augmentation(),
        D=torch.nn.Identity(),
        decoder_maps=decoder_maps,
        generator_maps=generator_maps or {},
    )
