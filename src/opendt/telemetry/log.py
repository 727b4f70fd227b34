"""The embedded durable log: topics in a folder, for several processes of one machine, with nothing to install.

`LogDirectory` is the folder with its settings, `LogSink` writes, `LogSource` reads and follows. The files are described in
docs/reference/log-format.md; why they are not a database's in docs/decisions/0009-embedded-log.md.
"""

from opendt.telemetry.log_directory import LogDirectory
from opendt.telemetry.log_format import TornEnd, report_torn_end
from opendt.telemetry.log_reader import LogSource, report_gap
from opendt.telemetry.log_writer import LogSink

__all__ = ["LogDirectory", "LogSink", "LogSource", "TornEnd", "report_gap", "report_torn_end"]
