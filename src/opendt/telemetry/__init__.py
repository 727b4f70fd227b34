"""Streams of what happens: the port, its adapters (embedded log, Kafka), messages, windows and replay."""
