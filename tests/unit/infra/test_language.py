"""Every message is in both languages, the terminal's first; output for programs does not depend on the language."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.cli import main
from infra.terminal.usage import SENTENCES, in_chinese

CHINESE = {"LC_ALL": None, "LC_MESSAGES": None, "LANG": "zh_CN.UTF-8"}
ENGLISH = {"LC_ALL": None, "LC_MESSAGES": None, "LANG": "en_GB.UTF-8"}
ROOT = Path(__file__).parents[3]

USAGE = [
    (["publish"], "Missing argument 'DATASET'.", "缺少参数 'DATASET'。"),
    (["publish", "d", "f"], "Missing option '--district'.", "缺少选项 '--district'。"),
    (["publish", "--to", "x"], "No such option '--to'.", "没有选项 '--to'。"),
    (["publish", "--districts"], "No such option '--districts'. Did you mean", "没有选项 '--districts'。是否想输入"),
    (["publish", "--district"], "Option '--district' requires an argument.", "选项 '--district' 需要一个值。"),
    (["publish", "--delete=1"], "Option '--delete' does not take a value.", "选项 '--delete' 不接受值。"),
    (
        ["publish", "d", "f", "--district", "440106", "--timeout", "long"],
        "Invalid value for '--timeout': 'long' is not a valid float.",
        "'--timeout' 的值无效：'long' 不是数字。",
    ),
    (
        ["node", "add", "440106", "--rate", "0"],
        "Invalid value for '--rate': 0 is not in the range x>=1.",
        "'--rate' 的值无效：0 不在范围 x>=1 内。",
    ),
    (
        ["query", "SELECT 1", "--format", "xml"],
        "Invalid value for '--format': 'xml' is not one of 'table', 'csv', 'json'.",
        "'--format' 的值无效：'xml' 不在可选值之中：'table', 'csv', 'json'。",
    ),
    (["down", "now"], "Got unexpected extra argument (now)", "多出的参数：now。"),
    (["nothing"], "No such command 'nothing'.", "没有命令 'nothing'。"),
    (["node", "ad"], "No such command 'ad'. Did you mean 'add'?", "没有命令 'ad'。是否想输入 'add'？"),
]


@pytest.mark.parametrize(("words", "en", "zh"), USAGE, ids=[" ".join(words) for words, _, _ in USAGE])
@pytest.mark.parametrize("environment", [CHINESE, ENGLISH], ids=["Chinese", "English"])
def test_wrong_usage_is_reported_in_both_languages_the_terminals_first(
    words: list[str], en: str, zh: str, environment: dict[str, str | None]
) -> None:
    done = CliRunner().invoke(main, words, env=environment)
    assert done.exit_code == 2
    assert done.stdout == ""
    first, second = (f"错误：{zh}", f"error: {en}") if environment is CHINESE else (f"error: {en}", f"错误：{zh}")
    assert 0 <= done.stderr.find(first) < done.stderr.find(second), done.stderr


def test_wrong_usage_says_how_the_command_is_called_and_where_its_help_is() -> None:
    done = CliRunner().invoke(main, ["node", "add"], prog_name="suibus", env=CHINESE)
    assert "suibus node add [OPTIONS] CODE" in done.stderr
    assert done.stderr.count("suibus node add --help") == 2


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_message_of_click_is_translated_with_its_values(sentence: str) -> None:
    parts = {name: f"'{name}'" for name in re.findall(r"{(\w+)}", sentence)}
    assert in_chinese(sentence.format(**parts)) == SENTENCES[sentence].format(**parts)


def test_an_unknown_message_is_left_unchanged() -> None:
    assert in_chinese("Something else.") == "Something else."


@pytest.mark.parametrize("environment", [CHINESE, ENGLISH], ids=["Chinese", "English"])
def test_an_error_is_reported_in_both_languages_the_terminals_first(environment: dict[str, str | None]) -> None:
    done = CliRunner().invoke(main, ["contract", "show", "nothing"], env=environment)
    assert done.exit_code == 2
    chinese, english = done.stderr.find("错误：没有名为"), done.stderr.find("error: ")
    assert min(chinese, english) >= 0, done.stderr
    assert (chinese < english) == (environment is CHINESE)


def test_json_is_the_same_whatever_the_language() -> None:
    command = ["contract", "check", "--json"]
    chinese, english = (CliRunner().invoke(main, command, env=x).stdout for x in (CHINESE, ENGLISH))
    assert json.loads(chinese)["served"]
    assert chinese == english


@pytest.mark.parametrize(("language", "first"), [("zh_CN.UTF-8", "错误："), ("en_GB.UTF-8", "error: ")])
def test_program_speaks_the_language_of_its_terminal_first(language: str, first: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_MESSAGES")}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**kept, "LANG": language},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[1].startswith(first), done.stderr
    assert len(done.stderr.splitlines()) == 3
