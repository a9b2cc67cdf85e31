"""The configuration of the embedded broker: its server.properties and its logging.

Paths in server.properties are relative to <home>/kafka, because Kafka would misread a comma or a Chinese character in the path of the home.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

MAX_MESSAGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Ports:
    """The broker's ports; those for nodes (password, certificate) are set once it is secure."""

    port: int
    controller_port: int
    password_port: int | None = None
    certificate_port: int | None = None


def server_properties(ports: Ports, secure: bool, advertised_host: str | None) -> str:
    """The text of server.properties. A secure broker listens for nodes on all addresses if it has an advertised host."""
    host = {
        "host": advertised_host or "127.0.0.1",
        "bind": "0.0.0.0" if advertised_host else "127.0.0.1",  # noqa: S104 as asked
    }
    text = _PROPERTIES + (_SECURE if secure else _OPEN)
    return text.format(max_message_bytes=MAX_MESSAGE_BYTES, **host, **asdict(ports))


_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
log.dirs=data
# Writing to a topic that was not declared is a mistake and must fail.
auto.create.topics.enable=false
# There is one node, so one replica of everything.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Few partitions for Kafka's own topics, for a quick start.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# After a kill the broker can register again when its old session has ended: after 4 seconds, not 9.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
# Two weeks, unless a topic has a retention of its own; bronze keeps every record that was ingested.
log.retention.hours=336
# The position of a node's outbox is kept for a year: a node may be away for long, and must not send rows twice.
offsets.retention.minutes=525600
transactional.id.expiration.ms=2147483647
message.max.bytes={max_message_bytes}
# A small machine: few threads, a small buffer for compaction (the default is 128 MiB).
num.io.threads=4
num.network.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""

_OPEN = """\
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=BROKER://127.0.0.1:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
"""

_SECURE = """\
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},\
PASSWORD://{bind}:{password_port},CERTIFICATE://{bind}:{certificate_port}
advertised.listeners=BROKER://127.0.0.1:{port},\
PASSWORD://{host}:{password_port},CERTIFICATE://{host}:{certificate_port}
listener.security.protocol.map=BROKER:SSL,CONTROLLER:SSL,PASSWORD:SASL_SSL,CERTIFICATE:SSL
ssl.client.auth=required
listener.name.password.ssl.client.auth=none
ssl.keystore.type=PEM
ssl.keystore.location=../security/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=../security/trusted.pem
# CN=440106.1f2e3d4c is User:440106.1f2e3d4c, and CN=city is User:city.
ssl.principal.mapping.rules=RULE:^CN=([0-9a-z.]+)$/$1/
listener.name.password.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.password.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:city
"""

LOG4J = """\
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=broker.log
appender.file.filePattern=broker.log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{ISO8601} %p %m (%c)%n%throwable
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
rootLogger.level=WARN
rootLogger.appenderRef.file.ref=file
logger.server.name=kafka.server
logger.server.level=INFO
logger.denied.name=kafka.authorizer.logger
logger.denied.level=INFO
"""
