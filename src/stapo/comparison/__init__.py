"""Experiments of several runs: the same starts and tasks for every algorithm, and what their differences are worth."""
