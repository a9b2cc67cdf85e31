"""How each process is killed: chosen by the seed, so that every named point is tried, those not yet hit first."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock

from tests.faults.kill.points import POINTS, Side

SHORT = 20  # kills: a shorter run kills at the first call of each point
SIDES: tuple[Side, ...] = ("publish", "city")


@dataclass(frozen=True)
class AtPoint:
    """The process kills itself at the nth call of a point; `delay`: seconds after the call begins, at the latest when it ends."""

    point: str
    nth: int
    delay: float
    group: bool  # together with its JVM


@dataclass(frozen=True)
class AtMoment:
    """The harness kills the process after this part (0 to 1) of the time that a whole run of its side takes."""

    part: float
    group: bool


@dataclass(frozen=True)
class OfBroker:
    """The broker is killed this many seconds after the process began its command; `back`: and started again at once."""

    seconds: float
    back: bool


Death = AtPoint | AtMoment | OfBroker


class Deaths:
    """Plans deaths until `target` processes were killed, and counts where.

    The plan depends only on the seed and on the points that were hit before.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.target, self.seed = target, seed
        self.kills: Counter[str] = Counter()  # by side
        self.where: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()  # by point
        self.tries: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._given = 0
        self._lock = Lock()

    def next(self, side: Side, prepared: Collection[str]) -> Death | None:
        """The next death of a side; None once it has had its share. Points that need anything not in `prepared` are left out.

        Nodes get two of three kills: one takes a second, a kill of the city up to twenty.
        """
        with self._lock:
            share = self.target * 2 // 3 if side == "publish" else self.target
            if self.kills[side] >= share or self.kills.total() + self._given >= self.target:
                return None
            self._given += 1
            self._turns[side] += 1
            turn = self._turns[side]
        dice = random.Random(f"{self.seed} {side} {turn}")
        group = dice.random() < 0.3
        fits = [name for name, p in POINTS.items() if p.side == side and p.needs in ("", *prepared)]
        if turn % 2:
            point = min(fits, key=lambda name: (self.hits[name], self.tries[name]))
            self.tries[point] += 1
            first = self.target < SHORT or not self.hits[point] or dice.random() < 0.6
            # After the begin of an outbox commit, which takes milliseconds, or of a hop of the city, which may take seconds.
            delay = dice.uniform(0, 0.03) if side == "publish" else 1.5 * dice.random() ** 3
            return AtPoint(point, 1 if first else dice.randint(2, 4), delay, group)
        if side == "publish" and turn % 12 == 4:
            return OfBroker(dice.uniform(0, 1), back=dice.random() < 0.5)
        return AtMoment(dice.random(), group)

    def done(self, side: Side, death: Death, hit: bool) -> None:
        """Report a death that was tried; `hit`: whether it happened."""
        with self._lock:
            self._given -= 1
            if not hit:
                return
            self.kills[side] += 1
            if isinstance(death, AtPoint):
                self.hits[death.point] += 1
            where = "the broker, beside a node" if isinstance(death, OfBroker) else "at any moment"
            self.where[f"{side}: {death.point if isinstance(death, AtPoint) else where}"] += 1

    def statement(self) -> list[str]:
        """How often a process was killed at each place, and which points were never hit."""
        lines = [f"{count:4} × {place}" for place, count in sorted(self.where.items())]
        never = [name for name in POINTS if not self.hits[name]]
        lines += [f"   0 × {POINTS[n].side}: {n}, tried {self.tries[n]} times" for n in never if self.tries[n]]
        if untried := sum(not self.tries[name] for name in never):
            lines.append(f"{untried} of {len(POINTS)} points had no turn")
        if not never:
            lines.append(f"each of the {len(POINTS)} points was hit")
        return lines

    def unreachable(self) -> list[str]:
        """The points that were tried three times or more and never hit: their function is probably not called any more."""
        return [name for name in POINTS if not self.hits[name] and self.tries[name] >= 3]
