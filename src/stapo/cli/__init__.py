"""The command line: `stapo train | eval | play | report | envs | algorithms`."""
