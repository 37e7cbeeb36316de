"""Transfer learning: a new run takes over the weights of a trained network."""

import re
from collections.abc import Sequence

from torch import nn

from dnnlib.addresses import public_address
from dnnlib.errors import UserError
from torch_utils.persistence import load_network_pkl
from training.config.pretrained import fetch_source
from training.networks.decoder import is_decoder_key

#: Layers whose shape depends on the labels, and on the channels of the images.
_OF_LABELS = re.compile(r"mapping\.(embed|fc0)\.|b4\.out\.")
_OF_CHANNELS = re.compile(r".*\.(torgb|fromrgb)\.")


def start_from(source: str, **networks: nn.Module) -> list[str]:
    """Copy the weights of a network pickle into the networks of a new run.

    Args:
        source: as ``--resume`` takes it.
        networks: those of the run, by their names in the pickle.

    Returns:
        lines for a person: the layers that start afresh, and why.

    Raises:
        UserError: as :func:`transfer_weights`, and for a pickle that cannot be had.
    """
    trained, lines = load_network_pkl(fetch_source(source)), []
    for name, network in networks.items():
        title = f"{name} of {public_address(source)}"
        fresh = transfer_weights(trained[name], network, title)
        lines += describe_transfer(trained[name], network, title, fresh)
    return lines


def transfer_weights(source: nn.Module | None, target: nn.Module, name: str) -> list[str]:
    """Copy every parameter and buffer that both networks have. The rest keeps its initial values.

    So a network without a decoder can start one that has it, and the other way round. Layers of another shape
    keep their initial values too, where the shape depends on the decoder, on the labels or on the channels of
    the images.

    Args:
        source: the trained network; None where the pickle does not have it.
        target: changed in place.
        name: of the source, for messages.

    Returns:
        the layers of the target that keep initial values, whole or in part.

    Raises:
        UserError: there is no source, another tensor that both have differs in shape, they have nothing in
            common, or a frozen layer of the target is not in the source: it would stay random.
    """
    if source is None:
        raise UserError(f"{name} is not in the file; resume from a network pickle with G, D and G_ema")
    theirs, ours = source.state_dict(), target.state_dict()
    common = [key for key in ours if key in theirs]
    if not common:
        raise UserError(
            f"{name} has no weights in common with this run's network; resume from a network of the same kind"
        )
    other_shape = [key for key in common if theirs[key].shape != ours[key].shape]
    for key in other_shape:
        if not (is_decoder_key(key) or _follows_data(key, source, target)):
            raise UserError(
                f"{name} does not fit this run: '{key}' is {list(theirs[key].shape)} there and "
                f"{list(ours[key].shape)} here; use the same --cfg, --cbase, --cmax and --map-depth"
            )
    fresh = [key for key in ours if key not in theirs or key in other_shape]
    trainable = dict(target.named_parameters())
    for key in fresh:
        if key.endswith(".weight") and key not in trainable:
            raise UserError(
                f"{name} has no '{key}', which --freezed keeps; resume from a network of the same "
                "resolution, channels, labels and --cfg"
            )
    for key in common:
        if key not in other_shape:
            ours[key].copy_(theirs[key])
    return list(dict.fromkeys(key.rpartition(".")[0] or key for key in fresh if key in trainable))


def _follows_data(key: str, source: nn.Module, target: nn.Module) -> bool:
    """Whether a tensor's shape may differ because labels or image channels differ."""
    labels, channels = source.c_dim != target.c_dim, source.img_channels != target.img_channels
    return bool((labels and _OF_LABELS.match(key)) or (channels and _OF_CHANNELS.match(key)))


def describe_transfer(source: nn.Module, target: nn.Module, name: str, fresh: Sequence[str]) -> list[str]:
    """What :func:`transfer_weights` did, in lines for a person; none where everything was copied.

    Args:
        source: the trained network.
        target: the run's network.
        name: of the source.
        fresh: the result of :func:`transfer_weights`.
    """
    if not fresh:
        return []
    lines = []
    if source.c_dim != target.c_dim:
        there, here = (f"{dim} labels" if dim else "no labels" for dim in (source.c_dim, target.c_dim))
        lines.append(
            f"{name} was trained with {there}, and this run has {here}; layers that depend on them start "
            "afresh"
        )
    if source.img_channels != target.img_channels:
        there, here = (
            "greyscale" if channels == 1 else "RGB" for channels in (source.img_channels, target.img_channels)
        )
        lines.append(
            f"{name} was trained on {there} images, and this run has {here}; layers that depend on it start "
            "afresh"
        )
    return [*lines, f"Not in {name}, or of another shape, and started afresh: {', '.join(fresh)}"]
