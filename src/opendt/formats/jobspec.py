"""Jobs in files and over the wire: read with clear errors, and described by a JSON Schema.

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
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from opendt.formats.yamlfile import read_document, read_model
from opendt.model.base import Model
from opendt.model.errors import FormatError, shown
from opendt.model.job import Job

__all__ = ["JobList", "job_schema", "read_job", "read_jobs"]


class JobList(Model):
    """Several jobs, planned in this order."""

    jobs: Annotated[tuple[Job, ...], Field(min_length=1, max_length=10_000)]


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


def job_schema() -> dict[str, Any]:
    """Give the JSON Schema of a job (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "job"} | TypeAdapter(Job).json_schema()
