"""Nominate a cue, intervene, decide."""
