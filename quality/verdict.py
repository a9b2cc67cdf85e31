"""The record of one judgement: enough to prove what was checked, with what, and what was seen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from schemas.dataset import Severity
from schemas.errors import StateError, first_line

_ORDER: dict[Severity, int] = {"critical": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Result:
    """What the gate says of one rule."""

    rule: str
    severity: Severity
    success: bool
    expectation: str
    parameters: dict[str, Any]  # of the expectation: column, limits, operator and threshold, or its SQL
    observed: Any  # a number: the value compared, or how many rows or values failed; None if it could not be judged
    samples: tuple[dict[str, Any], ...]  # rows that fail the rule; none of a rule that holds
    error: str | None  # why the rule could not be judged
    description: str


@dataclass(frozen=True)
class Verdict:
    """A candidate version of a dataset, and the result of each of its rules."""

    dataset: str  # its id, <name>.vN
    contract_version: str
    contract_sha256: str
    suite_sha256: str
    silver_version: int
    rows: int
    passed: bool  # no critical rule failed
    results: tuple[Result, ...]
    judged_at: str  # ISO 8601, UTC
    seconds: float
    versions: dict[str, str]  # of Great Expectations and Spark
    carried: tuple[str, ...] = ()  # rules decided by counts carried on from merge to merge; the others were judged now
    counted_at: str = ""  # when those were last counted in the rows themselves, ISO 8601, UTC; empty: now
    account_version: int = -1  # the version of the account that was found to close

    @property
    def failures(self) -> tuple[Result, ...]:
        """Every rule that failed, critical ones first."""
        return tuple(sorted((r for r in self.results if not r.success), key=lambda r: _ORDER[r.severity]))

    @cached_property
    def by_rule(self) -> dict[str, Result]:
        """The results by the name of their rule."""
        return {result.rule: result for result in self.results}

    def to_json(self) -> str:
        """The verdict as canonical JSON: sorted keys, no spaces; what `sha256` is taken of.

        What JSON lacks (a date or decimal of a sample) is written as text, and `from_json` gives that text.
        """
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)

    @staticmethod
    def from_json(text: str) -> Verdict:
        """The verdict that `to_json` wrote, which writes the same text again; StateError if the text is no verdict."""
        try:
            members = json.loads(text)
            results = tuple(Result(**{**r, "samples": tuple(r["samples"])}) for r in members["results"])
            return Verdict(**{**members, "results": results, "carried": tuple(members["carried"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(
                f"A stored verdict cannot be read ({first_line(error)}): it was not written by this version of Suibus. "
                "Nothing was changed. Upgrade Suibus, or restore the lake from a backup.",
                f"无法读取已存的评判结果（{first_line(error)}）：它不是由此版本的 Suibus 写入的。"
                "未作任何更改。请升级 Suibus，或从备份恢复数据湖。",
            ) from None

    @property
    def sha256(self) -> str:
        """The hash by which a release names its verdict."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
