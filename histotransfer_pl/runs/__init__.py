"""Runs and studies: the one place where they are read, evaluated and compared."""
