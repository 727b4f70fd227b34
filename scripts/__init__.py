"""What `make` runs, and the servers that tests and people start on their own machine."""
