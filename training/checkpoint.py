"""What a run consists of while it runs, and what it leaves behind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnnlib.errors import UserError
from torch_utils.persistence import load_network_pkl, save_network_pkl
from torch_utils.seeding import seed_everything
from torch_utils.training_stats import StatsCollector
from training.augment import AdaController, AugmentPipe
from training.build import build_ada, build_augment_pipe, build_discriminator, build_generator, build_objective, build_optimizer
from training.config import TrainConfig
from training.ema import average_decay, update_average
from training.networks import Discriminator, Generator
from training.objective import Objective


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
        steps: finished training steps.
        images_seen: real images shown so far.
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
    steps: int = 0
    images_seen: int = 0

    @staticmethod
    def fresh(config: TrainConfig, device: torch.device) -> "RunState":
        """The state before the first step; weights come from ``config.resume`` where that is given."""
        seed_everything(config.seed, "initial weights")
        G, D = build_generator(config), build_discriminator(config)
        if config.resume is None:
            G_ema = build_generator(config)
            G_ema.load_state_dict(G.state_dict())
        else:
            source = load_network_pkl(config.resume)
            G_ema = build_generator(config)
            for name, module in (("G", G), ("D", D), ("G_ema", G_ema)):
                transfer_weights(source[name], module, f"{name} of {config.resume}")
        G, D = G.to(device).requires_grad_(False), D.to(device).requires_grad_(False)
        G_ema = G_ema.to(device).requires_grad_(False).eval()
        pipe = build_augment_pipe(config)
        pipe = None if pipe is None else pipe.to(device).requires_grad_(False)
        ada = build_ada(config, device)
        stats = StatsCollector(device)
        optim = config.optim
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
            build_objective(config, G, D, pipe, ada, stats),
            stats,
        )

    def update_average(self) -> None:
        """Move ``G_ema`` towards G, once a step, before the step's images are counted."""
        schedule = self.config.schedule
        decay = average_decay(schedule.batch_size, schedule.ema_kimg, schedule.ema_rampup, self.images_seen)
        update_average(self.G_ema, self.G, decay)

    def save_snapshot(self, run_dir: Path) -> Path:
        """Write ``network-snapshot-NNNNNN.pkl`` (N: thousands of images seen) and return its path."""
        path = run_dir / f"network-snapshot-{self.images_seen // 1000:06d}.pkl"
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
    """The arguments of :class:`training.dataset.ImageFolderDataset` that open the run's data set."""
    data = config.data
    return dict(
        path=data.path,
        use_labels=data.use_labels,
        max_size=data.max_size,
        xflip=data.xflip,
        resolution=data.resolution,
        random_seed=data.random_seed,
    )


def transfer_weights(source: nn.Module, target: nn.Module, name: str) -> None:
    """Copy every parameter and buffer that both networks have; what only one of them has is left alone.

    A network without a decoder can so start one that has it, and the other way round.

    Raises:
        UserError: a tensor that both have differs in shape, or they have nothing in common.
    """
    theirs, ours = source.state_dict(), target.state_dict()
    common = [key for key in ours if key in theirs]
    if not common:
        raise UserError(f"{name} has no weights in common with this run's network; resume from a network of the same kind")
    for key in common:
        if theirs[key].shape != ours[key].shape:
            raise UserError(
                f"{name} does not fit this run: '{key}' is {list(theirs[key].shape)} there and {list(ours[key].shape)} here; "
                "use data of the same resolution, channels and labels, and the same --cfg, --cbase, --cmax and --map-depth"
            )
        ours[key].copy_(theirs[key])
