"""The command line: what every command shares. The commands are in `infra.commands`; Spark is loaded only where needed."""

from __future__ import annotations

import sys
from logging import ERROR
from typing import Any

import click

from infra.commands.backup import backup, restore
from infra.commands.contract import contract
from infra.commands.look import account, doctor, quarantine, query, releases, status
from infra.commands.metrics import metrics
from infra.commands.node import node
from infra.commands.publish import flush, publish
from infra.commands.receipts import receipts
from infra.commands.repair import rebuild, resume
from infra.commands.run import demo, down, sync, up
from infra.terminal.console import CITY, NEEDS_CITY
from infra.terminal.logs import logged, set_up_logging
from schemas.errors import SuibusError

HELP = """Suibus 穗: a city's data-sharing bus, from a district's file to a department's SELECT.

\b
A district      suibus publish DATASET FILE --district CODE
An engineer     suibus contract check FILE, suibus up, suibus sync, suibus status
A department    suibus query "SELECT … FROM dataset"
Whoever asks    suibus releases, suibus quarantine, suibus account
After a fault   suibus status, suibus rebuild, suibus resume, suibus restore

The state is one folder, SUIBUS_HOME (default ./.suibus). Contracts are read from SUIBUS_CONTRACTS, folders joined
by ":", beside the built-in ones. Exit status: 0 done; 1 done, with rows rejected, a dataset failed or a breaking
change; 2 refused, nothing done; 3 something outside is away, what was accepted is kept.

各区用 publish 发布，数据工程师用 contract、up、sync、status，部门用 query 查询。
退出码：0 完成；1 完成但有被拒行、数据集失败或破坏性变更；2 被拒绝，未做任何事；3 外部服务不可用，已接收的数据均已保留。
"""


class _Group(click.Group):
    """Prints an error a person can act on, in both languages, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SuibusError as error:
            if not logged(error.en, error.zh, ERROR):
                click.echo(f"error: {error.en}\n错误：{error.zh}", err=True)
            sys.exit(error.exit_status)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in CITY:
                raise
            click.echo(f"error: {NEEDS_CITY[0]}\n错误：{NEEDS_CITY[1]}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "stopped; what was accepted is kept, and the same command goes on from there\n"
                "已中断；已接收的数据均已保留，重新执行同一命令即可继续",
                err=True,
            )
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(0)
        except OSError as error:  # a state folder that is a file, is not ours to write, or has lost a file
            if error.filename is None:
                raise
            what = error.strerror or repr(error)
            click.echo(
                f"error: {error.filename}: {what}. Look at the path and its rights; SUIBUS_HOME names the state folder.\n"
                f"错误：{error.filename}：{what}。请检查该路径及其权限；状态文件夹由 SUIBUS_HOME 指定。",
                err=True,
            )
            sys.exit(2)


@click.group(cls=_Group, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="suibus")
def main() -> None:
    """Set up logging; the commands do the work."""
    from infra.settings import read_settings  # Pydantic is half of what --help would take

    set_up_logging(read_settings().log_format)


for command in (
    up,
    down,
    sync,
    demo,
    publish,
    flush,
    receipts,
    contract,
    query,
    status,
    releases,
    quarantine,
    account,
    metrics,
    rebuild,
    resume,
    backup,
    restore,
    node,
    doctor,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
