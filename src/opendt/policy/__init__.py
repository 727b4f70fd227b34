"""Placement of jobs on a fleet."""
