"""How much of a gain was already inside the base model? Studies, estimators, calibration, reports, the command."""
