"""A fleet of real Kubernetes clusters on one machine, without containers for the control planes and without Docker.

``python3 -m scripts.fleet --help``; described in docs/guides/fleet-local.md. Standard library and PyYAML only.
"""
