"""Language: captions that are true of a behaviour, claims that can be checked, and text as vectors."""
