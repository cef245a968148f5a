"""Exact integer training: evaluates the relation's graphs, step by step."""
