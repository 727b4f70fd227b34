"""Several Kubernetes clusters: sensed, acted on, and answered as a scheduler extender."""
