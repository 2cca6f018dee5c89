"""The former place of the command line's parts."""
