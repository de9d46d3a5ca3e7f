"""Environments behind servers of the OpenEnv protocol."""
