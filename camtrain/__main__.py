"""`python -m camtrain` is `camtrain`."""

from camtrain.cli import main

if __name__ == "__main__":
    main()
