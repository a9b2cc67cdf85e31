"""`suibus` as users run it, in processes of its own: from a contract in the folder to a SELECT."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infra.cli import main

CONTRACT = """\
apiVersion: v3.0.2
kind: DataContract
id: urn:gz:parks
name: 公园名录
version: 1.0.0
status: active
schema:
  - name: parks
    businessName: 公园名录
    properties:
      - {name: park_id, logicalType: integer, physicalType: int, primaryKey: true, required: true}
      - {name: name, businessName: 名称, logicalType: string, required: true, logicalTypeOptions: {maxLength: 20}}
      - {name: area, businessName: 面积, logicalType: number, physicalType: "DECIMAL(10,2)"}
      - {name: note, logicalType: string}
      - name: kind
        logicalType: string
        quality:
          - {metric: invalidValues, arguments: {validValues: [综合, 社区, 专类]}, mustBe: 0}
    quality:
      - {metric: rowCount, mustBeGreaterThan: 1}
customProperties:
  - {property: suibus.sharing, value: unconditional}
"""


class Suibus:
    """Runs the command line over one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "contracts").mkdir()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SUIBUS_") or k == "SUIBUS_JARS"}
        self.environment = clean | {
            "SUIBUS_HOME": str(folder / "state"),
            "SUIBUS_CONTRACTS": str(folder / "contracts"),
            "SUIBUS_SPARK_MEMORY": "1g",
        }

    def __call__(self, *words: str, status: int = 0) -> str:
        """Standard output of a command that must end with `status`."""
        done = subprocess.run(
            [Path(sys.executable).with_name("suibus"), *words],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        self.said = done.stderr
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """The one JSON value a command prints."""
        return json.loads(self(*words))

    def here(self, *words: str, status: int = 0) -> str:
        """The same, but run in this process and its Spark: a new process takes 1 s to start, with Spark 15 s."""
        with chdir(self.folder):
            found = CliRunner().invoke(main, words, env=self.environment, catch_exceptions=False)
        self.said = found.stderr
        assert found.exit_code == status, f"{words}: {found.exit_code}\n{found.stdout}\n{found.stderr}"
        return found.stdout

    def json_here(self, *words: str) -> Any:
        """The one JSON value that a command prints, run by `here`."""
        return json.loads(self.here(*words))

    def write(self, name: str, text: str) -> str:
        """Write a file into the folder; returns its name."""
        (self.folder / name).write_text(text, "utf-8")
        return name


@pytest.fixture(scope="module")
def suibus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suibus]:
    """The commands on a state folder with a Chinese name and a space in it; nothing runs yet."""
    program = Suibus(tmp_path_factory.mktemp("总线 一"))
    yield program
    program("down")


def test_rows_published_while_the_bus_is_away_wait_and_are_delivered_once(suibus: Suibus, spark: Any) -> None:
    suibus.write("contracts/parks.yaml", CONTRACT)
    file = suibus.write(
        "parks.csv", "park_id,name,area,note,kind\n1,越秀公园,86.00,NA,综合\n2,流花湖公园,54.43,,综合\n"
    )
    suibus("publish", "parks", file, "--district", "440104", "--timeout", "1", status=3)
    assert "2" in suibus.said
    suibus("up", "--detach", "--services-only")
    suibus("flush", "--district", "440104")
    suibus.here("sync")
    rows = suibus.json_here(
        "query", "SELECT park_id, name, area, note FROM parks ORDER BY 1", "--as", "园林局", "--format", "json"
    )
    assert rows == [
        {"park_id": 1, "name": "越秀公园", "area": 86.0, "note": "NA"},
        {"park_id": 2, "name": "流花湖公园", "area": 54.43, "note": None},
    ]
    suibus("down")


def test_a_running_bus_takes_up_a_new_contract_and_its_rows_can_be_queried(suibus: Suibus, spark: Any) -> None:
    suibus("up", "--detach")
    status = suibus.json("status", "--json")
    assert status["running"]
    assert status["pipeline"]
    assert status["bootstrap_servers"].startswith("127.0.0.1:")
    suibus.write("contracts/lakes.yaml", CONTRACT.replace("parks", "lakes").replace("公园", "湖泊"))
    file = suibus.write(
        "lakes.csv", "park_id,name,area,note,kind\n1,东湖,33.07,,综合\n2,麓湖,21.00,,综合\n3,坏,1.00,,没有\n"
    )
    suibus("publish", "lakes", file, "--district", "440104")
    until = time.monotonic() + 600
    while not any(
        d["dataset"] == "lakes" and d["last_decision"] for d in suibus.json_here("status", "--json")["datasets"]
    ):
        assert time.monotonic() < until, Path(suibus.folder / "state/run/up.log").read_text("utf-8")
        time.sleep(1)
    assert suibus.json_here("query", "SELECT count(*) AS n FROM lakes", "--format", "json") == [{"n": 2}]
    assert suibus("query", "SELECT name FROM lakes ORDER BY park_id", "--format", "csv").splitlines() == [
        "name",
        "东湖",
        "麓湖",
    ]
    (record,) = suibus.json_here("quarantine", "lakes", "--json")
    assert [r["rule"] for r in record["reasons"]] == ["kind_invalidValues"]
    assert record["record"]["name"] == "坏"
    (account,) = suibus.json_here("account", "lakes", "--json")
    assert (account["received"], account["inserted"], account["quarantined"], account["closes"]) == (3, 2, 1, True)
    (release,) = suibus.json_here("releases", "lakes", "--json")
    assert (release["dataset"], release["status"], release["rows"]) == ("lakes", "released", 2)
    suibus("up", status=2)
    assert "already running" in suibus.said
    suibus("down")
    assert suibus.json("status", "--json")["running"] is False


def test_the_bus_starts_again_with_its_state_and_on_the_same_port(suibus: Suibus, spark: Any) -> None:
    before = suibus("down")
    assert "nothing was running" in before
    suibus("up", "--detach", "--services-only")
    first = suibus.json_here("status", "--json")["bootstrap_servers"]
    suibus("down")
    suibus("up", "--detach", "--services-only")
    assert suibus.json_here("status", "--json")["bootstrap_servers"] == first
    assert "nothing new" in suibus("sync")
    assert len(suibus.json_here("releases", "--json")) == 2
    suibus("down")


def test_doctor_finds_this_machine_fit(suibus: Suibus) -> None:
    checks = suibus.json("doctor", "--json")
    assert {c["name"]: c["found"] for c in checks if not c["ok"]} == {}


@pytest.mark.parametrize(
    ("words", "en", "zh"),
    [
        (["publish", "nothing", "parks.csv", "--district", "440104"], "'nothing' is not known", "没有名为"),
        (["publish", "parks", "parks.csv", "--district", "44010"], "44010", "没有编码为"),
        (["publish", "parks", "missing.csv", "--district", "440104"], "no such file", "没有这个文件"),
        (["publish", "parks", "--district", "440104"], "either FILE", "请给出"),
        (["publish", "parks", "parks.csv", "--district", "440104", "--delete", "--snapshot"], "exclude", "不能同时"),
        (["contract", "show", "nothing"], "'nothing' is not known", "没有名为"),
        (["contract", "diff", "contracts/parks.yaml"], "old contract and the new", "旧契约和新契约"),
        (["flush", "--district", "440118"], "has no outbox", "没有 440118 的发件箱"),
        (["sync", "nothing"], "not running", "未在运行"),
    ],
)
def test_a_mistake_is_reported_in_both_languages_and_nothing_is_done(
    suibus: Suibus, words: list[str], en: str, zh: str
) -> None:
    run = suibus if words[0] == "flush" else suibus.here  # the only one that runs as a process
    run(*words, status=3 if words[0] == "sync" else 2)
    assert en in suibus.said
    assert zh in suibus.said
    assert "Traceback" not in suibus.said


def test_contract_commands_check_show_and_grade(suibus: Suibus) -> None:
    assert "parks 1.0.0" in suibus("contract", "check", "contracts/parks.yaml")  # only this one as a process
    wrong = suibus.write("wrong.yaml", CONTRACT.replace("physicalType: int,", "physicalType: intt,"))
    suibus.here("contract", "check", wrong, status=2)
    assert "wrong.yaml:11:" in suibus.said
    avro = suibus.json_here("contract", "show", "parks", "--as", "avro")
    assert [f["name"] for f in avro["fields"]] == ["park_id", "name", "area", "note", "kind"]
    assert "DECIMAL(10,2)" in suibus.here("contract", "show", "parks", "--as", "ddl")
    assert suibus.json_here("contract", "show", "parks", "--as", "suite")["name"] == "parks.v1"
    assert "公园名录" in suibus.here("contract", "show", "parks")
    changed = suibus.write("changed.yaml", CONTRACT.replace("DECIMAL(10,2)", "DECIMAL(10,4)"))
    assert "12.34" in suibus.here("contract", "diff", "contracts/parks.yaml", changed, status=1)
    added = "      - {name: note, logicalType: string}\n      - {name: opened, logicalType: date}\n"
    compatible = suibus.write("added.yaml", CONTRACT.replace("      - {name: note, logicalType: string}\n", added))
    suibus.here("contract", "diff", "contracts/parks.yaml", compatible)
