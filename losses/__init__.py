"""Losses that move the evidence onto the object."""

if __name__ == "losses":
    raise ImportError("import camtrain.losses, not losses: the bare name loads a second copy of every class")
