"""experiments.analysis.feature_maps: the maps are those that the networks compute."""

from typing import Any

import pytest
import torch

from experiments.analysis.feature_maps import discriminator_maps, generator_maps
from tests.support.runs import small_state


@pytest.fixture(scope="module", params=["ggdr", "none"])
def state(request: Any) -> Any:
    state = small_state(reg_type=request.param)
    for name, parameter in state.G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(1)
    return state


def test_generator_maps(state: Any) -> None:
    z, c = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 0)
    images, maps = generator_maps(state.G, z, c, [8, 32], batch=2)
    rendered, expected = state.G(z, c, capture=(8, 32), noise_mode="const")
    assert list(maps) == [8, 32]
    for res in maps:
        torch.testing.assert_close(maps[res], expected[res])
    assert (images - (rendered * 127.5 + 128).clamp(0, 255)).abs().max() <= 1.01
    with pytest.raises(ValueError, match="cannot capture"):
        generator_maps(state.G, z, c, [64])


def test_discriminator_maps(state: Any) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs: dict[int, torch.Tensor] = {}
    hooks = [
        state.D.get_submodule(f"b{res}").register_forward_hook(
            lambda _m, _i, out, res=res: outputs.update({res // 2: out[0]})
        )
        for res in (32, 16, 8)
    ]
    decoder_maps = state.D(images, None, return_features=True)[1] if state.D.decoder_res else {}
    if not decoder_maps:
        state.D(images, None)
    for hook in hooks:
        hook.remove()
    encoder, decoder = discriminator_maps(state.D, images, batch=2)  # the last image comes alone
    assert list(encoder) == [16, 8, 4]
    for res, values in encoder.items():
        torch.testing.assert_close(values, outputs[res])
    assert list(decoder) == list(decoder_maps) == ([8] if state.D.decoder_res else [])
    for res, values in decoder.items():
        torch.testing.assert_close(values, decoder_maps[res])
