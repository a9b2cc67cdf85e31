"""A plan gives every district its share and continues where the last one ended."""

from __future__ import annotations

from itertools import pairwise

from pipelines.ingest.offsets import BATCH_RECORDS, DISTRICT_SHARE, Range, plan
from pipelines.ingest.topics import TopicState
from pipelines.lake.position import Position, TopicPosition
from schemas.contract import load_contract
from schemas.contract_folders import SHIPPED

DISTRICT = "440106"
DATASET = load_contract(SHIPPED / "grassroots_division.yaml")


def test_every_district_gets_its_share_when_another_has_a_long_backlog() -> None:
    names = DATASET.topics
    states = {name: TopicState("i", {0: (0, 5_000_000 if n == 0 else 300)}) for n, name in enumerate(names)}
    first = plan(DATASET, {}, states)
    assert {r.topic: r.end for r in first.ranges} == {n: DISTRICT_SHARE if n == names[0] else 300 for n in names}
    assert first.drained
    assert first.waiting[names[0]] == 5_000_000 - DISTRICT_SHARE
    second = plan(DATASET, first.after, states)
    assert second.ranges == (Range(names[0], 0, DISTRICT_SHARE, 2 * DISTRICT_SHARE),)
    assert not second.drained
    everyone = {name: TopicState("i", {0: (0, 5_000_000), 1: (0, 5)}) for name in names}
    sizes = [r.end - r.start for r in plan(DATASET, {}, everyone).ranges]
    assert sum(sizes) <= BATCH_RECORDS
    assert sizes[1::2] == [5] * 11, "a short partition is taken whole"
    assert len(set(sizes[::2])) == 1


def test_a_plan_continues_exactly_where_the_last_one_ended() -> None:
    topic = DATASET.topic(DISTRICT)
    position: Position = {}
    seen: list[tuple[int, int]] = []
    for end in (10, 10, 250_000):
        states = {topic: TopicState("i", {0: (0, end)})}
        while (made := plan(DATASET, position, states)).ranges:
            seen += [(r.start, r.end) for r in made.ranges]
            position = made.after
    assert seen[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(seen))
    assert seen[-1][1] == 250_000
    assert position == {topic: TopicPosition("i", {0: 250_000})}
