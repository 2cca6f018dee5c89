"""The processes of one training, forked from the test's own: none of them imports anything again."""

import multiprocessing
import os
import socket
import traceback
import warnings

import torch


def forked(function, *arguments, folder, devices=2):
    """What `function(*arguments)` gives in each of the processes that a launcher like torchrun would have started.

    Warnings are not errors there, and are not shown: a function that is about warnings returns what it caught.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    files = [folder / f"rank{rank}-of-{devices}.pt" for rank in range(devices)]
    workers = [
        context.Process(target=_work, args=(function, arguments, file, rank, devices, port))
        for rank, file in enumerate(files)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside pytest's own threads
        for worker in workers:
            worker.start()
    try:
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0] * devices, [
            file.with_suffix(".txt").read_text() for file in files if file.with_suffix(".txt").exists()
        ]
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(file, weights_only=False) for file in files]


def _work(function, arguments, file, rank, devices, port):
    names = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": devices, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a fork has none of the threads that its parent's pool counts on, and would wait for them
    try:
        torch.save(function(*arguments), file)
    except BaseException:
        file.with_suffix(".txt").write_text(traceback.format_exc())
        raise
