"""The live twin: calibration, forecasts and forks of the running simulation."""
