"""A real PostgreSQL server on 127.0.0.1, for tests and for trying things out.

    python -m scripts.postgres [--dir DIR] [--port PORT]     run until Ctrl-C

Needs the server's programs (Debian: postgresql). It does not wait for the disk (a power cut can cost its data, a crash of the
process cannot): not for production.
"""

from __future__ import annotations

import argparse
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.processes import Server, free_port, run_until_interrupted

__all__ = ["PostgresServer", "server_programs"]

USER = "opendt"
# Safe against a killed process, because the page cache survives it; synchronous_commit=off would not be.
_SETTINGS = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=60")


def server_programs() -> Path:
    """Folder of the newest PostgreSQL server's programs.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = sorted(debian, key=lambda path: float(path.parent.parent.name))
    elsewhere = shutil.which("initdb")
    if found:
        return found[-1].parent
    if elsewhere:
        return Path(elsewhere).resolve().parent
    raise FileNotFoundError("no PostgreSQL server here: install postgresql")


class PostgresServer:
    """One server with one user, who owns it and logs in with a password.

    Under root it runs as the user ``postgres``, since it refuses to run as root; the folder is then that user's.

    Parameters
    ----------
    folder : Path
        Where its state lives; what an earlier server left there is served again.
    port : int, optional
        Port to listen on if it is free; else one that is.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._programs = server_programs()
        self._user = _other_user() if os.geteuid() == 0 else None
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            os.chown(folder, *self._user)
        self._port = free_port(port)
        self._data = folder / "data"
        self._password_file = folder / "password"
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._password = self._password_file.read_text(encoding="utf-8")
        self.server = Server("PostgreSQL", folder, self._is_ready, user=self._user)

    def url(self, database: str = "postgres") -> str:
        """Address of a database as SQLAlchemy takes it; stays the same when the server is ended and started again."""
        return f"postgresql+psycopg://{USER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database and return its `url`."""
        self._run("createdb", "--no-password", name)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._run("dropdb", "--no-password", "--force", name)

    def start(self) -> float:
        """Start, wait until clients can connect, and return the seconds that took."""
        # No socket file: its path may hold 107 bytes, which a folder of a test easily exceeds.
        settings = (f"port={self._port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *_SETTINGS)
        flags = [part for setting in settings for part in ("-c", setting)]
        return self.server.start([str(self._programs / "postgres"), "-D", str(self._data), *flags])

    def stop(self) -> None:
        """End it in order, without waiting for clients to leave."""
        self.server.end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would: at once, to recover at the next start."""
        self.server.end(signal.SIGQUIT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _initialise(self) -> None:
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(16), encoding="utf-8")
        if self._user:
            os.chown(self._password_file, *self._user)
        user, group = self._user or (None, None)
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", USER, "-A", "scram-sha-256"]
        done = subprocess.run(
            [*command, f"--pwfile={self._password_file}", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            user=user,
            group=group,
            extra_groups=None if self._user is None else [],
        )
        if done.returncode != 0:
            raise RuntimeError(f"PostgreSQL could not make its folder:\n{done.stdout.strip()}")

    def _is_ready(self) -> bool:
        where = ["-h", "127.0.0.1", "-p", str(self._port)]
        return subprocess.run([str(self._programs / "pg_isready"), "-q", *where], check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        where = ["-h", "127.0.0.1", "-p", str(self._port), "-U", USER]
        environment = {**os.environ, "PGPASSWORD": self._password}
        subprocess.run([str(self._programs / program), *where, *arguments], check=True, env=environment)


def _other_user() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        raise RuntimeError("PostgreSQL refuses to run as root, and there is no user postgres") from None
    return entry.pw_uid, entry.pw_gid


def main() -> int:
    """Run a server; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts.postgres", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dir", type=Path, help="keep the server's state here; else it is forgotten at the end")
    parser.add_argument("--port", type=int, default=5432, help="port to listen on if it is free (default 5432)")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="opendt-postgres-") as passing:
            server = PostgresServer(arguments.dir or Path(passing), arguments.port)
            took_s = server.start()
            try:
                print(f"PostgreSQL serves after {took_s:.1f} s; Ctrl-C ends it\n{server.url()}", flush=True)
                return run_until_interrupted(server.server)
            finally:
                server.stop()
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
