"""Made-up rows like those of a city's registers, of any width: a contract's text, its dataset, and rows, the same in every run.

The first columns are the key, the district, the sequence (a number that grows), and kinds that every register has; wider
datasets repeat these in groups. Every third column beyond the first twelve is nullable and empty in one row of ten.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from schemas.contract import parse_contract
from schemas.dataset import Dataset

_HEAD = """\
apiVersion: v3.1.0
kind: DataContract
id: bench.{name}
name: 基准测试 {name}
version: 1.0.0
status: active
description: {{purpose: Rows that a benchmark makes up.}}
schema:
  - name: {name}
    businessName: 基准测试 {name}
    properties:
"""
_TAIL = """\
    quality:
      - {name: some_rows, metric: rowCount, mustBeGreaterThan: 0}
customProperties:
  - {property: suibus.sharing, value: unconditional}
  - {property: suibus.sequence, value: seq}
  - {property: suibus.district, value: district_code}
"""
_TEXT = "logicalType: string"
# Name, type in the contract, kind of the values: first the columns of every row, then the group that is repeated.
_FIRST = (
    ("id", "logicalType: string, primaryKey: true, required: true", "id"),
    ("district_code", "logicalType: string, required: true", "district"),
    ("seq", "logicalType: integer, required: true", "seq"),
    ("name", f"{_TEXT}, required: true", "name"),
    ("capital", 'logicalType: number, physicalType: "decimal(18,2)"', "money"),
    ("registered_on", "logicalType: date, required: true", "day"),
)
_GROUP = (
    ("address", _TEXT, "address"),
    ("status", f"{_TEXT}, required: true", "status"),
    ("staff", "logicalType: integer, physicalType: int", "count"),
    ("changed_at", "logicalType: timestamp, required: true", "moment"),
    ("industry_code", _TEXT, "code"),
    ("licence", f"{_TEXT}, required: true", "licence"),
    ("contact", _TEXT, "person"),
    ("active", "logicalType: boolean, required: true", "flag"),
    ("amount", 'logicalType: number, physicalType: "decimal(18,2)"', "money"),
    ("area", "logicalType: number", "double"),
    ("expires_on", "logicalType: date", "day"),
    ("visits", "logicalType: integer, required: true", "long"),
    ("remark", _TEXT, "remark"),
)
_STREETS = ("体育西路", "天河北路", "中山大道西", "黄埔大道", "龙口东路", "珠江新城华夏路")
_NAMES = ("穗丰", "粤海", "云山", "珠水", "五羊", "南粤", "荔湾", "琶洲")
_TRADES = ("贸易有限公司", "科技有限公司", "餐饮管理有限公司", "物流股份有限公司")
_PEOPLE = ("陈志强", "李文静", "黄晓明", "欧阳丽华", "张伟")
_STATES = ("存续", "注销", "吊销", "迁出")
_REMARKS = ("", "年报已公示", "Moved from another district, see file 2024-118", "地址待核实，已通知企业补正")
_DAY, _MOMENT = date(2000, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)


def _columns(count: int) -> list[tuple[str, str, str, bool]]:
    """The first `count` columns: name, type, kind of the values, whether some are empty."""
    listed = [(name, kind, made, False) for name, kind, made in _FIRST[:count]]
    while len(listed) < count:
        place = len(listed) - len(_FIRST)
        name, kind, made = _GROUP[place % len(_GROUP)]
        turn = place // len(_GROUP)
        listed.append((f"{name}_{turn}" if turn else name, kind, made, "required" not in kind and place % 3 == 0))
    return listed


def contract_text(name: str, columns: int) -> str:
    """The contract of a dataset with `columns` columns, six or more."""
    properties = [f"      - {{name: {column}, {kind}}}\n" for column, kind, *_ in _columns(columns)]
    return _HEAD.format(name=name) + "".join(properties) + _TAIL


def contract(name: str, columns: int) -> Dataset:
    """The same, parsed."""
    return parse_contract(contract_text(name, columns), f"{name}.yaml")


def rows(dataset: Dataset, n: int, district: str, seed: int, first: int = 0) -> list[dict[str, Any]]:
    """`n` typed rows whose key and sequence count from `first`; the same for the same arguments."""
    dice = random.Random(f"{seed} {district} {first}")
    columns = [(name, _MAKERS[made], empty) for name, _, made, empty in _columns(len(dataset.fields))]
    fixed: dict[str, Callable[[int], Any]] = {
        "id": lambda i: f"{district}-{i:010d}", "district_code": lambda _: district, "seq": lambda i: i + 1,
    }  # fmt: skip
    made = []
    for i in range(first, first + n):
        row = {}
        for name, make, empty in columns:
            if name in fixed:
                row[name] = fixed[name](i)
            else:
                row[name] = None if empty and dice.random() < 0.1 else make(dice.random)
        made.append(row)
    return made


def _pick(words: tuple[str, ...], chance: float) -> str:
    return words[int(chance * len(words))]


_MAKERS: dict[str, Callable[[Callable[[], float]], Any]] = {
    "id": lambda _: None, "district": lambda _: None, "seq": lambda _: None,
    "name": lambda r: f"广州{_pick(_NAMES, r())}{_pick(_TRADES, r())}第{int(r() * 900) + 100}分公司",
    "address": lambda r: f"广州市天河区{_pick(_STREETS, r())}{int(r() * 900) + 1}号{int(r() * 30) + 1}楼",
    "status": lambda r: _pick(_STATES, r()),
    "count": lambda r: int(r() * 500),
    "moment": lambda r: _MOMENT + timedelta(microseconds=int(r() * 6e13)),
    "code": lambda r: f"{int(r() * 9000) + 1000}",
    "licence": lambda r: f"9144{int(r() * 1e14):014d}",
    "person": lambda r: _pick(_PEOPLE, r()),
    "flag": lambda r: r() < 0.9,
    "money": lambda r: Decimal(int(r() * 1e9)).scaleb(-2),
    "double": lambda r: round(r() * 1e4, 1),
    "day": lambda r: _DAY + timedelta(days=int(r() * 9000)),
    "long": lambda r: int(r() * 1e7),
    "remark": lambda r: _pick(_REMARKS, r()),
}  # fmt: skip


def sql_values(dataset: Dataset) -> dict[str, str]:
    """For each column the Spark SQL that makes its value, of the same kind as in `rows`, to make millions of rows.

    It uses the columns `n` (the number in the key), `seq` and `district`. The same numbers give the same values; keys are in the order of `n`.
    """
    fixed = {"id": "concat('k', lpad(string(n), 10, '0'))", "district_code": "district", "seq": "seq"}
    found = {}
    for place, (name, _, made, empty) in enumerate(_columns(len(dataset.fields))):
        value = re.sub(r"R(\d)", lambda m, p=place: _draw(p * 10 + int(m[1])), _SQL.get(made, "NULL"))  # type: ignore[misc]
        value = f"CASE WHEN {_draw(place * 10)} < 0.1 THEN NULL ELSE {value} END" if empty else value
        found[name] = fixed.get(name, value)
    return found


def _draw(salt: int) -> str:
    return f"(pmod(xxhash64(n, seq, {salt}), {2**53}) / {2**53}D)"


def _pick_sql(words: tuple[str, ...], draw: str) -> str:
    return f"element_at(array({', '.join(repr(w) for w in words)}), int({draw} * {len(words)}) + 1)"


_SQL = {  # R1, R2, R3: independent numbers from 0 to 1
    "name": f"concat('广州', {_pick_sql(_NAMES, 'R1')}, {_pick_sql(_TRADES, 'R2')}, '第', int(R3 * 900) + 100, '分公司')",
    "address": f"concat('广州市天河区', {_pick_sql(_STREETS, 'R1')}, int(R2 * 900) + 1, '号', int(R3 * 30) + 1, '楼')",
    "status": _pick_sql(_STATES, "R1"),
    "count": "int(R1 * 500)",
    "moment": f"timestamp_micros({int(_MOMENT.timestamp())}000000 + bigint(R1 * 6e13))",
    "code": "string(int(R1 * 9000) + 1000)",
    "licence": "concat('9144', lpad(string(bigint(R1 * 1e14)), 14, '0'))",
    "person": _pick_sql(_PEOPLE, "R1"),
    "flag": "R1 < 0.9",
    "money": "cast(bigint(R1 * 1e9) / 100 AS decimal(18,2))",
    "double": "round(R1 * 1e4, 1)",
    "day": "date_add(DATE'2000-01-01', int(R1 * 9000))",
    "long": "bigint(R1 * 1e7)",
    "remark": _pick_sql(_REMARKS, "R1"),
}
