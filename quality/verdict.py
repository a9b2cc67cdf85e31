"""The record of one judgement, which proves what was checked, by which rules and versions, and what was observed."""

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
    """The result of one rule."""

    rule: str
    severity: Severity
    success: bool
    expectation: str
    parameters: dict[str, Any]  # of the expectation: column, limits, operator and threshold, or its SQL
    observed: Any  # the value compared, or the number of rows or values that failed; None if it could not be judged
    samples: tuple[dict[str, Any], ...]  # rows that fail the rule; empty if it holds
    error: str | None  # why the rule could not be judged
    description: str


@dataclass(frozen=True)
class Verdict:
    """The judgement of a candidate version of a dataset, with the result of each rule."""

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
    carried: tuple[str, ...] = ()  # rules decided by counts that merges carry on; the others were judged on the rows
    counted_at: str = ""  # when the carried counts were last taken from the rows, ISO 8601, UTC; empty: now
    account_version: int = -1  # the version of the account table that was checked with the candidate; -1: none

    @property
    def failures(self) -> tuple[Result, ...]:
        """Every rule that failed, critical ones first."""
        return tuple(sorted((r for r in self.results if not r.success), key=lambda r: _ORDER[r.severity]))

    @cached_property
    def by_rule(self) -> dict[str, Result]:
        """The results by rule name."""
        return {result.rule: result for result in self.results}

    def to_json(self) -> str:
        """The verdict as canonical JSON, with sorted keys and no spaces, on which `sha256` is computed.

        Sample values of types that JSON lacks, such as dates and decimals, are written as text; `from_json` returns that text.
        """
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)

    @staticmethod
    def from_json(text: str) -> Verdict:
        """The verdict that `to_json` wrote, for which `to_json` gives the same text again; StateError if the text is not one."""
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
        """SHA-256 of `to_json`, hexadecimal, by which a release refers to its verdict."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
