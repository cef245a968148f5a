"""What a child process of a pool does first: it ends when its parent does. Standard library alone: children import little."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """A parent that is killed cannot end its children, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
