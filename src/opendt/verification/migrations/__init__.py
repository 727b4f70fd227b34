"""The database under the ledger: the schema, its history, and the one connection to it.

:mod:`~opendt.verification.migrations.tables` is the schema as it is today, :mod:`~opendt.verification.migrations.upgrade`
brings a database to it through the revisions in ``versions``. A revision that has been released never changes: it says what
the schema was on that day, so it shares nothing with `tables`; a test holds the two together.
:mod:`~opendt.verification.migrations.session` connects, waits and holds leases.
"""
