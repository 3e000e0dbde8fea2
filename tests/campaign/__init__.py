"""Campaigns of damage, kills and races: `make fuzz`, `make chaos`; a part of each is in the tests."""
