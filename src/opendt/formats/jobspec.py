"""Jobs in files and over the wire: read with clear errors, and described by JSON Schemas.

The form is that of `opendt.model.job.Job`, in YAML or JSON::

    id: thumbnails
    origin: {cluster: campus-lab}
    deadline_ms: 60000
    stages:
      - {id: fetch, cpu_millicores: 20000, memory_mib: 4096, work: {cpu_seconds: 400}, output_mb: 20}
      - {id: shrink, needs: [fetch], cpu_millicores: 50000, memory_mib: 8192, formats: [native, wasm],
         work: {kind: floating_point, cpu_seconds: 1000}}

A file may also hold a list of jobs under ``jobs``, as ``POST /plans`` takes it. docs/reference/formats.md lists all keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from opendt.formats.yamlfile import read_document, read_model
from opendt.model.base import Flag, Milliseconds, Model, NonNegative
from opendt.model.errors import FormatError, shown
from opendt.model.job import Job

__all__ = [
    "OBSERVE_KINDS",
    "ChaosReport",
    "JobList",
    "NodeReport",
    "ObserveBody",
    "PlanBody",
    "TelemetryReport",
    "json_schemas",
    "read_job",
    "read_jobs",
]

Name = Annotated[str, Field(min_length=1, max_length=253)]


class PlanBody(Model):
    """What ``POST /plan`` takes."""

    job: Job
    strategy: str | None = None
    dry_run: Flag = False


class JobList(Model):
    """Several jobs, planned in this order."""

    jobs: Annotated[tuple[Job, ...], Field(min_length=1, max_length=10_000)]


class NodeReport(Model):
    """``POST /observe``: somebody saw a node go or come back."""

    type: Literal["node_down", "node_up"]
    cluster: Name
    node: Name
    time_ms: Milliseconds | None = None
    """When, ms since the epoch, UTC; now unless given."""
    reason: str = ""


class TelemetryReport(Model):
    """``POST /observe``: what a meter or an agent measured on a node."""

    type: Literal["telemetry"]
    cluster: Name
    node: Name
    time_ms: Milliseconds | None = None
    cpu_usage_millicores: NonNegative | None = None
    memory_usage_mib: NonNegative | None = None
    power_w: NonNegative | None = None


class ChaosReport(Model):
    """``POST /observe``: a disturbance that somebody caused on purpose, so that it is not taken for the nodes' own failure."""

    type: Literal["chaos"]
    cluster: Name
    node: Name | None = None
    """All nodes of the cluster unless given."""
    kind: str
    time_ms: Milliseconds | None = None
    duration_ms: Milliseconds = 0


ObserveBody = Annotated[NodeReport | TelemetryReport | ChaosReport, Field(discriminator="type")]
"""What ``POST /observe`` takes."""

OBSERVE_KINDS: Final = ("node_down", "node_up", "telemetry", "chaos")


def read_job(path: Path | str) -> Job:
    """Read one job from a YAML or JSON file.

    Raises
    ------
    FormatError
        Naming file and key, what was found and what was expected.
    """
    return read_model(path, Job)


def read_jobs(path: Path | str) -> tuple[Job, ...]:
    """Read one job, or several under ``jobs``; raises as `read_job`, also when two have one id."""
    value = read_document(path)
    if not (isinstance(value, dict) and "jobs" in value):
        return (read_job(path),)
    jobs = read_model(path, JobList).jobs
    seen: set[str] = set()
    for place, job in enumerate(jobs):
        if job.id in seen:
            raise FormatError(path, f"jobs[{place}].id", shown(job.id), "an id that no other job of the file has")
        seen.add(job.id)
    return jobs


def json_schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON Schemas of a job, of lists of them and of the bodies of ``POST /plan`` and ``POST /observe``.

    `job`, `jobs`, `plan` and `observe`, in this order; each stands on its own (draft 2020-12).
    """
    kinds: dict[str, Any] = {"job": Job, "jobs": JobList, "plan": PlanBody, "observe": ObserveBody}
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {name: {"$schema": draft, "title": name} | TypeAdapter(kind).json_schema() for name, kind in kinds.items()}
