"""Who makes archives."""
