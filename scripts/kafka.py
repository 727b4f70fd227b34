"""A real single-node Apache Kafka broker (KRaft) on 127.0.0.1, for tests and for trying things out.

    python -m scripts.kafka [--dir DIR] [--port PORT]     run until Ctrl-C
    python -m scripts.kafka --fetch                       only get the broker's jars (about 45 MB, by Maven)

Needs Java 17 or newer, and Maven the first time. It trusts everyone on this machine and spares memory and time, not data:
not for production.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.processes import Server, free_port, run_until_interrupted

__all__ = ["SASL_PASSWORD", "SASL_USER", "VERSION", "KafkaBroker", "fetch_jars", "jars_folder"]

VERSION = "4.3.0"
# Known to everyone who reads this: they guard nothing, they let clients show that they can log in.
SASL_USER = "opendt"
SASL_PASSWORD = "correct-horse"

_IDENTITY = "identity.pem"
_COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

_POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location={folder}/{identity}
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_{user}="{password}";
log.dirs={folder}/data
auto.create.topics.enable=false
# One node: every internal topic has one replica, and one partition to keep start-up short.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# No waiting for more members, and members that died are noticed soon.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# A killed broker may register again only when its old session has ended (default 9 s).
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
# Small threads and buffers, an eager compactor.
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.backoff.ms=500
log.initial.task.delay.ms=500
"""


def jars_folder() -> Path:
    """Folder that holds the broker's jars once they are fetched, outside the checkout."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "opendt" / f"kafka-{VERSION}"


def fetch_jars() -> Path:
    """Get the broker's runtime jars by Maven unless they are there, and return their folder.

    Raises
    ------
    RuntimeError
        When Maven is missing or fails; with its last lines.
    """
    folder = jars_folder()
    if folder.is_dir():
        return folder
    if shutil.which("mvn") is None:
        raise RuntimeError("Maven gets the Kafka broker, and there is no mvn: install maven")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made whole beside its place and moved there: a folder that exists is complete.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as making:
        pom, jars = Path(making) / "pom.xml", Path(making) / "jars"
        pom.write_text(_POM.format(version=VERSION), encoding="utf-8")
        command = ["mvn", "--quiet", "--batch-mode", "--strict-checksums", "--file", str(pom), _COPY_GOAL]
        done = subprocess.run(
            [*command, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise RuntimeError(f"Maven could not get Kafka {VERSION}:\n{last}")
        try:
            jars.rename(folder)
        except OSError:  # someone else was faster
            if not folder.is_dir():
                raise
    return folder


class KafkaBroker:
    """One broker with two listeners: a plain one, and one with TLS and login (SASL PLAIN) if there is openssl.

    Parameters
    ----------
    folder : Path
        Where its state lives; what an earlier broker left there is served again.
    port : int, optional
        Port to listen on if it is free; else one that is.

    Attributes
    ----------
    bootstrap : str
        Address for clients, ``127.0.0.1:port``; stays the same when the broker is ended and started again.
    secure_bootstrap : str
        Address for clients that trust `certificate` and log in with `SASL_USER` and `SASL_PASSWORD` (SASL_SSL, PLAIN).
    certificate : Path
        The broker's certificate, signed by itself.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        jars = fetch_jars()
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._port = free_port(port)
        self.bootstrap = f"127.0.0.1:{self._port}"
        self.secure_bootstrap = f"127.0.0.1:{free_port()}"
        self.certificate = folder / "certificate.pem"
        self._properties = folder / "server.properties"
        listeners = [f"PLAINTEXT://{self.bootstrap}"]
        if _make_identity(folder / _IDENTITY, self.certificate):
            listeners.append(f"SASL_SSL://{self.secure_bootstrap}")
        self._settings = _PROPERTIES.format(
            listeners=",".join(listeners),
            controller=free_port(),
            folder=folder,
            identity=_IDENTITY,
            user=SASL_USER,
            password=SASL_PASSWORD,
        )
        self._java = [
            shutil.which("java") or "java",
            "-Xms64m",
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            f"{jars}/*",
        ]
        if not (folder / "data" / "meta.properties").exists():
            self._format()
        self.server = Server("the Kafka broker", folder, self._is_ready)

    def start(self) -> float:
        """Start, wait until clients can connect, and return the seconds that took."""
        self._properties.write_text(self._settings, encoding="utf-8")
        return self.server.start([*self._java, "kafka.Kafka", str(self._properties)])

    def stop(self) -> None:
        """End it in order."""
        self.server.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self.server.end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _format(self) -> None:
        self._properties.write_text(self._settings, encoding="utf-8")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*self._java, "kafka.tools.StorageTool", "format", "-c", str(self._properties)]
        command.append(f"--cluster-id={cluster}")  # it may begin with a dash
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"Kafka could not format its folder:\n{done.stdout.strip()}")

    def _is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True


def _make_identity(identity: Path, certificate: Path) -> bool:
    """Make a key with a certificate for 127.0.0.1 unless they are there; return whether they are."""
    openssl = shutil.which("openssl")
    if certificate.exists() or openssl is None:
        return certificate.exists()
    key = identity.with_suffix(".key")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:127.0.0.1", "-days", "3650"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    identity.touch(mode=0o600)
    identity.write_text(key.read_text() + certificate.read_text(), encoding="utf-8")
    key.unlink()
    return True


def main() -> int:
    """Fetch the jars or run a broker; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts.kafka", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fetch", action="store_true", help="only get the broker's jars")
    parser.add_argument("--dir", type=Path, help="keep the broker's state here; else it is forgotten at the end")
    parser.add_argument("--port", type=int, default=9092, help="port to listen on if it is free (default 9092)")
    arguments = parser.parse_args()
    try:
        if arguments.fetch:
            fetch_jars()
            return 0
        with tempfile.TemporaryDirectory(prefix="opendt-kafka-") as passing:
            broker = KafkaBroker(arguments.dir or Path(passing), arguments.port)
            took_s = broker.start()
            try:
                print(f"Kafka {VERSION} serves at {broker.bootstrap} after {took_s:.1f} s; Ctrl-C ends it", flush=True)
                return run_until_interrupted(broker.server)
            finally:
                broker.stop()
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
