"""Which row of a log is which step of which trajectory."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import BadCell, Log


@dataclass(frozen=True, eq=False)
class Paths:
    """Rows of a log by trajectory and step.

    Attributes:
        row: the log's row of each step; 0 where padded.
        valid: whether there is such a step; each trajectory is true, then false.
        cut: whether the trajectory was still running after its last step.
        user: whose trajectory it is.
    """

    row: Int[Tensor, "round step"]
    valid: Bool[Tensor, "round step"]
    cut: Bool[Tensor, " round"]
    user: Int[Tensor, " round"]

    def __len__(self) -> int:
        """Return N, the number of trajectories."""
        return self.row.shape[0]

    @property
    def steps(self) -> int:
        """T, the length of the longest trajectory."""
        return self.row.shape[1]

    def spread(self, x: Float[Tensor, " row"], pad: float) -> Float[Tensor, "round step"]:
        """Lay a column of the log out by trajectory and step, float64.

        Args:
            x: the column.
            pad: what stands where a trajectory has ended.
        """
        return torch.where(self.valid, x.double()[self.row], pad)

    @property
    def last(self) -> Int[Tensor, " round"]:
        """The log's row of each trajectory's last step."""
        return self.row.gather(1, self.valid.sum(1, keepdim=True) - 1).squeeze(1)

    @property
    def after(self) -> Int[Tensor, "round step"]:
        """The log's row of the step after each step; -1 where there is none."""
        none = torch.full_like(self.row[:, :1], -1)
        following = torch.where(self.valid, self.row, -1)
        return torch.cat([following[:, 1:], none], dim=1)

    @classmethod
    def of_lengths(cls, lengths: Int[Tensor, " round"]) -> "Paths":
        """Lay out rows that follow one another, trajectory after trajectory.

        Raises:
            BadInput: for no trajectory, or one without a step.
        """
        if not len(lengths):
            raise BadInput("there are no trajectories")
        if int(lengths.min()) < 1:
            which = int((lengths < 1).nonzero()[0])
            raise BadInput(f"trajectory {which} has {int(lengths[which])} steps, but it needs at least 1")
        step = torch.arange(int(lengths.max()), device=lengths.device)
        valid = step < lengths.unsqueeze(1)
        first = lengths.cumsum(0) - lengths
        row = torch.where(valid, first.unsqueeze(1) + step, 0)
        every = torch.arange(len(lengths), device=lengths.device)
        return cls(row, valid, torch.zeros_like(valid[:, 0]), every)

    @classmethod
    def of(cls, log: Log, horizon: int | None = None) -> "Paths":
        """Group a log's rounds by (user, session) and order them by step.

        Without sessions, a user's rounds are one trajectory; without steps, they come in the log's order.
        Where the log has neither `terminated` nor `truncated`, a trajectory ends where its rows end. Where it
        has, a trajectory must reach a terminated round or the horizon: of one that a time limit cut before,
        the rest is not known, and taking it for nothing would be a bias.

        Args:
            log: the rounds.
            horizon: steps that count; later ones are left out. By default as many as the longest has.

        Raises:
            BadInput: for a session that does not start at step 0, lacks a step, has one twice, goes on after
                its end, or was cut before the horizon; naming column, row and value.
        """
        if horizon is not None and horizon < 1:
            raise BadInput(f"horizon is {horizon}, but a trajectory has at least 1 step")
        order = log.order()
        session = torch.zeros_like(log.user) if log.session is None else log.session
        who, which = log.user[order], session[order]
        first = torch.ones_like(who, dtype=torch.bool)
        first[1:] = (who[1:] != who[:-1]) | (which[1:] != which[:-1])
        start = first.nonzero().squeeze(1)
        number = first.long().cumsum(0) - 1
        place = torch.arange(len(order), device=order.device) - start[number]
        _check_steps(log, order, place, session)
        ends = _ends(log)
        if ends is not None:
            _check_ends(log, ends[order], first, order, session)
        count = torch.bincount(number)
        longest = int(count.max()) if horizon is None else min(horizon, int(count.max()))
        paths = cls.of_lengths(count)
        row = torch.where(paths.valid, order[paths.row], 0)[:, :longest]
        kept = cls(row, paths.valid[:, :longest], count > longest, who[start])
        if log.terminated is None and log.truncated is None:
            return kept
        running = torch.ones_like(kept.cut) if log.terminated is None else ~log.terminated[kept.last]
        wanted = longest if horizon is None else horizon
        early = running & (kept.valid.sum(1) < wanted)
        if bool(early.any()):
            lost = int(early.nonzero()[0])
            steps, at = int(kept.valid[lost].sum()), int(kept.last[lost])
            raise BadInput(
                f"row {at}: session {int(session[at])} of user {int(log.user[at])} is cut after {steps} "
                f"steps and not terminated, so what it earns up to step {wanted - 1} is unknown; give "
                f"horizon={steps} or less, or leave out columns terminated and truncated where a session's "
                "end is the end"
            )
        return cls(kept.row, kept.valid, running, kept.user)


def _ends(log: Log) -> Bool[Tensor, " row"] | None:
    """Return whether a session ends after each row, if the log says."""
    if log.terminated is None:
        return log.truncated
    return log.terminated if log.truncated is None else log.terminated | log.truncated


def _check_steps(
    log: Log, order: Int[Tensor, " row"], place: Int[Tensor, " row"], session: Int[Tensor, " row"]
) -> None:
    """Refuse steps that do not count 0, 1, 2 and so on."""
    if log.step is None:
        return
    step = log.step[order]
    wrong = (step != place).nonzero()
    if not len(wrong):
        return
    at = int(wrong[0])
    row, found, wanted = int(order[at]), int(step[at]), int(place[at])
    of = f"session {int(session[row])} of user {int(log.user[row])}"
    if wanted == 0:
        why = f"is the first step of {of}, but steps count from 0"
    elif found == wanted - 1:
        why = f"is there twice in {of}: give each trajectory its own session"
    else:
        why = f"follows step {wanted - 1} in {of}: a step is missing, and with it a part of the weight"
    raise BadCell("step", row, why, found)


def _check_ends(
    log: Log,
    ended: Bool[Tensor, " row"],
    first: Bool[Tensor, " row"],
    order: Int[Tensor, " row"],
    session: Int[Tensor, " row"],
) -> None:
    """Refuse a round that follows the end of its own session."""
    beyond = (ended[:-1] & ~first[1:]).nonzero()
    if len(beyond):
        row = int(order[int(beyond[0])])
        name = "terminated" if log.terminated is not None and bool(log.terminated[row]) else "truncated"
        of = f"session {int(session[row])} of user {int(log.user[row])}"
        raise BadCell(name, row, f"ends {of}, but it goes on: give each trajectory its own session", True)
