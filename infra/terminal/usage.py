"""click's usage errors in both languages: click has them in English only."""

from __future__ import annotations

import re
import string

import click

from infra.terminal.console import both, say_error

# The sentences of click that these commands can cause. A part in braces is translated too if it is in this list.
SENTENCES = {
    "No such command {name}.": "没有命令 {name}。",
    "No such option {name}.": "没有选项 {name}。",
    "{problem} Did you mean {possibility}?": "{problem}是否想输入 {possibility}？",
    "{problem} (Did you mean one of: {possibilities}?)": "{problem}是否想输入以下之一：{possibilities}？",
    "Missing command.": "缺少命令。",
    "Missing argument {name}.": "缺少参数 {name}。",
    "Missing option {name}.": "缺少选项 {name}。",
    "Got unexpected extra argument ({args})": "多出的参数：{args}。",
    "Got unexpected extra arguments ({args})": "多出的参数：{args}。",
    "Option {name} requires an argument.": "选项 {name} 需要一个值。",
    "Option {name} does not take a value.": "选项 {name} 不接受值。",
    "Invalid value for {name}: {message}": "{name} 的值无效：{message}",
    "{value} is not a valid {type}.": "{value} 不是{type}。",
    "{value} is not in the range {range}.": "{value} 不在范围 {range} 内。",
    "{value} is not one of {choices}.": "{value} 不在可选值之中：{choices}。",
    "integer": "整数",
    "integer range": "整数",
    "float": "数字",
}


def say_usage_error(error: click.ClickException) -> None:
    """Print a usage error: how the command is called, what was wrong, and how to get help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    en = error.format_message()
    zh = in_chinese(en)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        called = error.ctx.command_path
        pieces = " ".join(error.ctx.command.collect_usage_pieces(error.ctx))
        click.echo(f"{both('Usage', '用法')}: {called} {pieces}", err=True)
        en, zh = f"{en} For help: {called} --help", f"{zh} 帮助：{called} --help"
    say_error(en, zh)


def in_chinese(text: str) -> str:
    """A sentence of click in Chinese; unchanged if it is not in SENTENCES."""
    for sentence, chinese in SENTENCES.items():
        if found := _pattern(sentence).fullmatch(text):
            return chinese.format(**{name: in_chinese(part) for name, part in found.groupdict().items()})
    return text


def _pattern(sentence: str) -> re.Pattern[str]:
    parts = string.Formatter().parse(sentence)
    return re.compile("".join(re.escape(text) + (f"(?P<{name}>.+)" if name else "") for text, name, _, _ in parts))
