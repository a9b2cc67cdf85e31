"""A backup is whole or absent, and a restored bus continues with nothing lost or doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import infra.operate.backup
from infra.bus.bus import Bus
from infra.bus.status import read_status
from infra.kafka.broker import Broker
from infra.kafka.detached_process import Process, start_detached
from infra.operate.backup import back_up, restore
from infra.settings import Settings
from infra.up.process import stop
from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from producers.send.sender import flush
from schemas.errors import InputError, StateError
from schemas.ports.files import write_whole
from tests.integration.conftest import Road

TOPIC = "gz.up.440106.t.v1"


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    """A state folder with a file of every kind, of a bus that never ran."""
    found = Bus(Settings(home=tmp_path / "home"))
    home = found.home
    with Outbox(found.outbox("440106")) as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"k", b"v")])
    for name, size in (
        ("lake/silver/t.v1/part-0.parquet", 3_000_000),
        ("kafka/data/t-0/0.log", 70),
        ("contracts/t", 9),
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(os.urandom(size))
    (home / "kafka" / "data" / "t-0" / "0.index").write_bytes(bytes(5_000_000))
    (home / "security").mkdir(mode=0o700)
    write_whole(home / "security" / "authority.pem", "secret", secret=True)
    (home / "spark").mkdir()
    (home / "spark" / "spark.log").write_text("scratch")
    return found


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    """A process that goes on until it is ended."""
    process = start_detached(["sleep", "600"], tmp_path, "sleeper.out", os.environ)
    yield process
    process.end()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def modes(folder: Path) -> dict[str, int]:
    """The file mode of everything below a folder."""
    return {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*")}


def kept(bus: Bus) -> dict[str, bytes]:
    """The files of a state folder that a restore must bring back byte by byte."""
    no = ("spark/", "run/", "nodes/")
    return {name: data for name, data in contents(bus.home).items() if not name.startswith(no)}


def test_a_restore_brings_back_the_state_with_its_file_modes(bus: Bus, tmp_path: Path) -> None:
    before, rights = kept(bus), modes(bus.home)
    info = back_up(bus, tmp_path / "backup")
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700
    shutil.rmtree(bus.home)
    assert restore(bus, tmp_path / "backup") == info
    assert kept(bus) == before
    assert not (bus.home / "spark").exists()
    after = modes(bus.home)
    assert {name: mode for name, mode in after.items() if name in rights} == {
        name: mode for name, mode in rights.items() if name in after
    }
    assert after["security/authority.pem"] == 0o600
    with Outbox(bus.outbox("440106")) as outbox:
        assert [row.value for row in outbox.next_rows(10, 1000)] == [b"v"]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_sparse_files_of_the_broker_stay_sparse_in_a_backup(bus: Bus, tmp_path: Path) -> None:
    back_up(bus, tmp_path / "backup")
    copied = (tmp_path / "backup" / "state" / "kafka" / "data" / "t-0" / "0.index").stat()
    assert (copied.st_size, copied.st_blocks) == (5_000_000, 0)


def test_the_backup_of_an_outbox_holds_no_open_transaction(bus: Bus, tmp_path: Path) -> None:
    with closing(sqlite3.connect(bus.outbox("440106"), isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO outbox (topic, key, value, timestamp_ms) VALUES (1, 'half', 'accepted', 0)")
        back_up(bus, tmp_path / "backup")
    copy = sqlite3.connect(tmp_path / "backup" / "state" / "nodes" / "440106" / "outbox.sqlite")
    assert copy.execute("SELECT key FROM outbox").fetchall() == [(b"k",)]
    copy.close()


@pytest.mark.parametrize(
    "name", ["lake/silver/t.v1/part-0.parquet", "state/security/authority.pem", "manifest.json", "manifest.sha256"]
)
def test_backup_with_one_flipped_byte_is_refused_and_nothing_is_restored(bus: Bus, tmp_path: Path, name: str) -> None:
    back_up(bus, tmp_path / "backup")
    file = tmp_path / "backup" / name
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    shutil.rmtree(bus.home)
    with pytest.raises(StateError, match="damaged"):
        restore(bus, tmp_path / "backup")
    assert not bus.home.exists()


def test_backup_that_lacks_a_file_is_refused(bus: Bus, tmp_path: Path) -> None:
    back_up(bus, tmp_path / "backup")
    (tmp_path / "backup" / "state" / "contracts" / "t").unlink()
    shutil.rmtree(bus.home)
    with pytest.raises(StateError, match="contracts/t is missing"):
        restore(bus, tmp_path / "backup")


def test_backup_of_a_newer_suibus_is_refused(bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(infra.operate.backup, "version", lambda _: "9.0.0")
        back_up(bus, tmp_path / "backup")
    shutil.rmtree(bus.home)
    with pytest.raises(StateError, match=r"made by Suibus 9\.0\.0"):
        restore(bus, tmp_path / "backup")


def test_backup_and_restore_never_overwrite_a_file(bus: Bus, tmp_path: Path) -> None:
    back_up(bus, tmp_path / "backup")
    before = contents(bus.home)
    with pytest.raises(InputError, match="not empty"):
        restore(bus, tmp_path / "backup")
    with pytest.raises(InputError, match="exists"):
        back_up(bus, tmp_path / "backup")
    with pytest.raises(InputError, match="lies inside"):
        back_up(bus, bus.home / "lake" / "backup")
    with pytest.raises(InputError, match="is no backup"):
        restore(Bus(Settings(home=tmp_path / "other")), bus.home)
    (tmp_path / "taken.part").mkdir()
    (tmp_path / "taken.part" / "mine").touch()
    with pytest.raises(StateError, match="move it away"):
        back_up(bus, tmp_path / "taken")
    assert (tmp_path / "taken.part" / "mine").exists()
    assert contents(bus.home) == before


def test_a_running_bus_can_be_backed_up_only_without_its_broker(bus: Bus, tmp_path: Path) -> None:
    with bus.only_one("up"):
        with pytest.raises(StateError, match="--without-broker"):
            back_up(bus, tmp_path / "whole")
        info = back_up(bus, tmp_path / "backup", without_broker=True)
    assert "resume" in info.left_out[0][0]
    assert not (tmp_path / "whole").exists()
    assert not (tmp_path / "backup" / "state" / "kafka").exists()
    assert (tmp_path / "backup" / "lake" / "silver" / "t.v1" / "part-0.parquet").exists()


@pytest.mark.parametrize("words", [["backup"], ["restore", "--lake-only"]], ids=" ".join)
def test_backup_and_restore_at_work_are_no_running_bus_and_down_does_not_end_them(
    bus: Bus, tmp_path: Path, words: list[str]
) -> None:
    target = tmp_path / "backup"
    if words[0] == "restore":
        back_up(bus, target)
        shutil.rmtree(bus.home / "lake")
    at_work = "A backup of this bus is at work" if words[0] == "backup" else "A restore of this bus's lake is at work"
    with bus.state.pass_lease.hold():  # for which it waits
        working = start_program(bus, *words, str(target))
        try:
            assert working.stdout
            assert any("a pass is under way" in line for line in working.stdout)
            assert not read_status(bus).running
            for other in ["down"], ["up"], ["up", "--detach"], ["backup", str(tmp_path / "second")]:
                refused = program(bus, *other)
                assert refused.returncode == 2
                assert f"{at_work} (process {working.pid}," in refused.stderr
            assert working.poll() is None
        except BaseException:
            working.kill()
            raise
    assert working.wait(60) == 0
    assert (target / "manifest.json").is_file()
    assert (bus.home / "lake" / "silver").is_dir()


def test_restored_bus_does_not_take_the_process_of_the_broker_it_was_copied_from(
    bus: Bus, tmp_path: Path, sleeper: Process
) -> None:
    """The process stands for the broker of the bus: what tells it apart is in run/broker.json."""
    bus.broker.access_when_up  # noqa: B018 the ports are chosen
    state = json.loads(bus.broker.state_file.read_text("utf-8"))
    process = {"pid": sleeper.pid, "born": sleeper.born, "home": str(bus.home.resolve())}
    bus.broker.state_file.write_text(json.dumps(state | process), "utf-8")
    assert bus.broker.running()
    back_up(bus, tmp_path / "backup", without_broker=True)
    kept = json.loads((tmp_path / "backup" / "state" / "run" / "broker.json").read_text("utf-8"))
    assert kept == state, "the ports, which nodes' files name, and no process"
    restored = Bus(Settings(home=tmp_path / "other"))
    restore(restored, tmp_path / "backup")
    shutil.copytree(bus.home, tmp_path / "copied")
    for other in restored, Bus(Settings(home=tmp_path / "copied")):
        assert not other.broker.running()
        assert not stop(other)
    assert sleeper.alive
    assert stop(bus)
    assert not sleeper.alive


KILLED = """
import os, shutil, signal, sys
from infra.cli import main
end_copy, left = shutil.copystat, [int(sys.argv.pop(1))]
def die(*paths):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    end_copy(*paths)
shutil.copystat = die
main()
"""


@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_backup_leaves_no_backup_and_the_next_run_makes_one(bus: Bus, tmp_path: Path, after: int) -> None:
    target = tmp_path / "backup"
    killed = program(bus, str(after), "backup", str(target), code=KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not target.exists()
    assert (tmp_path / "backup.part").exists()
    done = program(bus, "backup", str(target))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "backup.part").exists()
    restore(Bus(Settings(home=tmp_path / "other")), target)


@pytest.mark.parametrize("apart", [False, True])
def test_killed_restore_leaves_no_state_folder_and_can_be_run_again(bus: Bus, tmp_path: Path, apart: bool) -> None:
    before = kept(bus)
    back_up(bus, tmp_path / "backup")
    lake = tmp_path / "lake" if apart else None
    other = Bus(Settings(home=tmp_path / "other", lake=str(lake) if lake else None))
    for after in (1, 3):
        killed = program(other, str(after), "restore", str(tmp_path / "backup"), code=KILLED)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not other.home.exists()
    done = program(other, "restore", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    inside = {name: data for name, data in before.items() if not (apart and name.startswith("lake/"))}
    assert kept(other) == inside
    if lake:
        assert contents(lake) == contents(bus.home / "lake")


def test_a_refusal_is_a_sentence_with_exit_status_2_and_one_json_line_when_the_log_is_json(bus: Bus) -> None:
    refused = program(bus, "restore", str(bus.home))
    assert refused.returncode == 2
    assert "is no backup" in refused.stderr
    refused = program(bus, "restore", str(bus.home), SUIBUS_LOG_FORMAT="json")
    assert refused.returncode == 2
    line = json.loads(refused.stderr)
    assert line["level"] == "ERROR"
    assert "is no backup" in line["event"]


def start_program(bus: Bus, *words: str, code: str | None = None, **settings: str) -> subprocess.Popen[str]:
    """Start the command line on a bus's state folder."""
    lake = {"SUIBUS_LAKE": bus.settings.lake} if bus.settings.lake else {}
    run = ["-c", code] if code else ["-m", "infra.cli"]
    return subprocess.Popen(
        [sys.executable, *run, *words], env=os.environ | lake | {"SUIBUS_HOME": str(bus.home)} | settings,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def program(bus: Bus, *words: str, code: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command line over a bus's state folder, run to its end."""
    with start_program(bus, *words, code=code, **settings) as process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def arrived(road: Road) -> list[tuple[str, int, int]]:
    """Every record in bronze, by topic, partition and offset."""
    rows = road.lake.bronze(road.dataset).read().select("_topic", "_partition", "_offset").collect()
    return sorted(tuple(row) for row in rows)


def test_a_bus_restored_after_its_state_was_destroyed_continues_with_nothing_lost_or_doubled(
    tmp_path: Path, spark: Any, names: Callable[[], str]
) -> None:
    settings = Settings(home=tmp_path / "home")
    Broker(settings).start()
    try:
        road = Road(Bus(settings), names())
        road.publish({"id": "a", "seq": 1}, {"id": "b", "seq": 1})
        road.publish({"id": "c", "seq": 1}, district="440103")
        road.sync()
        road.publish({"id": "a", "seq": 2, "amount": 5})  # on the topic, not in the lake
        road.accept({"id": "d", "seq": 1})  # in the outbox, not on the topic
        with pytest.raises(StateError, match="suibus down"):
            back_up(road.bus, tmp_path / "backup")
        road.bus.broker.stop()
        back_up(road.bus, tmp_path / "backup")
        shutil.rmtree(settings.home)
        restore(Bus(settings), tmp_path / "backup")
        road.forget()

        road.bus = Bus(settings)
        road.bus.broker.start()
        assert road.query("SELECT count(*) AS n FROM t") == [{"n": 3}]  # the release from before the backup
        assert road.bus.flush_outboxes() == 1
        road.publish({"id": "e", "seq": 1})
        road.sync()
        assert [(row[0], row[2], row[4]) for row in road.silver()] == [
            ("a", 2, 5), ("b", 1, 0), ("c", 1, 0), ("d", 1, 0), ("e", 1, 0),
        ]  # fmt: skip
        places = arrived(road)
        assert len(places) == len(set(places)) == 6
        account = road.account()
        assert sum(row["received"] for row in account.values()) == 6
        assert sum(row["duplicate"] + row["superseded"] + row["unchanged"] for row in account.values()) == 0
        assert road.query("SELECT count(*) AS n FROM t") == [{"n": 5}]
    finally:
        Broker(settings).stop()


def test_a_lake_from_an_old_backup_ingests_later_records_again_and_an_old_outbox_loses_nothing(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_back(backup: str) -> None:
        outbox = road.bus.outbox("440106")
        shutil.rmtree(outbox.parent)
        shutil.copytree(tmp_path / backup / "state" / "nodes" / "440106", outbox.parent)
        flush(outbox, road.bus.access.servers)
        road.sync()

    road.publish({"id": "a", "seq": 1}, {"id": "b", "seq": 1})
    with monkeypatch.context() as cut:  # sent, but the outbox does not know it
        cut.setattr(Outbox, "sent", lambda *_: (_ for _ in ()).throw(RuntimeError))
        with pytest.raises(RuntimeError):
            road.publish({"id": "c", "seq": 1})
    back_up(road.bus, tmp_path / "unsettled")
    put_back("unsettled")  # Kafka has the transaction name that is in this backup: its row is not sent again
    assert len(arrived(road)) == 3

    road.accept({"id": "d", "seq": 1})
    back_up(road.bus, tmp_path / "backup")
    road.bus.flush_outboxes()
    road.publish({"id": "a", "seq": 2, "amount": 7}, {"id": "e", "seq": 1}, delete=[{"id": "b", "seq": 2}])
    road.sync()
    silver, places = road.silver(), arrived(road)

    shutil.rmtree(road.bus.home / "lake")
    restore(road.bus, tmp_path / "backup", lake_only=True)
    road.forget()
    road.bus = Bus(road.bus.settings)
    road.sync()
    assert road.silver() == silver
    assert arrived(road) == places
    assert road.account()["440106"]["received"] == len(places) == 7

    put_back("backup")  # it does not know that its row was sent since: the row is sent again, and changes nothing
    assert len(arrived(road)) == len(places) + 1
    assert road.account()["440106"]["unchanged"] == 1
    assert [row[:3] for row in road.silver()] == [row[:3] for row in silver]
