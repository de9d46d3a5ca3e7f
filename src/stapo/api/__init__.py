"""The functions behind `stapo.train`, `evaluate`, `compare` and `diagnose`; the command line calls them as well."""
