"""`suibus metrics`: what Prometheus would be told, without a running bus."""

from __future__ import annotations

import click


@click.command()
def metrics() -> None:
    """Print the metrics of every hop in Prometheus's text format. 查看监控指标。

    The same that `suibus up` serves at http://127.0.0.1:PORT/metrics where SUIBUS_METRICS_PORT is set. Starts no Spark;
    where Kafka is away, what only it knows is left out and suibus_broker_up is 0.
    """
    from infra.operate.metrics import metrics_text
    from infra.terminal.console import open_bus

    click.echo(metrics_text(open_bus()), nl=False)
