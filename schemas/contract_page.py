"""A contract as a Markdown page in English and Chinese: its columns, key, sharing class and rules."""

from __future__ import annotations

from typing import Any

from schemas.dataset import Dataset, Field, Rule

_SHARING = {
    "unconditional": "unconditional 无条件共享",
    "conditional": "conditional 有条件共享",
    "none": "none 不予共享",
}


def page(dataset: Dataset) -> str:
    """The Markdown page of a contract; columns and rules in the contract's order."""
    lines = [
        f"# {dataset.title} · {dataset.name} {dataset.version}",
        "",
        dataset.description,
        "",
        f"- key 主键: {', '.join(dataset.key)}",
        f"- sequence 顺序列: {dataset.sequence or 'the record’s Kafka timestamp, Kafka 时间戳'}",
        f"- sharing 共享类型: {_SHARING[dataset.sharing]}",
        f"- freshness 时效: {dataset.freshness if dataset.freshness is not None else '—'}",
        f"- district column 区列: {dataset.district or '—'}",
        f"- topics 主题: {dataset.topic('<district>')}",
        f"- contract 契约: {dataset.path} (sha256 {dataset.hash[:16]})",
        "",
        "| column 列 | 名称 | type 类型 | required 必填 | limits 限制 | description 说明 |",
        "|---|---|---|---|---|---|",
        *(_column(f) for f in dataset.fields),
    ]
    if dataset.rules:
        lines += [
            "",
            "| rule 规则 | column 列 | must 要求 | severity 级别 | description 说明 |",
            "|---|---|---|---|---|",
            *(_rule(r) for r in dataset.rules),
        ]
    return "\n".join(lines)


def _column(field: Field) -> str:
    limits = ", ".join(f"{k} {v}" for k, v in vars(field.limits).items() if v is not None)
    required = "yes 是" if field.required else "no 否"
    return _row(field.name, field.title, field.type_name, required, limits, field.description)


def _rule(rule: Rule) -> str:
    threshold = "" if rule.threshold is None else f"{rule.threshold}{' %' if rule.unit == 'percent' else ''}"
    must = (_measure(rule), rule.operator, threshold)
    return _row(rule.name, rule.column or "—", " ".join(filter(None, must)), rule.severity, rule.description)


def _measure(rule: Rule) -> str:
    """What a rule counts or computes, complete enough to compute it by hand."""
    if rule.expectation:
        kwargs = ", ".join(f"{k} {v}" for k, v in rule.expectation["kwargs"].items())
        return f"{rule.expectation['type']} ({kwargs})"
    if rule.query:
        return f"`{rule.query}`"
    values = ", ".join(f"{k} {_shown(v)}" for k, v in rule.arguments.items())
    return f"{rule.metric} ({values})" if values else str(rule.metric)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "null" if value is None else "''" if value == "" else str(value)


def _row(*cells: str) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
