"""The kill harness (tests/faults/kill) without broker and Spark: how it chooses kills, and that every run ends."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from producers.outbox import Mode
from producers.sources.files import open_source
from schemas.contract import parse_contract
from schemas.errors import InputError
from tests.faults.kill.__main__ import main
from tests.faults.kill.deaths import Death, Deaths
from tests.faults.kill.harness import WENT_ON, Harness
from tests.faults.kill.model import ORDERED, Delivery, Model
from tests.faults.kill.points import POINTS, Side
from tests.faults.kill.process import RunError
from tests.faults.kill.worker import Answer

PREPARED: dict[Side, tuple[str, ...]] = {"publish": ("file", "snapshot", "open"), "city": ("contract", "column")}


def test_a_run_does_not_start_when_a_module_that_it_preloads_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.faults.kill.points.PRELOADED", ("infra.gone",))
    monkeypatch.setattr(sys, "argv", ["kill", "--home", str(tmp_path / "bus")])
    assert main() == 2
    assert "infra.gone is gone" in capsys.readouterr().out
    assert not (tmp_path / "bus").exists()


def test_a_run_of_200_kills_hits_every_point_when_three_in_ten_kills_miss() -> None:
    deaths, dice = Deaths(200, seed=1), random.Random(1)
    for _ in range(300):
        for side, prepared in PREPARED.items():
            if death := deaths.next(side, prepared):
                deaths.done(side, death, hit=dice.random() < 0.7)
    assert deaths.kills.total() == 200
    assert deaths.kills["city"] >= 67
    assert min(deaths.hits[name] for name in POINTS) >= 1, deaths.hits
    assert deaths.unreachable() == []


def test_a_point_that_is_never_reached_is_named_in_the_statement() -> None:
    deaths = Deaths(200, seed=1)
    while death := deaths.next("city", PREPARED["city"]):
        deaths.done("city", death, hit=getattr(death, "point", "") != "during the merge")
    assert deaths.unreachable() == ["during the merge"]
    (never,) = [line for line in deaths.statement() if line.startswith("   0 × city")]
    assert re.search(r"during the merge, tried \d+ times", never)


def test_deaths_are_the_same_for_the_same_seed() -> None:
    def some(seed: int) -> list[Death | None]:
        deaths = Deaths(60, seed)
        return [deaths.next(side, ()) for _ in range(20) for side in PREPARED]

    assert some(4) == some(4) != some(5)


@pytest.mark.parametrize("mode", ["append", "snapshot", "delete"])
def test_the_contract_takes_exactly_the_files_that_the_model_says_it_takes(tmp_path: Path, mode: Mode) -> None:
    model, dice, files = Model(), random.Random(4), list[Delivery]()
    for number in range(3):
        files.append(model.make(tmp_path, number, ORDERED, "440103", mode, dice))
        for file in files:
            contract = parse_contract(model.contract(ORDERED))
            try:
                open_source(file.path, contract, delete=mode == "delete")
                taken = True
            except InputError:
                taken = False
            assert taken == model.takes(file)
        assert model.takes(files[-1])
        model.columns[ORDERED] += 1


class Answering(Harness):
    """A harness whose commands give one answer, without a process."""

    def __init__(self, home: Path, answer: Answer | None) -> None:
        super().__init__(home, 0, 1)
        self.answer, self.attempts = answer, 0

    def attempt(
        self, side: Side, death: Death | None, *words: str, allowed: Collection[int] = WENT_ON
    ) -> Answer | None:
        self.attempts += 1
        return self.check(words, self.answer, allowed)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(2, "", "error: 7.csv, line 1: missing extra_0."), "status 2:\nerror: 7.csv, line 1: missing extra_0"),
        (Answer(None, "", "Traceback …\nKeyError: 'a'"), "raised an error:\nTraceback …\nKeyError: 'a'"),
        (Answer(130, "", "stopped"), "status 130"),
    ],
)
def test_a_delivery_that_is_refused_or_fails_ends_the_run_with_its_reason(
    tmp_path: Path, answer: Answer, reason: str
) -> None:
    harness = Answering(tmp_path, answer)
    with pytest.raises(RunError) as ended:
        harness.publish()
    assert reason in str(ended.value)
    assert harness.attempts == 1


@pytest.mark.parametrize("answer", [None, Answer(3, "", "the outbox is locked")])
def test_a_delivery_that_is_never_accepted_ends_the_run(tmp_path: Path, answer: Answer | None) -> None:
    harness = Answering(tmp_path, answer)
    with pytest.raises(RunError, match="was not accepted whole in 9 attempts"):
        harness.publish()
    assert harness.attempts == 9


def test_a_city_that_never_completes_a_pass_ends_the_run(tmp_path: Path) -> None:
    harness = Answering(tmp_path, Answer(3, "", "Kafka is away"))
    with pytest.raises(RunError, match="no pass was through in 4 attempts; the last: Kafka is away"):
        harness.sync(None)


def test_the_seed_decides_the_files_and_their_order(tmp_path: Path) -> None:
    def made(home: Path) -> list[tuple[str, str, str]]:
        harness = Answering(home, None)
        return [
            (file.dataset, file.district, file.path.read_text())
            for file in (harness.file(random.Random(f"1 file {n}"), snapshot=False) for n in range(6))
        ]

    assert made(tmp_path / "a") == made(tmp_path / "b")
    assert len(Counter(district for _, district, _ in made(tmp_path / "c"))) > 1
