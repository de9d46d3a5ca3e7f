"""Rollout joins an agent and environments: groups of episodes in, trajectories of step rows out."""

from stapo.rollout.faults import Boundary, Failure
from stapo.rollout.types import Step, StopReason, Trajectory, drop_failed

__all__ = ["Boundary", "Failure", "Step", "StopReason", "Trajectory", "drop_failed"]
