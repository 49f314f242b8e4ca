"""The table of baselines: ways of judging a leather picture on the usual and the honest protocols."""
