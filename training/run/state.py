"""The training state: everything that a step changes. It is made, restored and saved here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import torch

from dnnlib.checked import between, check
from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.parallel import on_rank0
from torch_utils.persistence import save_network_pkl
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
from training.config.run_directory import snapshot_name
from training.config.schema import TrainConfig
from training.ema import average_decay, update_average
from training.networks import Discriminator, Generator
from training.objective import Objective
from training.run.health import GradientHealth
from training.run.reporting import TickTimer
from training.run.state_file import newest_state, read_state
from training.run.state_form import (
    Images,
    SnapshotName,
    Statistics,
    check_document,
    check_like,
    check_numbers,
    check_optimizer,
)
from training.run.transfer import start_from


class Stateful(Protocol):
    """What can be saved and continued."""

    def state_dict(self) -> Any:
        """Tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take over what :meth:`state_dict` returned."""


#: Everything that a checkpoint holds: attributes of :class:`RunState`, by name in the file. None marks a
#: part, which is saved by its own ``state_dict``. A counter is saved as it is, and has the form given here.
HELD: Mapping[str, Any] = {
    "G": None,
    "D": None,
    "G_ema": None,
    "pipe": None,
    "ada": None,
    "G_opt": None,
    "D_opt": None,
    "objective": None,
    "stats": None,
    "health": None,
    "timer": None,
    "steps": Images,
    "images_seen": Images,
    "tick": Images,
    "tick_start": Images,
    "snapshots": list[SnapshotName],
    "pending": SnapshotName | None,
    "snapshot_at": Annotated[int, between(-1, 1e15)],
    "p_at_most": Annotated[float, between(0, 1e6)],
}
PARTS = [name for name, form in HELD.items() if form is None]
COUNTERS = {name: form for name, form in HELD.items() if form is not None}

#: Attributes that have another name than in the file.
_ATTRIBUTES = {"p_at_most": "p_bound"}


@dataclass
class RunState:
    """Everything that a step changes. :data:`HELD` says what of it is saved: all but the first two.

    Attributes:
        config: of the run.
        device: where the networks are.
        G, D: the networks in training.
        G_ema: the average of G.
        pipe: augmentation of D's input, or None.
        ada: adapts its probability, or None.
        G_opt, D_opt: the optimisers.
        objective: the losses, with the running mean of path lengths.
        stats: what was reported since the last tick.
        health: how often gradients were not finite.
        timer: how long the run takes.
        steps: finished training steps.
        images_seen: real images shown so far.
        tick, tick_start: number of the current tick, and images seen when it began.
        snapshots: names of the snapshots so far.
        pending: name of the snapshot that has yet to be measured, or None.
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

    @classmethod
    def build(cls, config: TrainConfig, device: torch.device) -> Self:
        """The state with freshly drawn weights."""
        seed_everything(config.seed, "initial weights")
        G, D = build_generator(config), build_discriminator(config)
        G_ema = build_generator(config)
        G_ema.load_state_dict(G.state_dict())
        for network in (G, D, G_ema):
            network.to(device).requires_grad_(requires_grad=False)
        G_ema.eval()
        pipe = build_augment_pipe(config)
        if pipe is not None:
            pipe.to(device).requires_grad_(requires_grad=False)
        ada, stats, optim = build_ada(config, device), StatsCollector(device), config.optim
        objective = build_objective(config, G, D, pipe, ada, stats)
        return cls(
            config=config,
            device=device,
            G=G,
            D=D,
            G_ema=G_ema,
            pipe=pipe,
            ada=ada,
            G_opt=build_optimizer(G, optim.lr_G, optim.G_reg_interval, optim),
            D_opt=build_optimizer(D, optim.lr_D, optim.D_reg_interval, optim),
            objective=objective,
            stats=stats,
            health=GradientHealth(list(objective.phases), device),
        )

    @classmethod
    def fresh(cls, config: TrainConfig, device: torch.device) -> Self:
        """The state before the first step; weights come from ``config.resume`` where that is given."""
        state = cls.build(config, device)
        if config.resume is not None:
            lines = start_from(config.resume, G=state.G, D=state.D, G_ema=state.G_ema)
            if distributed.is_rank0():
                print(*lines, sep="\n", end="\n" if lines else "")
        return state

    @classmethod
    def restore(
        cls, config: TrainConfig, device: torch.device, run_dir: Path, is_known_as: Callable[[str], bool]
    ) -> Self:
        """The state in the newest usable checkpoint of a run. Every rank has to call this.

        Args:
            config: may differ from the saved one in :data:`training.config.options.CHANGEABLE`.
            device: where the networks go.
            run_dir: of the run.
            is_known_as: whether the data set, as it is now, has an identity. Rank 0 asks.

        Raises:
            UserError: no checkpoint can be used, or configuration, data set or state do not fit.
        """
        read: list[dict[str, Any]] = []

        def newest() -> Path:
            path, content = newest_state(run_dir)
            read.append(content)
            return path

        path = on_rank0(newest, "the checkpoint")
        content = read[0] if read else read_state(path)
        saved = check_document(content, COUNTERS, f"the checkpoint {path}:")
        check_same_run(saved["config"], config, f"the checkpoint {path}")
        if not on_rank0(lambda: is_known_as(saved["data"]), "comparing the data"):
            raise UserError(
                f"'{config.data.path}' is not the data that {path} was trained on: files, labels or their "
                f"order differ; bring the old data back, or {new_run_advice(run_dir)}"
            )
        state = cls.build(config, device)
        state.load_state_dict(saved)
        return state

    def parts(self) -> dict[str, Stateful]:
        """The parts of :data:`HELD` that this run has."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """What continues this run, as plain values and tensors.

        Every rank has to call this, and rank 0's result counts: it has the statistics of all ranks. All else
        is the same on each.
        """
        self.stats.gather()
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        counters = {name: getattr(self, _ATTRIBUTES.get(name, name)) for name in COUNTERS}
        return {"config": self.config.to_dict(), "counters": counters, "parts": parts}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned in a run of the same configuration.

        Raises:
            UserError: it does not fit.
        """
        parts = self._checked_parts(saved["parts"])
        counters: Any = saved["counters"]
        if counters["images_seen"] != counters["steps"] * self.config.schedule.batch_size:
            raise UserError(
                "the checkpoint does not fit this run: its images are not its steps times the batch size"
            )
        try:
            for name, part in self.parts().items():
                part.load_state_dict(parts[name])
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # faults of the device, not of the file
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint does not fit this run or this version of the program ({error})"
            ) from error
        for name in COUNTERS:
            setattr(self, _ATTRIBUTES.get(name, name), counters[name])
        if not distributed.is_rank0():
            self.stats.flush()  # rank 0 goes on with those of all ranks

    def _checked_parts(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """What each part loads. Raises :class:`UserError` for what does not fit."""
        missing = sorted(self.parts().keys() - saved.keys())
        if missing:
            raise UserError(
                f"the checkpoint lacks {', '.join(missing)}; another program or another version wrote it"
            )
        found: dict[str, Any] = {}
        for name, part in self.parts().items():
            where = f"the checkpoint: {name}"
            if isinstance(part, torch.optim.Optimizer):
                found[name] = check_optimizer(saved[name], part, where)
            elif isinstance(part, StatsCollector):
                found[name] = check(saved[name], Statistics, where)
            else:
                check_like(saved[name], part.state_dict(), where)
                found[name] = dict(saved[name])  # without what a module's own dictionary says of versions
        if "pipe" in found:
            check_numbers(found["pipe"]["p"], 1e6, "the checkpoint: pipe.p")
        if "ada" in found:
            check_numbers(found["ada"]["totals"], 1e12, "the checkpoint: ada.totals")
        return found

    @property
    def p_bound(self) -> float:
        """:attr:`training.augment.AugmentPipe.p_bound`; 0 without augmentation."""
        return 0.0 if self.pipe is None else self.pipe.p_bound

    @p_bound.setter
    def p_bound(self, bound: float) -> None:
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
        """A tick ends after a number of images. The first ends after one step, the last with the schedule."""
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
        """Count a finished step and its images."""
        self.images_seen += self.config.schedule.batch_size
        self.steps += 1

    def adapt_augmentation(self) -> None:
        """Move the augmentation's probability where that is due (ADA)."""
        if self.pipe is not None and self.ada is not None and self.ada.update(self.pipe.p):
            self.pipe.p_bound += self.ada.step_size

    @property
    def snapshot_name(self) -> str:
        """The file name of a snapshot taken now."""
        return snapshot_name(self.images_seen)

    def save_snapshot(self, run_dir: Path) -> Path:
        """Write the network pickle :attr:`snapshot_name` and return its path. Raises :class:`OSError`."""
        path = run_dir / self.snapshot_name
        save_network_pkl(
            path,
            G=self.G,
            D=self.D,
            G_ema=self.G_ema,
            augment_pipe=self.pipe,
            training_set_kwargs=training_set_kwargs(self.config),
            info=dict(
                kimg=self.images_seen / 1000, images_seen=self.images_seen, config=self.config.to_dict()
            ),
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
