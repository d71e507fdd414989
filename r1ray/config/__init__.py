"""The configuration: schema, loading and validation."""
