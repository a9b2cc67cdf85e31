"""`suibus contract`: check, show and compare contracts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import as_json, both, print_json, say
from schemas.compatibility import compare
from schemas.contract import load_contract
from schemas.contract_folders import find_dataset, load_contracts
from schemas.contract_page import page
from schemas.errors import ContractError, InputError
from schemas.wire.avro import avro_schema


@click.group()
def contract() -> None:
    """Check, show and compare contracts. 数据契约。"""


@contract.command("check")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@as_json
def contract_check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check whether contracts can be used; print every problem with its line. 检查契约。

    Without FILE: all contracts in the built-in folder and in SUIBUS_CONTRACTS.
    """
    problems: list[ContractError] = []
    if files:
        good = []
        for path in files:
            try:
                good.append(load_contract(path))
            except ContractError as error:
                problems.append(error)
    else:
        found, problems = load_contracts(Bus(read_settings()).contracts.folders)
        good = list(found.values())
    if as_json:
        print_json(
            {
                "served": [{"dataset": d.name, "version": d.version, "path": d.path} for d in good],
                "refused": [{"en": e.en, "zh": e.zh} for e in problems],
            }
        )
    else:
        for d in good:
            click.echo(
                f"ok  {d.path}: {d.name} {d.version} {d.title}: {len(d.fields)} {both('columns', '列')}, "
                f"{both('key', '主键')} {', '.join(d.key)}, {len(d.rules)} {both('rules', '规则')}"
            )
        for problem in problems:
            click.echo(both("refused", "已拒绝，未生效"), err=True)
            say(problem.en, problem.zh, err=True)
    sys.exit(2 if problems else 0)


@contract.command("show")
@click.argument("dataset")
@click.option(
    "--as", "form", type=click.Choice(["avro", "ddl", "suite"]), help="Print what is derived from the contract instead."
)
def contract_show(dataset: str, form: str | None) -> None:
    """Print a contract as a page, or what is derived from it. 查看契约。

    avro: the Avro schema; ddl: the shared table; suite: the Great Expectations suite.
    """
    found = find_dataset(dataset, Bus(read_settings()).contracts.folders)
    if form == "avro":
        print_json(avro_schema(found))
    elif form == "ddl":
        from pipelines.lake.table_schemas import ddl  # the light install has no Spark

        click.echo(ddl(found))
    elif form == "suite":
        from quality.gate_rules import suite  # nor Great Expectations

        print_json(suite(found))
    else:
        click.echo(page(found))


@contract.command("diff")
@click.argument("files", nargs=-1, required=True, metavar="OLD… NEW", type=click.Path(path_type=Path))
@as_json
def contract_diff(files: tuple[Path, ...], as_json: bool) -> None:
    """Compare contracts; exit status 1 if a change is breaking. 比较契约。

    With several OLD files, oldest first, NEW is compared with each, since records of any of them may still arrive.
    """
    if len(files) < 2:
        raise InputError("Give the old contract and the new one.", "请给出旧契约和新契约。")
    *olds, new = [load_contract(path) for path in files]
    changes = list(dict.fromkeys(change for old in olds for change in compare(old, new)))
    breaking = any(c.breaking for c in changes)
    if as_json:
        listed = [{"breaking": c.breaking, "where": c.where, "en": c.en, "zh": c.zh} for c in changes]
        print_json({"breaking": breaking, "changes": listed})
    else:
        for c in changes:
            grade = both("breaking", "破坏性") if c.breaking else both("compatible", "兼容")
            click.echo(f"{grade}  {both(c.en, c.zh, chr(10) + ' ' * 4)}")
        if not changes:
            click.echo(both("no relevant change", "没有实质变化"))
        elif breaking:
            say(
                f"Undo the breaking changes, or start version {new.major + 1}.",
                f"请撤销破坏性变更，或使用主版本 {new.major + 1}。",
            )
    sys.exit(1 if breaking else 0)
