"""`suibus contract`: check, show and compare contracts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from infra.terminal.console import as_json, open_bus, print_json
from schemas.errors import InputError


@click.group()
def contract() -> None:
    """Check, show and compare contracts. 数据契约。"""


@contract.command("check")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@as_json
def contract_check(files: tuple[Path, ...], as_json: bool) -> None:
    """Whether contracts can be served; every problem with its line. 检查契约。

    Without FILE, all contracts of the folders in force.
    """
    from schemas.contract import load_contract
    from schemas.contract_folders import load_contracts
    from schemas.errors import ContractError

    bus = open_bus()
    problems: list[ContractError] = []
    if files:
        good = []
        for path in files:
            try:
                good.append(load_contract(path))
            except ContractError as error:
                problems.append(error)
    else:
        found, problems = load_contracts(bus.contracts.folders)
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
                f"ok  {d.path}: {d.name} {d.version} {d.title}: {len(d.fields)} columns 列, key 主键 {', '.join(d.key)}, "
                f"{len(d.rules)} rules 规则"
            )
        for problem in problems:
            click.echo(f"refused 不予服务\n{problem.en}\n{problem.zh}", err=True)
    sys.exit(2 if problems else 0)


@contract.command("show")
@click.argument("dataset")
@click.option("--as", "form", type=click.Choice(["avro", "ddl", "suite"]), help="What is derived from it.")
def contract_show(dataset: str, form: str | None) -> None:
    """A contract as a page, or what is derived from it. 查看契约。

    avro: the Avro schema; ddl: the shared table; suite: the Great Expectations suite.
    """
    from schemas.contract_folders import find_dataset

    found = find_dataset(dataset, open_bus().folders)
    if form == "avro":
        from schemas.wire.avro import avro_schema

        print_json(avro_schema(found))
    elif form == "ddl":
        from pipelines.lake.tables import ddl

        click.echo(ddl(found))
    elif form == "suite":
        from quality.rules import suite

        print_json(suite(found))
    else:
        from schemas.contract_page import page

        click.echo(page(found))


@contract.command("diff")
@click.argument("files", nargs=-1, required=True, metavar="OLD… NEW", type=click.Path(path_type=Path))
@as_json
def contract_diff(files: tuple[Path, ...], as_json: bool) -> None:
    """Grade a change of a contract; exit status 1 if it breaks somebody. 比较契约。

    With several OLD files, oldest first, NEW is held against each: a record of any of them may still be on the way.
    """
    from schemas.compatibility import compare
    from schemas.contract import load_contract

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
            click.echo(f"{'breaking 破坏性' if c.breaking else 'compatible 兼容'}  {c.en}\n    {c.zh}")
        if not changes:
            click.echo("no change that matters to anyone 没有实质变化")
        elif breaking:
            click.echo(
                f"Undo the breaking changes, or start version {new.major + 1}. 请撤销破坏性变更，或使用主版本 {new.major + 1}。"
            )
    sys.exit(1 if breaking else 0)
