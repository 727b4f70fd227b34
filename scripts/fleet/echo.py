"""Measure round trips with ICMP echoes, as ping does; the kernel at the other end answers.

    python3 -m scripts.fleet.echo COUNT ADDRESS...     within a network namespace; prints JSON, address -> [ms, ...]

It needs root. What is measured includes the time both kernels take, and what a busy machine lets this program wait.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.fleet.network import Namespace

__all__ = ["measure_round_trips"]

_REQUEST, _REPLY = 8, 0
_PATIENCE_S = 2.0
_ROOT = Path(__file__).resolve().parents[2]


def measure_round_trips(spaces: Sequence[Namespace], count: int = 9) -> dict[tuple[str, str], list[float]]:
    """Measure between all clusters, both ways, one cluster after the other.

    Parameters
    ----------
    spaces : sequence of Namespace
        One for each cluster.
    count : int
        Echoes for each pair.

    Returns
    -------
    dict
        (from, to) -> round trips in ms, without those that did not come back within two seconds.
    """
    by_address = {space.address: space.cluster for space in spaces}
    found: dict[tuple[str, str], list[float]] = {}
    for space in spaces:
        others = [address for address in by_address if address != space.address]
        command = [sys.executable, "-m", "scripts.fleet.echo", str(count), *others]
        done = subprocess.run(space.enter(command), check=True, capture_output=True, text=True, cwd=_ROOT)
        answers: Mapping[str, list[float]] = json.loads(done.stdout)
        found |= {(space.cluster, by_address[address]): times for address, times in answers.items()}
    return found


def _echo(addresses: Sequence[str], count: int) -> dict[str, list[float]]:
    """Send to all at once, again when all have answered, and return address -> round trips in ms."""
    times_ms: dict[str, list[float]] = {address: [] for address in addresses}
    identity = os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        for number in range(count + 1):
            sent_s = {}
            for address in addresses:
                request = _packet(identity, number)
                sent_s[address] = time.perf_counter()
                link.sendto(request, (address, 0))
            for address, took_s in _replies(link, identity, number, sent_s):
                if number > 0:  # the first one wakes everybody up
                    times_ms[address].append(took_s * 1000)
    return times_ms


def _replies(
    link: socket.socket, identity: int, number: int, sent_s: Mapping[str, float]
) -> Iterator[tuple[str, float]]:
    waiting = set(sent_s)
    end = time.perf_counter() + _PATIENCE_S
    while waiting and (left := end - time.perf_counter()) > 0:
        link.settimeout(left)
        try:
            answer, (address, _) = link.recvfrom(2048)
        except TimeoutError:
            return
        ended_s = time.perf_counter()
        header = (answer[0] & 0x0F) * 4
        kind, _, _, whose, which = struct.unpack("!BBHHH", answer[header : header + 8])
        if (kind, whose, which) == (_REPLY, identity, number) and address in waiting:
            waiting.remove(address)
            yield address, ended_s - sent_s[address]


def _packet(identity: int, number: int) -> bytes:
    body = b"opendt fleet"
    blank = struct.pack("!BBHHH", _REQUEST, 0, 0, identity, number) + body
    return struct.pack("!BBHHH", _REQUEST, 0, _checksum(blank), identity, number) + body


def _checksum(data: bytes) -> int:
    """Checksum of RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


if __name__ == "__main__":
    print(json.dumps(_echo(sys.argv[2:], int(sys.argv[1]))))
