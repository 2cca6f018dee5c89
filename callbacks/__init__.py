"""Lightning callbacks: see, flag, correct."""

if __name__ == "callbacks":
    raise ImportError("import camtrain.callbacks, not callbacks: the bare name loads a second copy of every class")
