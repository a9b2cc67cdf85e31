"""The problems of one contract file, each with its line, and the ContractError that lists them."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.errors import ContractError

Pointer = tuple[str | int, ...]  # the keys that lead to a value: ("schema", 0, "properties", 2, "physicalType")


class Problems:
    """The problems found in one file, each with its line. `lines` maps every value of the file to its line."""

    def __init__(self, where: str, lines: Mapping[Pointer, int]) -> None:
        self.where, self.lines = where, lines
        self._problems: list[tuple[int, str, str]] = []

    def line(self, at: Pointer) -> int:
        """The line on which a value begins; for a missing value, the line of the nearest mapping or list that exists."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def add(self, at: Pointer, en: str, zh: str) -> None:
        """Add a problem of the value at a pointer; the text says what was found and what was expected."""
        name = ".".join(str(p) for p in at)
        en_prefix, zh_prefix = (f"{name}: ", f"{name}：") if name else ("", "")
        self._problems.append((self.line(at), en_prefix + en, zh_prefix + zh))

    def raise_if_any(self) -> None:
        """ContractError with every problem, in the order of the file."""
        if self._problems:
            problems = list(dict.fromkeys(sorted(self._problems)))
            raise ContractError(
                "\n".join(f"{self.where}:{line}: {en}" for line, en, _ in problems),
                "\n".join(f"{self.where}:{line}: {zh}" for line, _, zh in problems),
            )
