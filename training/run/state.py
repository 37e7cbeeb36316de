"""What a run consists of while it runs, and what it leaves behind."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dnnlib.addresses import public_address
from dnnlib.checked import check
from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.parallel import on_rank0
from torch_utils.persistence import load_network_pkl, save_network_pkl
from torch_utils.seeding import seed_everything
from torch_utils.training_stats import StatsCollector
from training.augment import AdaController, AugmentPipe
from training.build import (
    build_ada,
    build_augment_pipe,
    build_discriminator,
    build_generator,
    build_objective,
    build_optimizer,
)
from training.config.continuation import check_same_run, new_run_advice
from training.config.pretrained import fetch_source
from training.config.run_directory import snapshot_name
from training.config.schema import TrainConfig
from training.ema import average_decay, update_average
from training.networks import Discriminator, Generator
from training.networks.decoder import is_decoder_key
from training.objective import Objective
from training.run.health import GradientHealth
from training.run.reporting import TickTimer
from training.run.state_file import newest_state, read_state
from training.run.state_form import Statistics, check_document, check_like, check_numbers, check_optimizer


class Stateful(Protocol):
    """What can be saved and continued."""

    def state_dict(self) -> Any:
        """Tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take over what :meth:`state_dict` returned."""


#: How messages call it.
STATE = "the training state"

#: The numbers and names among the attributes of :class:`RunState` that are saved.
COUNTERS = ("steps", "images_seen", "tick", "tick_start", "snapshots", "pending", "snapshot_at", "p_at_most")


@dataclass
class RunState:
    """Everything that a step changes.

    Attributes:
        G, D: the networks in training.
        G_ema: the average of G.
        pipe: augmentation of what D sees, or None.
        ada: what adapts its probability, or None.
        G_opt, D_opt: their optimisers.
        objective: the losses, with the running mean of path lengths.
        stats: what has been reported since the last tick.
        health: how often gradients were not finite.
        timer: how long it takes.
        steps: finished training steps.
        images_seen: real images shown so far.
        tick, tick_start: number of the current tick, and images seen when it began.
        snapshots: names of the network snapshots so far.
        pending: name of a snapshot that was just taken and has not been measured yet.
        snapshot_at: images seen when the last snapshot was taken; -1 before the first one.
    """

    config: TrainConfig
    device: torch.device
    G: Generator
    D: Discriminator
    G_ema: Generator
    pipe: AugmentPipe | None
    ada: AdaController | None
    G_opt: torch.optim.Optimizer
    D_opt: torch.optim.Optimizer
    objective: Objective
    stats: StatsCollector
    health: GradientHealth
    timer: TickTimer = field(default_factory=TickTimer)
    steps: int = 0
    images_seen: int = 0
    tick: int = 0
    tick_start: int = 0
    snapshots: list[str] = field(default_factory=list)
    pending: str | None = None
    snapshot_at: int = -1

    @staticmethod
    def fresh(config: TrainConfig, device: torch.device) -> "RunState":
        """The state before the first step; weights come from ``config.resume`` where that is given."""
        state = RunState.build(config, device)
        if config.resume is not None:
            source = load_network_pkl(fetch_source(config.resume))
            for name, module in (("G", state.G), ("D", state.D), ("G_ema", state.G_ema)):
                title = f"{name} of {public_address(config.resume)}"
                fresh = transfer_weights(source[name], module, title)
                if distributed.is_rank0():
                    for line in describe_transfer(source[name], module, title, fresh):
                        print(line)
        return state

    @staticmethod
    def build(config: TrainConfig, device: torch.device) -> "RunState":
        """All parts, with freshly drawn weights."""
        seed_everything(config.seed, "initial weights")
        G, D = build_generator(config), build_discriminator(config)
        G_ema = build_generator(config)
        G_ema.load_state_dict(G.state_dict())
        G, D = G.to(device).requires_grad_(False), D.to(device).requires_grad_(False)
        G_ema = G_ema.to(device).requires_grad_(False).eval()
        pipe = build_augment_pipe(config)
        pipe = None if pipe is None else pipe.to(device).requires_grad_(False)
        ada = build_ada(config, device)
        stats = StatsCollector(device)
        optim = config.optim
        objective = build_objective(config, G, D, pipe, ada, stats)
        return RunState(
            config,
            device,
            G,
            D,
            G_ema,
            pipe,
            ada,
            build_optimizer(G, optim.lr_G, optim.G_reg_interval, optim),
            build_optimizer(D, optim.lr_D, optim.D_reg_interval, optim),
            objective,
            stats,
            GradientHealth(list(objective.phases), device),
        )

    @staticmethod
    def restore(
        config: TrainConfig, device: torch.device, run_dir: Path, is_known_as: Callable[[str], bool]
    ) -> "RunState":
        """The state that the newest usable file in ``run_dir`` holds. Every rank has to call this.

        Args:
            config: may differ from the saved one in what :data:`training.config.continuation.CHANGEABLE`
                names.
            is_known_as: whether the data set, as it is now, is the one with an identity. Rank 0 asks.

        Raises:
            UserError: no file can be used, the configuration or the data set differs, or the state does not
                fit.
        """
        read: list[dict[str, Any]] = []

        def newest() -> Path:
            path, content = newest_state(run_dir)
            read.append(content)
            return path

        path = on_rank0(newest, "the training state")
        saved = check_document(read[0] if read else read_state(path), f"the training state {path}:")
        check_same_run(saved["config"], config, f"the training state {path}")
        if not on_rank0(lambda: is_known_as(saved["data"]), "comparing the data"):
            raise UserError(
                f"'{config.data.path}' is not the data that {path} was trained on: files, labels or their "
                "order differ; "
                f"bring the old data back, or {new_run_advice(run_dir)}"
            )
        state = RunState.build(config, device)
        state.load_state_dict(saved)
        return state

    def parts(self) -> dict[str, Stateful]:
        """Everything that a step changes, by the name under which it is saved: the one place where that is
        registered."""
        parts: dict[str, Stateful | None] = {
            "G": self.G,
            "D": self.D,
            "G_ema": self.G_ema,
            "pipe": self.pipe,
            "ada": self.ada,
            "G_opt": self.G_opt,
            "D_opt": self.D_opt,
            "objective": self.objective,
            "stats": self.stats,
            "health": self.health,
            "timer": self.timer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """What continues this run, as plain values and tensors. Every rank has to call this; rank 0's result
        counts.

        It has the statistics of all ranks; all else is the same on each.
        """
        self.stats.gather()
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {"config": self.config.to_dict(), "counters": counters, "parts": parts}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned in a run of the same configuration.

        Raises:
            UserError: it does not fit.
        """
        parts = self.checked_parts(saved["parts"])
        counters: Any = saved["counters"]
        if counters["images_seen"] != counters["steps"] * self.config.schedule.batch_size:
            raise UserError(
                f"{STATE} does not fit this run: its images are not its steps times the batch of this run"
            )
        try:
            for name, part in self.parts().items():
                part.load_state_dict(parts[name])
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # faults of the device, not of the file
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{STATE} does not fit this run or this version of the program ({error})"
            ) from error
        for name in COUNTERS:
            setattr(self, name, counters[name])
        if not distributed.is_rank0():
            self.stats.flush()  # rank 0 goes on with those of all ranks

    def checked_parts(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`parts` are to load of a state from a file. Raises :class:`UserError` for what does not
        fit them."""
        missing = sorted(self.parts().keys() - saved.keys())
        if missing:
            raise UserError(
                f"{STATE} lacks {', '.join(missing)}; it is of another program or another version of this one"
            )
        found: dict[str, Any] = {}
        for name, part in self.parts().items():
            where = f"{STATE}: {name}"
            if isinstance(part, torch.optim.Optimizer):
                found[name] = check_optimizer(saved[name], part, where)
            elif isinstance(part, StatsCollector):
                found[name] = check(saved[name], Statistics, where)
            else:
                check_like(saved[name], part.state_dict(), where)
                found[name] = dict(saved[name])  # without what a module's own dictionary says of versions
        if "pipe" in found:
            check_numbers(found["pipe"]["p"], 1e6, f"{STATE}: pipe.p")
        if "ada" in found:
            check_numbers(found["ada"]["totals"], 1e12, f"{STATE}: ada.totals")
        return found

    @property
    def p_at_most(self) -> float:
        """:attr:`training.augment.AugmentPipe.p_bound`; 0 without augmentation."""
        return 0.0 if self.pipe is None else self.pipe.p_bound

    @p_at_most.setter
    def p_at_most(self, bound: float) -> None:
        if self.pipe is not None:
            self.pipe.p_bound = bound

    @property
    def finished(self) -> bool:
        """Whether the schedule has ended, its last tick and snapshot included."""
        return (
            self.images_seen >= self.config.schedule.total_images
            and self.images_seen == self.tick_start == self.snapshot_at
        )

    @property
    def tick_is_over(self) -> bool:
        """A tick ends after a number of images; the first one after one step; the last one with the
        schedule."""
        schedule = self.config.schedule
        due = self.images_seen >= self.tick_start + schedule.kimg_per_tick * 1000
        return due or self.steps == 1 or self.images_seen >= schedule.total_images

    def begin_tick(self) -> None:
        """Count the next tick, from here on."""
        self.tick, self.tick_start = self.tick + 1, self.images_seen

    def update_average(self) -> None:
        """Move ``G_ema`` towards G, once a step, before the step's images are counted."""
        schedule = self.config.schedule
        decay = average_decay(schedule.batch_size, schedule.ema_kimg, schedule.ema_rampup, self.images_seen)
        update_average(self.G_ema, self.G, decay)

    def count_step(self) -> None:
        """Count a step that is done, and its images."""
        self.images_seen += self.config.schedule.batch_size
        self.steps += 1

    def adapt_augmentation(self) -> None:
        """Move the augmentation's probability where that is due (ADA)."""
        if self.pipe is not None and self.ada is not None and self.ada.update(self.pipe.p):
            self.pipe.p_bound += self.ada.step_size

    @property
    def snapshot_name(self) -> str:
        """The file name of a network pickle taken now."""
        return snapshot_name(self.images_seen)

    def save_snapshot(self, run_dir: Path) -> Path:
        """Write the network pickle :attr:`snapshot_name` and return its path. Raises :class:`OSError`."""
        path = run_dir / self.snapshot_name
        info = dict(kimg=self.images_seen / 1000, images_seen=self.images_seen, config=self.config.to_dict())
        save_network_pkl(
            path,
            G=self.G,
            D=self.D,
            G_ema=self.G_ema,
            augment_pipe=self.pipe,
            training_set_kwargs=training_set_kwargs(self.config),
            info=info,
        )
        return path


def training_set_kwargs(config: TrainConfig) -> dict[str, Any]:
    """The arguments of :class:`training.data.dataset.ImageFolderDataset` that open the run's data set."""
    data = config.data
    return dict(
        path=data.image_path,
        use_labels=data.use_labels,
        max_size=data.max_size,
        xflip=data.xflip,
        resolution=data.resolution,
        random_seed=data.random_seed,
    )


#: Layers whose shape depends on the labels, and on the channels of the images.
_OF_LABELS = re.compile(r"mapping\.(embed|fc0)\.|b4\.out\.")
_OF_CHANNELS = re.compile(r".*\.(torgb|fromrgb)\.")


def transfer_weights(source: nn.Module | None, target: nn.Module, name: str) -> list[str]:
    """Copy every parameter and buffer that both networks have; what only one of them has is left alone.

    A network without a decoder can so start one that has it, and the other way round. Layers of another shape
    keep their initial values where the shape depends on the decoder's make, on the labels or on the channels
    of the images.

    Returns:
        the layers of the target that keep their initial values, whole or in part.

    Raises:
        UserError: there is no source, another tensor that both have differs in shape, they have nothing in
            common, or a frozen layer of the target is not taken over: it would stay random.
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
                f"{list(ours[key].shape)} here; "
                "use the same --cfg, --cbase, --cmax and --map-depth"
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
    """Whether a tensor may differ in shape because the networks are for other labels, or for images of other
    channels."""
    labels, channels = source.c_dim != target.c_dim, source.img_channels != target.img_channels
    return bool((labels and _OF_LABELS.match(key)) or (channels and _OF_CHANNELS.match(key)))


def describe_transfer(source: nn.Module, target: nn.Module, name: str, fresh: Sequence[str]) -> list[str]:
    """What :func:`transfer_weights` did, in lines for a person; none where everything was taken over.

    Args:
        name: of the source.
        fresh: what :func:`transfer_weights` gave.
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
