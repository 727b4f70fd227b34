"""The ledger when things go wrong: real servers that vanish, answers that are lost, processes killed, disks that are full."""

from __future__ import annotations

import contextlib
import io
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest

from opendt.model.errors import LedgerError
from opendt.verification.ledger import Ledger
from opendt.verification.ledger_patience import Patience
from opendt.verification.ledger_rows import DocumentRow, EventRow
from tests.unit.verification.ledger_sample import entry, fill

ONCE = Patience(limit_s=0)


def exported(ledger):
    stream = io.BytesIO()
    ledger.export(stream)
    return stream.getvalue()


def undisturbed(tmp_path, windows):
    with Ledger.open(tmp_path / "undisturbed.sqlite") as ledger:
        fill(ledger, windows)
        return exported(ledger)


class Line:
    """A line to a server that can be cut: between client and server, or just before an answer comes through."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs = []
        self.is_up = True
        self.swallow = None  # bytes of a request of which the answer never comes
        self.swallowed = 0
        self._closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while not self._closing:
            sockets = [self._listener, *[end for pair in self._pairs for end in pair]]
            for ready in select.select(sockets, [], [], 0.01)[0]:
                if ready is self._listener:
                    self._accept()
                else:
                    self._forward(ready)

    def _accept(self):
        client = self._listener.accept()[0]
        if self.is_up:
            self._pairs.append((client, socket.create_connection(("127.0.0.1", self._target))))
        else:
            client.close()

    def _forward(self, ready):
        pair = next((pair for pair in self._pairs if ready in pair), None)
        if pair is None:
            return
        client, server = pair
        try:
            data = ready.recv(1 << 16)
            if not data:
                raise ConnectionError
            if ready is server:
                client.sendall(data)
                return
            server.sendall(data)
            if self.swallow is not None and self.swallow in data:
                server.recv(1)  # it is done there
                self.swallow = None
                self.swallowed += 1
                raise ConnectionError
        except OSError:
            self._part(pair)

    def _part(self, pair, *, keep_server=False):
        self._pairs.remove(pair)
        pair[0].close()
        if not keep_server:
            pair[1].close()
        else:
            self._half_open = pair[1]

    def cut(self, *, half=False):
        """Cut what is connected; with `half`, the server does not notice."""
        for pair in list(self._pairs):
            self._part(pair, keep_server=half)

    def close(self):
        self._closing = True
        self._thread.join()
        self.cut()
        self._listener.close()
        if hasattr(self, "_half_open"):
            self._half_open.close()


@pytest.fixture
def line(postgres):
    made = Line(int(postgres.split(":")[-1].split("/")[0]))
    yield made
    made.close()


@pytest.fixture
def far(postgres, line):
    """URL of the database over the line."""
    head, tail = postgres.rsplit(":", 1)
    return f"{head}:{line.port}/{tail.split('/')[1]}"


class Waits:
    """A clock that goes on only when it is waited for, and something that happens at a moment of it."""

    def __init__(self, at_s=None, then=lambda: None):
        self.now_s = 0.0
        self._at_s = at_s
        self._then = then
        self.said = []

    def sleep(self, seconds):
        self.now_s += seconds
        if self._at_s is not None and self.now_s >= self._at_s:
            self._at_s = None
            self._then()

    def settings(self):
        return {"monotonic_s": lambda: self.now_s, "sleep": self.sleep, "on_trouble": self.said.append}


def test_a_server_that_is_away_for_a_minute_is_waited_for(own_postgres_server, tmp_path):
    url = own_postgres_server.create_database("kept")
    waits = Waits(60, own_postgres_server.start)
    with Ledger.open(url, **waits.settings()) as ledger, ledger.lease("surf"):
        fill(ledger, 3)
        own_postgres_server.kill()
        for index in range(3, 6):
            assert ledger.record_window(entry(index)) is True
        assert 60 <= waits.now_s < 63
        assert len(waits.said) == 2
        assert "trying again for up to 300 s" in waits.said[0]
        assert waits.said[1] == "the ledger is back"
        assert exported(ledger) == undisturbed(tmp_path, 6)


def test_a_server_that_stays_away_ends_patience_and_nothing_else(own_postgres_server):
    url = own_postgres_server.create_database("kept")
    waits = Waits()
    with Ledger.open(url, patience=Patience(limit_s=10), **waits.settings()) as ledger:
        fill(ledger, 2)
        own_postgres_server.kill()
        with pytest.raises(LedgerError, match="given up after 10 s"):
            ledger.record_window(entry(2))
        with pytest.raises(LedgerError, match="given up after 10 s"):
            ledger.last_window("surf")
        assert len(waits.said) == 1
        own_postgres_server.start()
        assert ledger.record_window(entry(2)) is True
        assert len(waits.said) == 2
        assert ledger.verify() == []


def test_a_lost_answer_to_a_commit_is_looked_up(postgres, line, far, tmp_path):
    waits = Waits()
    with Ledger.open(far, **waits.settings()) as ledger:
        fill(ledger, 3)
        for record in (
            lambda: ledger.record_window(entry(3)),
            lambda: ledger.record_decision("surf", DocumentRow("d", {"accepted": True})),
            lambda: ledger.record_event(EventRow("stopped", 9)),
        ):
            line.swallow = b"COMMIT"
            assert record() is True
            assert record() is False
        assert line.swallowed == 3
        assert ledger.verify() == []
        assert ledger.counts("surf")["windows"] == 4
        assert len(ledger.events(datacenter="")) == 1


def test_a_lease_is_taken_again_when_the_connection_broke(postgres, line, far):
    with Ledger.open(far, **Waits().settings()) as ledger, ledger.lease("surf"):
        fill(ledger, 2)
        line.cut()
        assert ledger.record_window(entry(2)) is True
        with (
            Ledger.open(postgres) as other,
            pytest.raises(LedgerError, match="followed by process"),
            other.lease("surf"),
        ):
            pytest.fail("two have it")


def test_a_dead_session_of_our_own_does_not_keep_us_out(postgres, line, far):
    with Ledger.open(far, **Waits().settings()) as ledger, ledger.lease("surf"):
        fill(ledger, 2)
        line.cut(half=True)
        assert ledger.record_window(entry(2)) is True
        assert ledger.verify() == []


def test_whoever_lost_the_lease_cannot_write(postgres, line, far):
    waits = Waits()
    with (
        Ledger.open(far, patience=ONCE, **waits.settings()) as ledger,
        Ledger.open(postgres, **waits.settings()) as other,
    ):
        with ledger.lease("surf"), ledger.lease("mine"):
            fill(ledger, 2)
            line.is_up = False
            line.cut()
            with pytest.raises(LedgerError, match="given up"):
                ledger.record_window(entry(2))
            with other.lease("surf", wait_s=10):
                line.is_up = True
                for _ in range(2):
                    with pytest.raises(
                        LedgerError, match=r"surf is followed by process .* while the connection was away"
                    ):
                        ledger.record_window(entry(2))
                assert other.record_window(entry(2)) is True
                fill(ledger, 1, "mine")
            with pytest.raises(LedgerError, match="while the connection was away"):
                ledger.record_window(entry(3))
        assert ledger.record_window(entry(3)) is True
        assert other.verify() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.replace("opendt:", "opendt:x"), "authentication failed"),
        (lambda url: url.rsplit("/", 1)[0] + "/nowhere", "does not exist"),
    ],
)
def test_what_does_not_pass_is_not_waited_for_and_no_password_is_said(postgres, change, message):
    wrong = change(postgres)
    waits = Waits()
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger.open(wrong, **waits.settings())
    assert waits.now_s == 0
    assert postgres.split(":")[2].split("@")[0] not in str(caught.value)


def test_no_password_is_said_while_waiting():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused, and nobody else gets it
        waits = Waits()
        url = f"postgresql://someone:hunter2@127.0.0.1:{taken.getsockname()[1]}/db?sslpassword=hunter3"
        with pytest.raises(LedgerError, match=r"someone:.*given up after 300 s") as caught:
            Ledger.open(url, **waits.settings())
    assert "hunter" not in str(caught.value) + str(waits.said)


# A process of its own, which records windows until it is killed.

RECORDER = """
import sys
from opendt.verification.ledger import Ledger
from tests.unit.verification.ledger_sample import SLO, TOPOLOGY, entry
with Ledger.open(sys.argv[1]) as ledger, ledger.lease("surf", wait_s=10):
    ledger.record_topology_version("surf", TOPOLOGY)
    ledger.record_slo_version("surf", SLO)
    last = ledger.last_window("surf")
    print("leading", flush=True)
    for index in range(0 if last is None else last.index, int(sys.argv[2])):
        ledger.record_window(entry(index))
        print(index, flush=True)
"""


def recorder(url, windows):
    return subprocess.Popen([sys.executable, "-c", RECORDER, url, str(windows)], stdout=subprocess.PIPE, text=True)


def lines_until(process, count):
    return [line for line, _ in zip(process.stdout, range(count), strict=False)]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    return f"sqlite:///{tmp_path}/ledger.sqlite"


def test_a_process_killed_anywhere_leaves_whole_windows(url, tmp_path):
    """What it had said to be recorded is recorded; what was recorded is whole; the rest is recorded by the next."""
    draw = random.Random(20 if os.environ.get("OPENDT_SOAK") != "1" else None)
    windows, said = 60, -1
    for _ in range(4):
        with recorder(url, windows) as process:
            told = lines_until(process, draw.randrange(2, 16))
            process.send_signal(signal.SIGKILL)
            told += process.stdout.readlines()
        said = max([said, *[int(line) for line in told if line.strip().isdigit()]])
        with Ledger.open(url, read_only=True) as ledger:
            assert ledger.last_window("surf").index >= said
            assert ledger.verify() == []
    with recorder(url, windows) as process:
        assert process.communicate()[0].splitlines()[-1] == str(windows - 1)
    with Ledger.open(url) as ledger:
        assert exported(ledger) == undisturbed(tmp_path, windows)


def test_a_second_process_is_refused_and_told_by_whom(url):
    with recorder(url, 1_000_000) as process:
        assert lines_until(process, 3)[0] == "leading\n"
        try:
            with (
                Ledger.open(url) as ledger,
                pytest.raises(LedgerError, match=rf"surf is followed by process {process.pid}\b"),
                ledger.lease("surf"),
            ):
                pytest.fail("two have it")
        finally:
            process.kill()
    with Ledger.open(url) as ledger, ledger.lease("surf", wait_s=10):
        assert ledger.verify() == []


def test_processes_that_make_one_ledger_at_once_make_one(url):
    started = [recorder(url, 0) for _ in range(3)]
    for process in started:
        with process:
            assert process.communicate()[0] == "leading\n"
            assert process.returncode == 0
    with Ledger.open(url) as ledger:
        assert ledger.counts("surf")["topology_versions"] == 1
        assert ledger.verify() == []


def test_a_ledger_in_use_is_whole_at_every_moment(url, tmp_path):
    """Whoever checks or exports while windows are recorded sees so many of them, each whole."""
    windows = 120
    complete = undisturbed(tmp_path, windows).splitlines()
    with recorder(url, windows) as process:
        assert lines_until(process, 2) == ["leading\n", "0\n"]
        seen = []
        with Ledger.open(url, read_only=True) as ledger:
            while process.poll() is None:
                assert ledger.verify() == []
                lines = exported(ledger).splitlines()
                assert lines == complete[: len(lines)]
                seen.append(len(lines))
        process.stdout.read()
    assert len(set(seen)) > 1


def test_a_follower_of_events_misses_none(url):
    """Numbers of events are seen in their order, although several write at once."""
    Ledger.open(url).close()

    def write(name):
        with Ledger.open(url) as ledger:
            fill(ledger, 15, name)
            for number in range(15):
                ledger.record_event(EventRow("told", number), name)

    threads = [threading.Thread(target=write, args=[name]) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    seen = []
    with Ledger.open(url, read_only=True) as follower:
        while any(thread.is_alive() for thread in threads):
            seen += follower.events(seen[-1].id if seen else 0)
        seen += follower.events(seen[-1].id if seen else 0)
        assert seen == follower.events()
    assert len(seen) == 3 * (2 * 15 + 15)


def test_threads_take_turns(url):
    with Ledger.open(url) as ledger, ledger.lease("surf"):
        fill(ledger, 1)

        def tell(thread):
            for number in range(20):
                assert ledger.record_event(EventRow(f"thread_{thread}", number), "surf") is True

        threads = [threading.Thread(target=tell, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for index in range(1, 21):
            assert ledger.record_window(entry(index)) is True
        for thread in threads:
            thread.join()
        assert ledger.counts("surf")["events"] == 60 + 2 * 21
        assert ledger.verify() == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if not made or made.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_survived(small_disk, tmp_path):
    waits = Waits()
    with Ledger.open(small_disk / "ledger.sqlite", patience=Patience(limit_s=5), **waits.settings()) as ledger:
        fill(ledger, 5)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        recorded = 5
        with pytest.raises(LedgerError, match=r"the disk is full, expected room to record.*given up after 5 s"):  # noqa: PT012
            while True:
                ledger.record_window(entry(recorded))
                recorded += 1
        assert [text.split(";")[0].split(": ")[1] for text in waits.said] == [
            "the disk is full, expected room to record. Make some"
        ]
        assert ledger.last_window("surf").index == recorded - 1
        ballast.unlink()
        for index in range(recorded, recorded + 5):
            assert ledger.record_window(entry(index)) is True
        assert waits.said[1:] == ["the ledger is back"]
        assert exported(ledger) == undisturbed(tmp_path, recorded + 5)
        assert ledger.verify() == []
