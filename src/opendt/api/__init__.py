"""Faces over HTTP: the REST interface of a fleet, problems as RFC 9457 wants them, and who may call."""
