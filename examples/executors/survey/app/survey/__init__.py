"""Summarises answers by group."""
