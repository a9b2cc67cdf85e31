"""A developer's own settings, which must reach no test and no benchmark: they may name a lake and a Kafka that are in use."""

from __future__ import annotations

import os

OF_THE_MACHINE = ("SUIBUS_JARS", "SUIBUS_IVY_SETTINGS")  # where the jars lie


def forget_own_settings() -> None:
    """Remove them from this process's environment, and so from that of the processes it starts."""
    for name in [name for name in os.environ if name.startswith("SUIBUS_") and name not in OF_THE_MACHINE]:
        del os.environ[name]
