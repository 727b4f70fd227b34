"""Faces over HTTP: the REST interface of a fleet."""
