"""Entry points: thin stages that read a config, call the library and write files."""
