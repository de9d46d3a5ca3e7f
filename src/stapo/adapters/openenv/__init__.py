"""Any of our environments as a server of the OpenEnv protocol."""
