"""`python -m camtrain` is `camtrain`."""

from camtrain.cli import main

main()
