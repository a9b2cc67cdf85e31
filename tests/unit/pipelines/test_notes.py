"""The note in a commit is read back as it was written; user metadata of another program is no note."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from pipelines.fates import COUNTED
from pipelines.lake.commit_notes import (
    AccountNote,
    GateChange,
    IngestNote,
    MergeNote,
    Note,
    ReleaseNote,
    dump_note,
    parse_note,
)
from pipelines.lake.position import TopicPosition

COUNTS = dict.fromkeys(COUNTED, 2)


@pytest.mark.parametrize(
    "note",
    [
        IngestNote({"gz.up.440106.t.v1": TopicPosition("id", {0: 7, 10: 1})}),
        MergeNote(1, 3, "id", {"440106": COUNTS}, GateChange("hash", {"规则": -1}, 0)),
        AccountNote("t.v1", defaultdict(Counter, {"440106": Counter(COUNTS)})),
        ReleaseNote("f" * 64),
    ],
)
def test_a_note_is_parsed_back_unchanged(note: Note) -> None:
    assert parse_note(dump_note(note)) == note


@pytest.mark.parametrize(
    "text", [None, "", "free text", "[]", '"x"', "{}", '{"kind": "merge"}', '{"kind": "other"}', '{"kind": 1}']
)
def test_user_metadata_of_another_program_is_no_note(text: str | None) -> None:
    assert parse_note(text) is None
