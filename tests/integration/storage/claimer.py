"""One of several processes that share questions: claims and ends them until none is due; prints each."""

import sys
import time
from pathlib import Path

from storage.store import Store


def main(root: str, url: str, owner: str) -> None:
    """Waits for a moment when nothing is due: the other process may be claiming."""
    with Store.open(Path(root), url) as store:
        for _ in range(3):
            while (question := store.questions.claim(owner, 60.0)) is not None:
                time.sleep(0.01)  # somebody works on it
                store.questions.finish(question)
                print(question.sop_instance_uid)
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
