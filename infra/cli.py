"""The command line: the list of commands and their common error handling. A command's module is imported only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, cast

import click
from click.exceptions import NoSuchCommand

from infra.terminal.console import CITY, NEEDS_CITY, say, say_error
from infra.terminal.logs import set_up_logging
from schemas.errors import SuibusError

HELP = """Suibus 穗: a city's data-sharing bus, from a district's file to a department's SELECT.

\b
A district      suibus publish DATASET FILE --district CODE
An engineer     suibus contract check FILE, suibus up, suibus sync, suibus status
A department    suibus query "SELECT … FROM dataset"
Everybody       suibus releases, suibus quarantine, suibus account
After a fault   suibus status, suibus rebuild, suibus resume, suibus restore

The state is one folder, SUIBUS_HOME (default ./.suibus). Contracts are read from the built-in folder and from the
folders in SUIBUS_CONTRACTS, joined by ":". Exit status: 0 done; 1 done, but rows were rejected, a dataset failed or a
change is breaking; 2 refused, nothing was done; 3 an outside service does not answer, accepted rows are kept.

\b
各区用 publish 发布，数据工程师用 contract、up、sync、status，部门用 query 查询；
releases、quarantine、account 供各方查看；故障后用 status、rebuild、resume、restore。
全部状态在 SUIBUS_HOME 文件夹（默认 ./.suibus）；契约取自自带的文件夹和 SUIBUS_CONTRACTS 中以 ":" 连接的文件夹。
退出码：0 完成；1 完成，但有行被拒收、数据集失败或破坏性变更；2 被拒绝，未作任何更改；3 外部服务没有应答，已接收的行均已保留。
"""

# Each command and the first line of its help. The command `up` is `up` of infra/commands/up.py, and so on.
COMMANDS = {
    "account": "Show for each district and dataset what became of its records. 查看收支账。",
    "backup": "Copy the whole state folder and the lake to a new folder. 备份。",
    "contract": "Check, show and compare contracts. 数据契约。",
    "demo": "Show the whole route with the registers of Guangzhou's eleven districts. 运行演示。",
    "doctor": "Check Java, memory, disk, broker, jars and versions, with remedies. 检查环境。",
    "down": "Stop the bus of this state folder. 停止总线。",
    "flush": "Send what waits in a district's outbox. 发送待发数据。",
    "metrics": "Print the metrics of every hop in Prometheus's text format. 查看监控指标。",
    "node": "Manage the districts' credentials on a secure bus. 节点凭据。",
    "publish": "Publish a file's rows as a district. 发布数据。",
    "quarantine": "Show every quarantined record with every reason. 查看隔离记录。",
    "query": "Query the released versions with Spark SQL. 查询已发布数据。",
    "rebuild": "Make a dataset's table (or the whole lake) again and judge it. 重建数据表或数据湖。",
    "receipts": "Show which of a district's records the city refused, and why. 查看回执。",
    "releases": "Show every decision of the gate with its verdict, newest first. 查看发布记录。",
    "restore": "Put a backup back into an empty state folder. 恢复。",
    "resume": "Continue a dataset whose topics were changed. 主题变动后恢复处理。",
    "status": "Show what runs, what is in force and what waits. 查看状态。",
    "sync": "Process everything published so far, once, and stop. 处理一轮。",
    "up": "Run the bus: broker, contracts, pipeline. 启动总线。",
}


class Commands(click.Group):
    """Finds commands by name, and prints every error in both languages instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command with this name; its module is imported here."""
        if name not in COMMANDS:
            return None
        return cast(click.Command, getattr(import_module(f"infra.commands.{name}"), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was named; else an error suggests the nearest of all commands (click suggests only imported ones)."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            raise NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command and end the process with its exit status."""
        try:
            status = super().main(*args, **{**more, "standalone_mode": False})
        except click.ClickException as error:
            from infra.terminal.usage import say_usage_error  # only an error needs it

            say_usage_error(error)
            status = error.exit_code
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; the exit status is the error's."""
        try:
            return super().invoke(ctx)
        except SuibusError as error:
            say_error(error.en, error.zh)
            sys.exit(error.exit_status)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in CITY:
                raise
            say_error(*NEEDS_CITY)
            sys.exit(2)
        except KeyboardInterrupt:
            say(
                "stopped; accepted rows are kept, and the same command continues from there",
                "已中断；已接收的行均已保留，重新执行同一命令即可继续",
                err=True,
            )
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(0)
        except OSError as error:
            what = error.strerror or str(error) or type(error).__name__
            if error.filename is None:  # a file that is open already, standard output, or a connection
                say_error(
                    f"Reading or writing failed: {what}. Check the disks, also the one that the output goes to, and the "
                    "network, then run the same command again. Accepted rows are kept.",
                    f"读写失败：{what}。请检查磁盘（包括输出所在的磁盘）和网络，然后重新执行同一命令。已接收的行均已保留。",
                )
                sys.exit(3)
            say_error(  # the state folder is a file, is not writable, or lacks a file
                f"{error.filename}: {what}. Check the path and its rights; SUIBUS_HOME names the state folder.",
                f"{error.filename}：{what}。请检查该路径及其权限；状态文件夹由 SUIBUS_HOME 指定。",
            )
            sys.exit(2)


@click.group(
    cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="suibus")
def main() -> None:
    """Set up logging; the commands do the work."""
    from infra.settings import read_settings  # Pydantic would double the time of --help

    set_up_logging(read_settings().log_format)


if __name__ == "__main__":
    main()
