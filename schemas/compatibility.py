"""The differences between two versions of a contract, and which of them break something.

A change is breaking if a node, job or department that works with the old version could fail with the new one. A `wire`
change is one after which records cannot be read or rows cannot be merged; Suibus refuses it within a major version.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.dataset import Dataset, Field, Rule


@dataclass(frozen=True)
class Change:
    """One difference between two versions of a contract."""

    breaking: bool
    wire: bool  # records could not be read or merged: refused within a major version
    where: str
    en: str
    zh: str


def compare(old: Dataset, new: Dataset) -> list[Change]:
    """Every change from `old` to `new` that can affect a node, a job or a department, breaking ones first."""
    changes = [
        *_identity(old, new),
        *_fields(old.fields, new.fields, ""),
        *_rules(old, new),
    ]
    return sorted(changes, key=lambda c: (not c.breaking, c.where))


def _wire(where: str, en: str, zh: str) -> Change:
    return Change(True, True, where, en, zh)


def _not_wire(breaking: bool, where: str, en: str, zh: str) -> Change:
    return Change(breaking, False, where, en, zh)


def _identity(old: Dataset, new: Dataset) -> Iterator[Change]:
    if old.name != new.name:
        yield _wire(
            "name", f"the dataset is called {new.name}, was {old.name}", f"数据集名由 {old.name} 改为 {new.name}"
        )
    for name, zh in (("key", "主键"), ("sequence", "顺序列"), ("district", "区列")):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield _wire(
                name,
                f"the {name} is {after}, was {before}: rows already merged would be identified or ordered differently",
                f"{zh}由 {before} 改为 {after}：已合并的行将无法一致识别或排序",
            )
    if old.sharing != new.sharing:
        narrower = ("unconditional", "conditional", "none")
        who = (
            ("departments that read it today would lose it", "现有部门将无法读取")
            if narrower.index(new.sharing) > narrower.index(old.sharing)
            else (
                "the districts published their rows under a narrower sharing class",
                "各区是按更严格的共享类型提供数据的",
            )
        )
        yield _not_wire(
            True,
            "sharing",
            f"the sharing class is {new.sharing}, was {old.sharing}: {who[0]}",
            f"共享类型由 {old.sharing} 改为 {new.sharing}：{who[1]}",
        )
    if old.freshness != new.freshness:
        yield _not_wire(
            False,
            "freshness",
            f"freshness is {new.freshness}, was {old.freshness}",
            f"时效由 {old.freshness} 改为 {new.freshness}",
        )


def _fields(old: tuple[Field, ...], new: tuple[Field, ...], prefix: str) -> Iterator[Change]:
    before, after = {f.name: f for f in old}, {f.name: f for f in new}
    for name, field in before.items():
        if name not in after:
            yield _wire(
                prefix + name,
                f"field {prefix}{name} was removed: queries and nodes that name it would fail",
                f"删除了字段 {prefix}{name}：引用它的查询和节点将失败",
            )
        else:
            yield from _field(field, after[name], prefix + name)
    for name, field in after.items():
        if name in before:
            continue
        if field.required:
            yield _wire(
                prefix + name,
                f"field {prefix}{name} was added without a default, so records of nodes still on the old version could "
                "not be read. Make it optional, which defaults to null",
                f"新增字段 {prefix}{name} 没有默认值，仍使用旧版本的节点的记录将无法读取。请改为可选（默认空值）",
            )
        else:
            yield _not_wire(
                False, prefix + name, f"optional field {prefix}{name} was added", f"新增可选字段 {prefix}{name}"
            )


def _field(old: Field, new: Field, where: str) -> Iterator[Change]:
    if old.kind == new.kind == "decimal" and (old.scale, old.precision) != (new.scale, new.precision):
        why, why_zh = "Avro resolves decimals of one precision only", "Avro 只能互读精度相同的小数"
        if old.scale != new.scale:
            misread = f"{12.34 * 10 ** (old.scale - new.scale):g}"
            why, why_zh = f"a value written as 12.34 would be read as {misread}", f"写入的 12.34 会读成 {misread}"
        yield _wire(
            where,
            f"{where} is {new.type_name}, was {old.type_name}: {why}",
            f"{where} 由 {old.type_name} 改为 {new.type_name}：{why_zh}",
        )
    elif old.kind != new.kind:
        yield _wire(
            where,
            f"{where} is {new.type_name}, was {old.type_name}: one side could not read the other's records",
            f"{where} 由 {old.type_name} 改为 {new.type_name}：新旧双方无法互读记录",
        )
    elif old.kind == "array" and old.item and new.item:
        yield from _field(old.item, new.item, f"{where}[]")
    elif old.kind == "record":
        yield from _fields(old.fields, new.fields, f"{where}.")
    if old.required != new.required:
        yield _wire(
            where,
            f"{where} became {'required: nulls already sent' if new.required else 'optional: nulls still to come'} could "
            "not be read by the other version",
            f"{where} 改为{'必填：已发送的空值' if new.required else '可选：将来的空值'}无法被另一版本读取",
        )
    yield from _limits(old, new, where)


def _limits(old: Field, new: Field, where: str) -> Iterator[Change]:
    old_limits, new_limits = old.limits, new.limits
    for name, sign in (
        ("minimum", 1), ("exclusive_minimum", 1), ("min_length", 1),
        ("maximum", -1), ("exclusive_maximum", -1), ("max_length", -1),
    ):  # fmt: skip
        before, after = getattr(old_limits, name), getattr(new_limits, name)
        if before == after or old.kind != new.kind:
            continue
        tighter = after is not None and (before is None or (after > before if sign > 0 else after < before))
        yield _not_wire(
            tighter,
            where,
            f"{name} of {where} is {after}, was {before}: {'rows that pass today would be refused' if tighter else 'looser'}",
            f"{where} 的 {name} 由 {before} 改为 {after}：{'现在合格的行将被拒绝' if tighter else '放宽'}",
        )
    for name in ("pattern", "multiple_of"):
        before, after = getattr(old_limits, name), getattr(new_limits, name)
        if before != after and old.kind == new.kind:
            looser = after is None or (name == "multiple_of" and before is not None and before % after == 0)
            yield _not_wire(
                not looser,
                where,
                f"{name} of {where} is {after}, was {before}",
                f"{where} 的 {name} 由 {before} 改为 {after}",
            )


def _rules(old: Dataset, new: Dataset) -> Iterator[Change]:
    before, after = {r.name: r for r in old.rules}, {r.name: r for r in new.rules}
    for name in before.keys() - after.keys():
        yield _not_wire(
            False,
            f"rule {name}",
            f"rule {name} was removed: a weaker quality guarantee for departments",
            f"删除了规则 {name}：对部门的质量保证减弱",
        )
    for name in after.keys() - before.keys():
        breaking = after[name].severity == "critical"
        yield _not_wire(
            breaking,
            f"rule {name}",
            f"rule {name} was added"
            + (": rows or releases that pass today would be refused" if breaking else f", as {after[name].severity}"),
            f"新增规则 {name}" + ("：现在合格的行或版本将被拒绝" if breaking else f"（{after[name].severity}）"),
        )
    for name in before.keys() & after.keys():
        yield from _rule(before[name], after[name])


def _rule(old: Rule, new: Rule) -> Iterator[Change]:
    where = f"rule {new.name}"
    if old.severity != "critical" == new.severity:
        tighter, en, zh = True, f"is critical, was {old.severity}", f"严重程度由 {old.severity} 改为 critical"
    elif _measure(old) != _measure(new):
        tighter, en = True, "measures something else: data that passes today may be refused"
        zh = "度量内容改变：现在合格的数据可能被拒绝"
    elif (loosened := _accepts_more(old, new)) is not None:
        tighter = not loosened
        en = "accepts more" if loosened else "accepts less: data that passes today would be refused"
        zh = "放宽" if loosened else "收紧：现在合格的数据将被拒绝"
    elif old.severity != new.severity:
        tighter = False
        en, zh = f"is {new.severity}, was {old.severity}", f"严重程度由 {old.severity} 改为 {new.severity}"
    else:
        return
    yield _not_wire(tighter and new.severity == "critical", where, f"{where} {en}", f"规则 {new.name} {zh}")


def _measure(rule: Rule) -> tuple[Any, ...]:
    """What the rule measures, without the values and numbers that it accepts."""
    arguments = {k: v for k, v in rule.arguments.items() if k != "validValues"}
    return (rule.type, rule.column, rule.metric, repr(arguments), rule.unit, rule.query, repr(rule.expectation))


def _accepts_more(old: Rule, new: Rule) -> bool | None:
    """True if the new rule accepts all that the old one does, and more; None if both accept the same; else False."""
    old_values, new_values = old.arguments.get("validValues") or [], new.arguments.get("validValues") or []
    same_values = sorted(map(repr, old_values)) == sorted(map(repr, new_values))
    same_range = (old.operator, old.threshold) == (new.operator, new.threshold)
    if same_values and same_range:
        return None
    wider_values = all(v in new_values for v in old_values)
    a, b = _interval(old), _interval(new)
    wider_range = same_range or (a is not None and b is not None and b[0] <= a[0] and a[1] <= b[1])
    return wider_values and wider_range


def _interval(rule: Rule) -> tuple[float, float] | None:
    """The accepted numbers as a closed interval, an open end moved to the next float; None if they form no interval."""
    t = rule.threshold
    match rule.operator:
        case "mustBe":
            return (t, t)
        case "mustBeGreaterThan":
            return (math.nextafter(t, math.inf), math.inf)
        case "mustBeGreaterOrEqualTo":
            return (t, math.inf)
        case "mustBeLessThan":
            return (-math.inf, math.nextafter(t, -math.inf))
        case "mustBeLessOrEqualTo":
            return (-math.inf, t)
        case "mustBeBetween":
            return (t[0], t[1])
    return None
