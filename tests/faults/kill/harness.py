"""One run of the harness: publish, kill, start again; then send and release everything, and compare."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock, Timer
from typing import NamedTuple

from infra.kafka.broker import Broker
from infra.settings import Settings
from producers.outbox import Mode
from schemas.errors import UnavailableError
from tests.faults.kill.comparison import Tally, compare
from tests.faults.kill.deaths import SIDES, AtMoment, AtPoint, Death, Deaths, OfBroker
from tests.faults.kill.model import DISTRICTS, ORDERED, UNORDERED, Delivery, Model
from tests.faults.kill.points import POINTS, Side
from tests.faults.kill.process import Process, RunError, alive
from tests.faults.kill.worker import DUMP, Answer

HARMED = 5  # attempts at one delivery in which the process may be killed
CALM = 4  # attempts without a kill before the run gives up
IDLE = 8  # rounds without a kill before the run gives up
START, A_KILL = 300.0, 60.0  # seconds that a run may take: to start, and more for each kill
JVM_SECONDS = 120.0
REFUSED = 2  # exit status: refused, nothing was done
# Exit status: all done; done, but rows were rejected or a dataset failed; a service does not answer, accepted rows are kept.
WENT_ON = (0, 1, 3)


class OutboxState(NamedTuple):
    """`accepted`: complete publishes of one dataset. Of all datasets: `waiting` rows; `open`: the end of a transaction is not known."""

    accepted: int = 0
    waiting: int = 0
    open: bool = False


class Harness:
    """One run: kills `kills` processes, then compares. RunError if it cannot continue; every loop has an end."""

    def __init__(self, home: Path, kills: int, seed: int) -> None:
        self.home, self.seed = home, seed
        self.model, self.tally, self.deaths = Model(), Tally(), Deaths(kills, seed)
        self.files: list[Delivery] = []
        self.published = self.rounds = 0
        self.topics = False  # whether a pass of the city has created them
        self.patches: Counter[str] = Counter()
        self.length = {"publish": 1.0, "city": 8.0}  # seconds that a whole run of each takes
        self.started = time.monotonic()
        self.until = self.started + START + A_KILL * kills
        (home / "files").mkdir(parents=True)  # fails if the folder already has a bus
        (home / "offered").mkdir()
        self.broker, self.broker_lock = Broker(Settings(home=home)), Lock()
        self.groups: list[int] = []
        self.ready: dict[Side, list[Process]] = {side: [] for side in SIDES}

    def run(self) -> Tally:
        """The whole run."""
        try:
            self.offer()
            self.ready["city"].append(self.prepare("city"))
            with ThreadPoolExecutor(1) as other:
                idle = 0
                while (killed := self.deaths.kills.total()) < self.deaths.target:
                    self.round(other)
                    idle = 0 if self.deaths.kills.total() > killed else idle + 1
                    if idle == IDLE:
                        raise RunError(f"no process was killed in {IDLE} rounds, although {killed} are too few")
                    if time.monotonic() > self.until:
                        raise RunError(f"{killed} kills took longer than {self.until - self.started:.0f} s")
            return self.settle()
        finally:
            for process in [p for side in SIDES for p in self.ready[side]]:
                process.kill()
            for group in self.groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self.broker.stop()

    def round(self, other: ThreadPoolExecutor) -> None:
        """Publish a file, then run a pass of the city while a district publishes another file."""
        self.rounds += 1
        death = self.deaths.next("city", ("contract", "column"))
        if isinstance(death, AtPoint) and (needs := POINTS[death.point].needs):
            self.change_contract(needs)
        if self.topics:
            self.publish()
        city = other.submit(self.sync, death)
        try:
            self.publish()
        finally:
            city.result()

    def sync(self, death: Death | None) -> None:
        """One pass of the city. The first time, repeat until one pass ends: publishing needs the topics that it creates."""
        answer = self.attempt("city", death, "sync")
        for _ in range(CALM):
            if self.topics or (answer and answer.status != 3):
                self.topics = True
                return
            answer = self.attempt("city", None, "sync")
        raise RunError(f"no pass was through in {CALM} attempts; the last: {answer and answer.reason}")

    def change_contract(self, needs: str) -> None:
        """Offer new contracts: with another text only, or one of them with one more column.

        Done only between two deliveries, so that none is refused half way. From then on files without the column are refused
        (`Model.takes`).
        """
        self.patches.update((ORDERED, UNORDERED))
        if needs == "column":
            narrow = min((ORDERED, UNORDERED), key=lambda name: self.model.columns[name])
            self.model.columns[narrow] += 1
        self.offer()

    def offer(self) -> None:
        """Write the contracts into the folder that the city and the nodes read."""
        for name in (ORDERED, UNORDERED):
            draft = self.home / "offered" / f".{name}"
            draft.write_text(self.model.contract(name, self.patches[name]), "utf-8")
            draft.replace(self.home / "offered" / f"{name}.yaml")

    # --- killing ----------------------------------------------------------------------------------

    def attempt(
        self, side: Side, death: Death | None, *words: str, allowed: Collection[int] = WENT_ON
    ) -> Answer | None:
        """Run a command that is killed as planned; its answer, or None if it was killed. RunError if it ends in another way."""
        self.start_broker()
        process = self.ready[side].pop() if self.ready[side] else self.prepare(side)
        if isinstance(death, AtPoint | AtMoment) and not self.ready[side]:
            self.ready[side].append(self.prepare(side))  # starts while this one works and is killed
        begun = time.monotonic()
        try:
            if isinstance(death, OfBroker):
                answer, hit = self.beside_a_dying_broker(process, words, death)
            else:
                moment = death.part * self.length[side] if isinstance(death, AtMoment) else 0.0
                answer = process.order(words, death, moment)
                hit = answer is None
        except RunError:
            process.kill()
            raise
        seconds = time.monotonic() - begun
        if answer and answer.status in (0, 1) and not isinstance(death, OfBroker):
            self.length[side] = 0.7 * self.length[side] + 0.3 * seconds
        if death:
            self.deaths.done(side, death, hit)
        came = f"status {answer.status}" if answer else "killed"
        came = f"broker killed, {came}" if isinstance(death, OfBroker) and hit else came
        self.say(f"{self.deaths.kills.total():4} {side:8} {words[0]:8} {came}, {seconds:.1f} s, planned: {death}")
        if answer:
            self.ready[side].append(process)  # it is warm, and runs the next command
            return self.check(words, answer, allowed)
        if death and not isinstance(death, OfBroker) and death.group:
            process.kill()
        else:
            self.groups.append(process.group)
        process.close()
        return None

    @staticmethod
    def check(words: Collection[str], answer: Answer | None, allowed: Collection[int]) -> Answer | None:
        """The answer, if its status is one of `allowed`; RunError with its reason if not."""
        if answer is None or answer.status in allowed:
            return answer
        came = "raised an error" if answer.status is None else f"ended with status {answer.status}"
        raise RunError(f"`suibus {' '.join(words)}` {came}:\n{answer.reason}")

    def prepare(self, side: Side) -> Process:
        """Start a process that will run commands."""
        environment = (
            {k: v for k, v in os.environ.items() if not k.startswith("SUIBUS_") or k == "SUIBUS_JARS"}
            | {
                "SUIBUS_HOME": str(self.home),
                "SUIBUS_CONTRACTS": str(self.home / "offered"),
                "SUIBUS_SPARK_MASTER": "local[2]",
                "SUIBUS_SPARK_MEMORY": "1g",
                "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # half the CPU time for a JVM that lives for seconds
            }
        )
        return Process(side, self.home, environment)

    def start_broker(self) -> None:
        """Start the broker unless it runs; the other thread may kill it while it starts."""
        with self.broker_lock:
            for _ in range(CALM):
                try:
                    self.broker.start()
                    return
                except UnavailableError as error:
                    last = error
        raise RunError(f"the broker did not come back in {CALM} attempts; the last: {last.en}")

    def beside_a_dying_broker(
        self, process: Process, words: tuple[str, ...], death: OfBroker
    ) -> tuple[Answer | None, bool]:
        """Run a command while the broker is killed with SIGKILL; returns the answer, and whether the broker ran before."""
        hit = False

        def kill() -> None:
            nonlocal hit
            with suppress(FileNotFoundError, ProcessLookupError):
                if self.broker.running():
                    os.kill(json.loads((self.home / "run" / "broker.json").read_text())["pid"], signal.SIGKILL)
                    hit = True
            if death.back:
                self.start_broker()

        timer = Timer(death.seconds, kill)
        timer.start()
        try:
            answer = process.order(words)
        finally:
            timer.join()
        return answer, hit

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)

    # --- a district -------------------------------------------------------------------------------

    def publish(self) -> None:
        """Publish one file of a district, repeated after each kill until all of it is accepted, then flush.

        A file that the contract does not take must be refused whole. If any other file is refused, the run ends.
        """
        self.published += 1
        dice = random.Random(f"{self.seed} file {self.published}")
        death = self.deaths.next("publish", ("file", "snapshot")) if dice.random() < 0.75 else None
        needs = POINTS[death.point].needs if isinstance(death, AtPoint) else ""
        delivery = self.file(dice, snapshot=needs == "snapshot")
        words = ["publish", delivery.dataset, str(delivery.path), "--district", delivery.district, "--timeout", "8"]
        words += [f"--{delivery.mode}"] if delivery.mode != "append" else []
        before = self.outbox(delivery)
        rejected = int(delivery.rejected > 0)  # the exit status if all is well
        for attempt in range(1, HARMED + CALM + 1):
            answer = self.attempt("publish", death, *words, allowed=(rejected, 3))
            state = self.outbox(delivery)
            if state.accepted > before.accepted:
                break
            prepared = [
                "file",
                *(["snapshot"] if delivery.mode == "snapshot" else []),
                *(["open"] if state.open else []),
            ]
            death = self.deaths.next("publish", prepared) if attempt < HARMED and dice.random() < 0.3 else None
        else:
            said = answer.reason if answer else "killed"
            raise RunError(f"{delivery.path} was not accepted whole in {attempt} attempts; the last:\n{said}")
        if state.accepted > before.accepted + 1:
            raise RunError(f"{delivery.path} was taken for another publish: {before}, then {state}")
        self.model.accept(delivery)
        if state.waiting and dice.random() < 0.6:
            death = self.deaths.next("publish", ["open"] if state.open else [])
            self.attempt("publish", death, "flush", "--district", delivery.district, "--timeout", "8")
        if dice.random() < 0.2:
            self.publish_outdated(dice)

    def publish_outdated(self, dice: random.Random) -> None:
        """Publish a file that lacks a column of the contract, if there is one: it must be refused whole, and the column named."""
        outdated = [file for file in self.files if not self.model.takes(file)]
        if not outdated:
            return
        delivery = dice.choice(outdated)
        before = self.outbox(delivery)
        words = ("publish", delivery.dataset, str(delivery.path), "--district", delivery.district)
        answer = self.attempt("publish", None, *words, allowed=(*WENT_ON, REFUSED))
        after = self.outbox(delivery)
        well = answer and answer.status == REFUSED and "missing extra_" in answer.errors
        note = f"{delivery.path} lacks a column and was not refused for it: {answer}, {before}, {after}"
        self.tally.add("wrong", int(not well or after.accepted != before.accepted), note)

    def file(self, dice: random.Random, snapshot: bool) -> Delivery:
        """A new file, or a file that was published before and that the contract still takes."""
        before = [file for file in self.files if self.model.takes(file)]
        if before and not snapshot and dice.random() < 0.15:
            return dice.choice(before)
        dataset = (ORDERED, UNORDERED)[len(self.files) % 2]  # so that a short run also has both
        district = dice.choice(DISTRICTS)
        modes: tuple[Mode, ...] = ("append", "delete", "snapshot")
        mode = "snapshot" if snapshot else dice.choices(modes, (6, 2, 2))[0]
        made = self.model.make(self.home / "files", len(self.files), dataset, district, mode, dice)
        self.files.append(made)
        return made

    def outbox(self, delivery: Delivery) -> OutboxState:
        """The state of the outbox of a delivery's district; the delivery is accepted once `accepted` has grown."""
        path = self.home / "nodes" / delivery.district / "outbox.sqlite"
        if not path.exists():
            return OutboxState()
        with closing(sqlite3.connect(path, timeout=60)) as outbox, suppress(sqlite3.OperationalError):
            asked = (
                "SELECT (SELECT count(*) FROM deliveries WHERE complete=1 AND dataset LIKE ?), "
                "(SELECT count(*) FROM outbox), (SELECT value FROM meta WHERE name='attempt')"
            )
            accepted, waiting, attempt = outbox.execute(asked, (f"{delivery.dataset}.%",)).fetchone()
            return OutboxState(accepted, waiting, attempt is not None)
        return OutboxState()  # killed before its tables were created

    # --- the end ----------------------------------------------------------------------------------

    def settle(self) -> Tally:
        """Send and release everything without kills, read the lake, compare."""
        for district in DISTRICTS:
            if (self.home / "nodes" / district / "outbox.sqlite").exists():
                answer = self.attempt("publish", None, "flush", "--district", district)
                self.tally.add("wrong", int(not answer or answer.status != 0), f"last flush of {district}: {answer}")
        for _ in range(CALM):
            answer = self.attempt("city", None, "sync")
            if answer and answer.status == 0:
                break
        self.tally.add("wrong", int(not answer or answer.status != 0), f"the last pass: {answer}")
        until = time.monotonic() + JVM_SECONDS
        while (left := [g for g in self.groups if alive(g)]) and time.monotonic() < until:
            time.sleep(0.2)
        self.tally.add("wrong", len(left), f"JVMs that outlived their process by {JVM_SECONDS:.0f} s: {left}")
        dump = self.home / "lake.json"
        self.ready["city"][-1].order((DUMP, str(dump)))
        (self.home / "model.pickle").write_bytes(pickle.dumps(self.model))
        found = compare(self.model, json.loads(dump.read_text("utf-8")))
        for kind in ("lost", "doubled", "wrong"):
            self.tally.add(kind, getattr(found, kind), "; ".join(n for n in found.notes if n.startswith(kind)))
        return self.tally
