"""Rename the keys of a contract of the standard's v3.0 to those of v3.2."""

from __future__ import annotations

from typing import Any

_V30_RULES = {"nullCheck": "nullValues", "duplicateCount": "duplicateValues", "validValues": "invalidValues"}


def read_as_v32(document: dict[str, Any]) -> None:
    """Rename the keys of v3.0 that v3.2 names differently. Everything else is left for the JSON Schema to check.

    https://github.com/bitol-io/open-data-contract-standard, docs of v3.0.2 and the change log of v3.1.0.
    """
    for member in _mappings(document.get("team")):
        if "comment" in member and "description" not in member:
            member["description"] = member.pop("comment")
    for schema in _mappings(document.get("schema")):
        for holder in (schema, *_mappings(schema.get("properties"))):
            for entry in _mappings(holder.get("quality")):
                _read_rule_as_v32(entry)


def _read_rule_as_v32(entry: dict[str, Any]) -> None:
    """`rule:` becomes `metric:`; nullCheck and validValues, which had no operator, become ``mustBe: 0``."""
    rule = entry.get("rule")
    if not isinstance(rule, str) or "metric" in entry:
        return
    entry["metric"] = _V30_RULES.get(rule, rule)
    del entry["rule"]
    if rule == "validValues" and "validValues" in entry:
        entry["arguments"] = {"validValues": entry.pop("validValues")}
    if rule in ("nullCheck", "validValues") and not any(name.startswith("must") for name in entry):
        entry["mustBe"] = 0


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
