"""`suibus metrics`: the metrics for Prometheus, whether or not the bus runs."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.operate.metrics import metrics_text
from infra.settings import read_settings


@click.command()
def metrics() -> None:
    """Print the metrics of every hop in Prometheus's text format. 查看监控指标。

    The same text as `suibus up` serves at http://127.0.0.1:PORT/metrics if SUIBUS_METRICS_PORT is set. Starts no Spark.
    If Kafka does not answer, metrics that need it are left out and suibus_broker_up is 0.
    """
    click.echo(metrics_text(Bus(read_settings())), nl=False)
