"""Train, see, flag, correct: `python train.py fit --config configs/demo.yaml`."""

from camtrain.cli import main

if __name__ == "__main__":
    main()
