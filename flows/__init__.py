"""Orchestration: what runs in which order, on top of tasks/ (called by the command line and by Prefect deployments)."""
