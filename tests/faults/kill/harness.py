"""Kill anywhere: a bus at work whose processes are killed over and over, held against a model in plain Python.

    make faults [KILLS=200] [SEED=…]

Three districts publish random files into two datasets, and the city takes them through to release: real outboxes,
a real broker, real Spark and Delta. Meanwhile the node's process, the city's (alone, or with its JVM) and the broker
are killed with SIGKILL, at named points and at random moments, and started again. At the end all is brought to rest
and compared with what was accepted. The last line says `kills N lost N doubled N wrong N`; exit status 1 unless
the last three are 0. Ctrl-C ends the killing early and compares; a second one ends it all.

The seed decides what is published and where it is killed; how far a process has come at a random moment is the
machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from infra.kafka.broker import Broker
from schemas.errors import UnavailableError
from tests.faults.model import DISTRICTS, ORDERED, UNORDERED, Delivery, Model, Tally, compare
from tests.faults.worker import POINTS

ROOT = Path(__file__).parents[2]
ANSWER = 500.0  # seconds after which a worker that says nothing counts as hung
KILLED = -signal.SIGKILL


class Worker:
    """One process under test, in a process group of its own (the city's JVM is in it)."""

    ready = False

    def __init__(self, side: str, home: Path) -> None:
        environment = (
            {k: v for k, v in os.environ.items() if not k.startswith("SUIBUS_") or k == "SUIBUS_JARS"}
            | {
                "SUIBUS_HOME": str(home),
                "SUIBUS_CONTRACTS": str(home / "offered"),
                "SUIBUS_SPARK_MASTER": "local[2]",
                "SUIBUS_SPARK_MEMORY": "1g",
                "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # a JVM that lives for seconds: half the work
            }
        )
        with (home / f"{side}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", side],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip

    def order(self, **order: Any) -> dict[str, Any] | None:
        """Give an order and wait for its answer; None if the process was killed.

        With `after` it is killed from here so many seconds after it has begun.
        """
        if not self.ready:
            assert self._answer(ANSWER), "the worker did not start: see its log"
            self.ready = True
        started = time.monotonic()
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        if (after := order.get("after")) is not None:
            found = self._answer(after)
            if found is None:
                self._kill(order["group"])
                return None
            return found
        found = self._answer(ANSWER)
        if found is None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGABRT)
            raise TimeoutError(f"no answer in {time.monotonic() - started:.0f} s to {order}")
        return found

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None if there is none in time or the process has ended."""
        assert self.process.stdout
        if select.select([self.process.stdout], [], [], seconds)[0]:
            if line := self.process.stdout.readline():
                found: dict[str, Any] = json.loads(line)
                return found
            assert self.process.wait(30) == KILLED, f"the worker ended by itself: {self.process.returncode}"
        return None

    def _kill(self, group: bool) -> None:
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """Let it end, with its JVM, whether or not it lives."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()


class Harness:
    """One run: `kills` processes killed, then rest and comparison."""

    def __init__(self, home: Path, kills: int, seed: int) -> None:
        self.home, self.target, self.seed = home, kills, seed
        self.dice = random.Random(seed)
        self.city_dice = random.Random(seed + 1)  # a side has its own dice: two threads draw
        self.model, self.tally = Model(), Tally()
        self.kills = self.reserved = 0
        self.lock, self.broker_lock = Lock(), Lock()
        self.where: Counter[str] = Counter()
        self.by_side: Counter[str] = Counter()
        self.files: list[Delivery] = []
        self.topics = False  # whether a pass of the city has made them
        self.patches: Counter[str] = Counter()
        self.prepared: set[str] = set()  # what the next round offers the city
        self.points = {side: [n for n, p in POINTS.items() if p.side == side] for side in ("publish", "city")}
        self.turn: Counter[str] = Counter()
        self.length = {"publish": 1.0, "city": 8.0}  # seconds that a whole run of each takes
        self.started = time.monotonic()
        (home / "files").mkdir(parents=True)  # fails where a bus is there already
        (home / "offered").mkdir()
        self.broker = Broker(home)
        self.groups: list[int] = []
        self.ready: dict[str, list[Worker]] = {"publish": [], "city": []}

    def run(self) -> Tally:
        """The whole run."""
        try:
            self.offer()
            self.broker.start()
            with ThreadPoolExecutor(1) as other:
                while self.kills < self.target:
                    self.round(other)
            return self.settle()
        finally:
            for worker in [*self.ready["publish"], *self.ready["city"]]:
                worker.end()
            for group in self.groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self.broker.stop()

    def round(self, other: ThreadPoolExecutor) -> None:
        """One pass of the city, while a district publishes a file."""
        plan = self.plan("city", self.city_dice)
        if plan.get("point") and (needs := POINTS[plan["point"]].needs):
            self.change_contract(needs)
        city = other.submit(self.sync, plan)
        self.publish()
        while not city.done() and self.by_side["publish"] < min(self.by_side["city"] + 6, self.target // 2):
            self.publish()
        city.result()

    def sync(self, plan: dict[str, Any]) -> None:
        """One pass of the city; in the beginning, more of them until one is through: without topics no publish ever is."""
        answer = self.attempt("city", plan, "sync")
        while not self.topics and (answer is None or answer["status"] == 3):
            answer = self.attempt("city", {}, "sync")
        self.topics = True

    def change_contract(self, needs: str) -> None:
        """Offer the city a contract whose text, or whose columns, changed."""
        name = self.dice.choice((ORDERED, UNORDERED))
        self.patches[name] += 1
        self.model.columns[name] += needs == "column"
        self.offer()

    def offer(self) -> None:
        """Put the contracts where the city and the nodes look."""
        for name in (ORDERED, UNORDERED):
            draft = self.home / "offered" / f".{name}"
            draft.write_text(self.model.contract(name, self.patches[name]), "utf-8")
            draft.replace(self.home / "offered" / f"{name}.yaml")

    # --- killing ----------------------------------------------------------------------------------

    def plan(self, side: str, dice: random.Random) -> dict[str, Any]:
        """How the next process of a side ends: at a named point, at a random moment, or, now and then, by itself."""
        with self.lock:
            half = side == "publish" and self.by_side[side] >= self.target // 2  # the city's half takes longer
            if half or self.kills + self.reserved >= self.target:
                return {}
            self.reserved += 1
            self.turn[side] += 1
            turn = self.turn[side]
        order: dict[str, Any] = {"group": dice.random() < 0.3, "reserved": True}
        order["delay"] = dice.uniform(
            0, 1.5 if side == "city" else 0.03
        )  # seconds into a commit of a lake, or of an outbox
        if turn % 2:
            points = self.points[side]
            order["point"] = points[turn // 2 % len(points)]
            order["nth"] = 1 if self.target < 20 or dice.random() < 0.6 else dice.randint(2, 4)
        elif side == "publish" and turn % 12 == 4:
            order["broker"] = dice.uniform(0, 1.0)
        else:
            order["after"] = dice.uniform(0, self.length[side])
        return order

    def attempt(self, side: str, order: dict[str, Any], *words: str) -> dict[str, Any] | None:
        """Run a command and kill it as planned; its answer, or None if it was killed."""
        self.start_broker()
        worker = self.ready[side].pop() if self.ready[side] else Worker(side, self.home)
        if order and not self.ready[side]:
            self.ready[side].append(Worker(side, self.home))  # gets ready while this one works and is killed
        begun = time.monotonic()
        broker = order.pop("broker", None)
        with ThreadPoolExecutor(1) as beside:
            other = beside.submit(self.kill_broker, broker) if broker is not None else None
            try:
                answer = worker.order(run=[*words], **order)
            except BaseException:
                worker.end()
                raise
            if other:
                other.result()
        seconds = time.monotonic() - begun
        how = f"{order['point']} ({order['nth']})" if order.get("point") else f"at {order.get('after', 0):.2f} s"
        if broker is not None:
            how = f"broker at {broker:.2f} s"
        elif answer is not None:
            self.length[side] = 0.7 * self.length[side] + 0.3 * seconds
        with self.lock:
            self.reserved -= order.get("reserved", False)
            killed = answer is None or broker is not None
            if killed:
                self.kills += 1
                self.by_side[side] += 1
                self.where[f"{side}: {'broker' if broker is not None else order.get('point') or 'any moment'}"] += 1
            self.say(
                f"{self.kills:4} {side:8} {words[0]:8} "
                + (f"killed {how}{' with its group' if order.get('group') else ''}" if answer is None else
                   f"{'broker killed, ' if broker is not None else ''}status {answer['status']}")
                + f", {seconds:.1f} s"
            )  # fmt: skip
        if answer is not None:
            self.ready[side].append(worker)  # it has run before, and is the next to run
        elif order.get("group"):
            worker.end()
        else:
            self.leave(worker)
        return answer

    def start_broker(self) -> None:
        """Start the broker unless it runs; the other side may kill it while it starts."""
        with self.broker_lock:
            for _ in range(5):
                with suppress(UnavailableError):
                    self.broker.start()
                    return
            raise AssertionError("the broker did not come back")

    def leave(self, worker: Worker) -> None:
        """A killed process' JVM may live a little longer, and go on with what it was doing: a race worth having."""
        self.groups.append(worker.process.pid)
        for pipe in (worker.process.stdin, worker.process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    def kill_broker(self, after: float) -> None:
        """Kill the broker, as a power cut does."""
        time.sleep(after)
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = json.loads((self.home / "run" / "broker.json").read_text())["pid"]
            os.kill(pid, signal.SIGKILL)

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)

    # --- the two sides ----------------------------------------------------------------------------

    def publish(self) -> None:
        """One file of a district, over and over until all of it was accepted, then sent, killed on the way."""
        order = self.plan("publish", self.dice)
        needs = POINTS[order["point"]].needs if order.get("point") else ""
        delivery = self.file(needs)
        before = self.deliveries(delivery)
        words = ["publish", delivery.dataset, str(delivery.path), "--district", delivery.district, "--timeout", "8"]
        words += [f"--{delivery.mode}"] if delivery.mode != "append" else []
        while True:
            self.attempt("publish", order, *words)
            after = self.deliveries(delivery)
            assert after <= before + 1, f"{delivery.path} was taken for another publish: {before} then {after}"
            if after == before + 1:
                break
            order = self.plan("publish", self.dice) if self.dice.random() < 0.6 else {}
        self.model.accept(delivery)
        if self.dice.random() < 0.3:
            order = self.plan("publish", self.dice)
            self.attempt("publish", order, "flush", "--district", delivery.district, "--timeout", "8")

    def file(self, needs: str) -> Delivery:
        """A new file, or one that was published before."""
        before = [file for file in self.files if file.columns == self.model.columns[file.dataset]]
        if before and not needs and self.dice.random() < 0.15:
            return self.dice.choice(before)  # delivered again
        dataset = (ORDERED, UNORDERED)[len(self.files) % 2]  # a short run, too, has both
        district = self.dice.choice(DISTRICTS)
        mode = needs or self.dice.choices(("append", "delete", "snapshot"), (6, 2, 2))[0]
        made = self.model.make(self.home / "files", len(self.files), dataset, district, mode, self.dice)
        self.files.append(made)
        return made

    def deliveries(self, delivery: Delivery) -> int:
        """How many publishes of the dataset the district's outbox has accepted whole: the file's own if it grew."""
        path = self.home / "nodes" / delivery.district / "outbox.sqlite"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path, timeout=60)) as outbox, suppress(sqlite3.OperationalError):
            asked = "SELECT count(*) FROM deliveries WHERE complete=1 AND dataset LIKE ?"
            return int(outbox.execute(asked, (f"{delivery.dataset}.%",)).fetchone()[0])
        return 0  # killed before its tables were made

    # --- the end ----------------------------------------------------------------------------------

    def settle(self) -> Tally:
        """Bring all to rest, read the lake, compare."""
        for district in DISTRICTS:
            if (self.home / "nodes" / district / "outbox.sqlite").exists():
                answer = self.attempt("publish", {}, "flush", "--district", district)
                self.tally.add(
                    "wrong", int(answer is None or answer["status"] != 0), f"last flush of {district}: {answer}"
                )
        for _ in range(3):
            answer = self.attempt("city", {}, "sync")
            if answer and answer["status"] == 0:
                break
        self.tally.add("wrong", int(answer is None or answer["status"] != 0), f"the last pass: {answer}")
        until = time.monotonic() + 120
        while (left := [g for g in self.groups if _alive(g)]) and time.monotonic() < until:
            time.sleep(0.2)
        self.tally.add("wrong", len(left), f"JVMs that outlived their process by 120 s: {left}")
        dump = self.home / "lake.json"
        answer = self.ready["city"][-1].order(dump=str(dump))
        assert answer, "the lake could not be read"
        (self.home / "model.pickle").write_bytes(pickle.dumps(self.model))
        found = compare(self.model, json.loads(dump.read_text("utf-8")))
        for kind in ("lost", "doubled", "wrong"):
            self.tally.add(kind, getattr(found, kind), "; ".join(n for n in found.notes if n.startswith(kind)))
        return self.tally


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Run, print what was found; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--home", type=Path, help="folder for the bus, kept; else a temporary one, kept if anything is off"
    )
    given = parser.parse_args()
    home = given.home or Path(tempfile.mkdtemp(prefix="suibus-faults-")) / "bus"
    print(f"KILLS={given.kills} SEED={given.seed}  {home}", flush=True)
    harness = Harness(home, given.kills, given.seed)

    def enough(*_: object) -> None:
        if not harness.target:
            sys.exit("stopped")
        harness.target = 0

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, enough)
    tally = harness.run()
    events = [e for found in harness.model.events.values() for e in found]
    refused = sum(e.refused for e in events)
    for place, count in sorted(harness.where.items()):
        print(f"{count:4} × {place}")
    print(
        f"{len(events):,} records of {len(harness.files)} files were accepted, {refused} of them break the rule",
        flush=True,
    )
    for note in tally.notes:
        print(note)
    good = not (tally.lost or tally.doubled or tally.wrong)
    if good and not given.home:
        shutil.rmtree(home.parent)
    print(f"kills {harness.kills} lost {tally.lost} doubled {tally.doubled} wrong {tally.wrong}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
