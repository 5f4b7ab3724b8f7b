"""Targets: one TOML file for each device, with a section for each use."""
