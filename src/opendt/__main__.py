"""``python -m opendt`` is the command ``opendt``."""

from opendt.cli.main import main

main()
