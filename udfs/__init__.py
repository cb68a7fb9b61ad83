"""Thin adapters that put a Scorer into an engine; import the leaf: `from udfs.duckdb_udf import register`."""
