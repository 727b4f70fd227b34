"""Objects as API servers send them."""

from __future__ import annotations

import copy


def node_object(name="n1", labels=None, **more):
    thing = {
        "metadata": {"name": name, "resourceVersion": "7", "labels": {"kubernetes.io/arch": "amd64", **(labels or {})}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "3900m", "memory": "16000000Ki", "pods": "110"},
            "capacity": {"cpu": "4", "memory": "16384000Ki", "pods": "110"},
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
            "nodeInfo": {"architecture": "amd64"},
        },
    }
    return merged(thing, more)


def pod_object(name="p1", **more):
    thing = {
        "metadata": {
            "name": name,
            "namespace": "opendt",
            "uid": f"uid-{name}",
            "resourceVersion": "11",
            "creationTimestamp": "2026-11-22T10:00:00Z",
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "worker", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}}],
        },
        "status": {"phase": "Pending"},
    }
    return merged(thing, more)


def merged(thing, more):
    """Lay one dictionary over another, all the way down; lists are replaced."""
    result = copy.deepcopy(thing)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
