"""Parts of a training step, for tests of what they compute."""

from training.phases import Phase, Reals, accumulate, clean, reduce
from training.run.state import RunState


def compute_gradients(state: RunState, phase: Phase, reals: Reals) -> None:
    """All of a phase but its optimiser: the parameters' gradients are there afterwards."""
    accumulated = accumulate(state, phase, reals)
    reduce(state, phase, accumulated)
    clean(state, phase, accumulated.gradients)
