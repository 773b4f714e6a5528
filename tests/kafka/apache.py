"""A real Apache Kafka of one node, on loopback: its jars come from Maven Central, and need Java 17.

They are kept in `~/.cache/durable-tests` (or `DURABLE_TEST_CACHE`) from one run to the next.

Where it is asked to, it listens at two more ports: one with TLS and a login, one that wants a client's certificate.
"""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]

from tests.kafka.certificates import Certificates
from tests.ports import reserved_port

VERSION = "4.1.0"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>durable</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""
#: For how long a broker may start, on a busy machine; and for how long it is asked for something.
START_S, ASK_S = 90, 30
_PROTOCOLS = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "LOGIN": "SASL_SSL", "CERTIFICATE": "SSL"}
#: Who may log in, and with what.
USER, PASSWORD = "app", "s3cret of the app"
_HEAP = ("-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def missing() -> str:
    """Why no broker can be started here, or ""."""
    java = shutil.which("java")
    if java is None:
        return "there is no java"
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    if found is None or int(found[1]) < 17:
        return f"Java 17 is needed, and there is {told.splitlines()[:1]}"
    return "" if _kept().is_dir() or shutil.which("mvn") is not None else "there is no mvn to get the jars with"


def _kept() -> Path:
    cache = os.environ.get("DURABLE_TEST_CACHE", str(Path.home() / ".cache" / "durable-tests"))
    return Path(cache) / f"kafka-{VERSION}"


def jars() -> Path:
    """The folder with all jars; the first one who asks gets them."""
    folder = _kept()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as new:
                Path(new, "pom.xml").write_text(_POM)
                copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
                subprocess.run(["mvn", "-q", "-B", *copy], cwd=new, check=True, timeout=600)
                Path(new, "jars").rename(folder)
    return folder


class Apache:
    """One broker that is its own controller, in KRaft mode; `address` where one runs already."""

    #: The least that it takes is configured so.
    session_timeout_ms = 1500

    def __init__(self, address: str = "", *, secured: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()
        self.address = address
        #: Where TLS and a login are wanted, and where a client's certificate is; "" where there are no such ports.
        self.login_address = self.certificate_address = ""
        if address:
            self.session_timeout_ms = 6000
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="durable-kafka-"))
            ports = [self._held.enter_context(reserved_port()) for _ in range(4)]
            self.address, controller, *secured_addresses = (f"127.0.0.1:{port}" for port in ports)
            if secured:
                self.certificates = Certificates(self._folder)
                self.login_address, self.certificate_address = secured_addresses
            self._configure(controller)
            self.up()
        self._admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    @property
    def is_ours(self) -> bool:
        """Whether it may be stopped."""
        return self._process is not None

    def _configure(self, controller: str) -> None:
        open_to = {"PLAINTEXT": self.address}
        if self.login_address:
            open_to |= {"LOGIN": self.login_address, "CERTIFICATE": self.certificate_address}
        listeners = [f"{name}://{address}" for name, address in open_to.items()]
        lines = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": ",".join([*listeners, f"CONTROLLER://{controller}"]),
            "advertised.listeners": ",".join(listeners),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in _PROTOCOLS.items()),
            "log.dirs": self._folder / "logs",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 500,
            "log.retention.check.interval.ms": 100,
        }
        users = []
        if self.login_address:
            lines |= self._secured()
            users = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (self._folder / "server.properties").write_text(text)
        format = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", "server.properties"]
        for user in users:
            format += ["--add-scram", user]
        self._java("kafka.tools.StorageTool", *format).wait()

    def _secured(self) -> dict[str, object]:
        """TLS with a login of four kinds, and TLS with a client's certificate."""
        modules = "org.apache.kafka.common.security"
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.server,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates.ca,
            "listener.name.certificate.ssl.client.auth": "required",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.login.plain.sasl.jaas.config": (
                f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "listener.name.login.scram-sha-256.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
            "listener.name.login.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
            "listener.name.login.oauthbearer.sasl.jaas.config": (
                f'{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
            ),
        }

    def _java(self, *what: str) -> "subprocess.Popen[bytes]":
        log = open(self._folder / "log.txt", "ab")  # noqa: SIM115 (it is the process's own)
        with log:
            return subprocess.Popen(
                ["java", *_HEAP, "-cp", f"{jars()}/*", *what], cwd=self._folder, stdout=log, stderr=log
            )

    def up(self) -> None:
        """Start it, and wait until it answers."""
        self._process = self._java("kafka.Kafka", "server.properties")
        host, _, port = self.address.partition(":")
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self._folder / "log.txt").read_text()[-3000:]
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                AdminClient({"bootstrap.servers": self.address, "log_level": 0}).list_topics(timeout=START_S)
                return
            time.sleep(0.1)
        raise AssertionError(f"the broker did not start:\n{(self._folder / 'log.txt').read_text()[-3000:]}")

    def down(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process is not None:
            self.down()
            self._held.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def create(self, topic: str, partitions: int = 4) -> None:
        """Create a topic, also where one of that name is still being deleted."""
        deadline = time.monotonic() + ASK_S
        while True:
            try:
                self._admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(ASK_S)
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def delete(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result(ASK_S)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        place = TopicPartition(topic, partition, before)
        next(iter(self._admin.delete_records([place]).values())).result(ASK_S)

    def grow(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(ASK_S)
