"""The documentation says what the program does: every command, option, setting, table and key, in both languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from infra.cli import main
from infra.settings import Settings
from pipelines.lake.table_schemas import ACCOUNT, ENVELOPE, REASON, RELEASE, silver_schema
from schemas.contract import SUIBUS_PROPERTIES, load_contract
from schemas.contract_folders import SHIPPED
from schemas.odcs.column_types import LOGICAL, PHYSICAL
from schemas.odcs.rules import METRICS, OPERATORS, SEVERITIES

ROOT = Path(__file__).parents[2]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PAGES = ("README.md", "docs/district.md", "docs/engineer.md", "docs/department.md", "docs/security.md")
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
)


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def in_chinese(page: str) -> str:
    return page.replace(".md", ".zh-CN.md")


def commands(group: click.Group = main, before: str = "suibus") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


COMMANDS = dict(commands())


def options(command: click.Command) -> set[str]:
    found = [o for p in command.params if isinstance(p, click.Option) for o in p.opts]
    return {o for o in found if o.startswith("--")}


def pages_of(words: str, texts: list[str]) -> list[str]:
    """The texts that name a command."""
    return [text for text in texts if re.search(rf"\b{words}\b", text)]


def unresolved(text: str, place: Path) -> list[str]:
    """Links of a page to a file or a heading that is not there."""
    missing = []
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (place.parent / name).resolve() if name else place
        if not target.exists() or (heading and heading not in headings(target.read_text("utf-8"))):
            missing.append(link)
    return missing


def headings(text: str) -> set[str]:
    """The anchors that the headings of a page have."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


def named(text: str) -> set[str]:
    """The commands, options and make targets that a page names."""
    words = set(re.findall(r"\bsuibus (?:contract |node )?[a-z]+", text)) & set(COMMANDS)
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    return words | flags | set(re.findall(r"\bmake (?:setup|demo|unit|test|check)\b", text))


def shown(text: str) -> Iterator[tuple[str, set[str]]]:
    """The commands a page shows being run, and the options it gives them."""
    for line in re.findall(r"^\$ (suibus .*(?:\\?\n    .*)*)", text, re.MULTILINE):
        bare = re.sub(r'"[^"]*"', "", line.split(" | ")[0])
        words = re.match(r"suibus (?:contract |node )?[a-z]+", bare)
        assert words, line
        yield words[0], set(re.findall(r"(?<=\s)--[a-z][a-z-]*", bare))


@pytest.mark.parametrize("words", COMMANDS)
def test_command_has_help_in_both_languages(words: str) -> None:
    text = COMMANDS[words].help or ""
    assert re.match(r"[A-Z]", text), f"{words} has no help"
    assert CHINESE.search(text.split("\n\n")[0]), f"{words}: the first sentence has no Chinese"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_help(words: str) -> None:
    without = [p.name for p in COMMANDS[words].params if isinstance(p, click.Option) and not p.help]
    assert not without, f"{words}: no help for {', '.join(map(str, without))}"


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("suffix", [".md", ".zh-CN.md"])
def test_command_and_its_options_are_documented(words: str, suffix: str) -> None:
    texts = [read(page.replace(".md", suffix)) for page in PAGES]
    naming = pages_of(words, texts)
    assert naming, f"no page in {suffix} names {words}"
    missing = {o for o in options(COMMANDS[words]) if not any(re.search(rf"{o}(?![\w-])", text) for text in naming)}
    assert not missing, f"{words}: pages in {suffix} do not name {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", [*PAGES, *map(in_chinese, PAGES)])
def test_shown_command_exists_with_its_options(page: str) -> None:
    for words, flags in shown(read(page)):
        assert words in COMMANDS, f"{page} shows {words}, which does not exist"
        strange = flags - options(COMMANDS[words])
        assert not strange, f"{page} shows {words} with {', '.join(sorted(strange))}"


@pytest.mark.parametrize("page", PAGES)
def test_chinese_and_english_page_name_the_same_commands(page: str) -> None:
    assert named(read(page)) == named(read(in_chinese(page)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    assert unresolved(document.read_text("utf-8"), document) == []


@pytest.mark.parametrize("page", ["docs/engineer.md", "docs/engineer.zh-CN.md"])
def test_every_setting_is_documented(page: str) -> None:
    settings = {"JAVA_HOME" if name == "java_home" else f"SUIBUS_{name.upper()}" for name in Settings.model_fields}
    text = read(page)
    missing = {name for name in settings if f"`{name}`" not in text}
    assert not missing, f"{page} does not name {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", ["docs/engineer.md", "docs/engineer.zh-CN.md"])
def test_every_column_of_the_lake_is_documented(page: str) -> None:
    dataset = load_contract(SHIPPED / "grassroots_division.yaml")
    ours = {f.name for f in silver_schema(dataset).fields if f.name.startswith("_")}
    columns = ours.union(*({f.name for f in fields} for fields in (ENVELOPE, REASON.fields, RELEASE, ACCOUNT)))
    missing = {name for name in columns if f"`{name}`" not in read(page)}
    assert not missing, f"{page} does not name {', '.join(sorted(missing))}"


def test_reference_names_every_type_metric_operator_and_own_property() -> None:
    text = read("docs/contracts.md")
    words = {*PHYSICAL, *LOGICAL, *METRICS, *OPERATORS, *SEVERITIES, *SUIBUS_PROPERTIES}
    missing = {word for word in words if not re.search(rf"\b{re.escape(word)}\b", text)}
    assert not missing, f"docs/contracts.md does not name {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_readme_is_short_and_leads_to_the_pages(page: str) -> None:
    text = read(page)
    assert len(text.splitlines()) <= 150
    for other in PAGES[1:]:
        assert (in_chinese(other) if page != "README.md" else other) in LINK.findall(text)


def test_contract_written_on_the_page_is_served(tmp_path: Path) -> None:
    """The page's contract is what a reader copies: it must load, and be the same on both pages."""
    texts = [
        re.findall(r"```yaml\n(.*?)```", read(p), re.DOTALL)[0] for p in ("docs/engineer.md", "docs/engineer.zh-CN.md")
    ]
    assert texts[0] == texts[1]
    path = tmp_path / "parking_lot.yaml"
    path.write_text(texts[0], "utf-8")
    assert load_contract(path).id == "parking_lot.v1"


# The checks above find what they look for.


def test_check_finds_a_broken_link_and_a_missing_heading() -> None:
    text = "[a](nowhere.md) [b](README.md#no-such-heading) [c](README.md) [d](https://example.com/x)"
    assert unresolved(text, ROOT / "README.md") == ["nowhere.md", "README.md#no-such-heading"]


def test_check_finds_a_command_that_one_language_lacks() -> None:
    assert named("`suibus flush --timeout` `make demo`") - named("`suibus flush`") == {"--timeout", "make demo"}
    assert pages_of("suibus flush", ["suibus flushed", "run `suibus flush`"]) == ["run `suibus flush`"]


def test_check_reads_shown_commands_over_several_lines() -> None:
    text = '$ suibus publish a --query "SELECT --x\n    FROM b" \\\n    --district 1\nout --put\n$ suibus contract diff a b\n'
    assert list(shown(text)) == [("suibus publish", {"--query", "--district"}), ("suibus contract diff", set())]


@pytest.mark.parametrize(
    "page", ["docs/reliability.md", "docs/reliability.zh-CN.md", "docs/security.md", "docs/security.zh-CN.md"]
)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    every = "".join(file.read_text("utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"\btest_\w+(?=[`,])", read(page)))
    assert len(named) > 5
    assert not {
        name for name in named if f"def {name}(" not in every and not list((ROOT / "tests").rglob(f"{name}.py"))
    }
