"""What was said beside what then happened: scores of forecasts, and the report that shows them.

:mod:`opendt.verification.score` judges predictions against measurements and against persistence;
:mod:`opendt.verification.report` draws a page of it. Neither decides anything, and neither knows the loop: it fills their
records.
"""
