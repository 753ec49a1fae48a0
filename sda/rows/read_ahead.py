"""What comes next is made while what is there is used."""

import collections
import concurrent.futures


def ahead(function, items, most=2):
    """Yield `function(item)` of each item; a thread makes the next ones while one is in use.

    Never more than `most` of them exist at a time. What `function` raises is raised where its
    result would have come. When the generator is closed or deleted, the thread has ended.
    """
    reader = concurrent.futures.ThreadPoolExecutor(1, "sda-reader")
    try:
        results = collections.deque()
        for item in items:
            results.append(reader.submit(function, item))
            if len(results) == most:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        # What nobody will use is not begun.
        reader.shutdown(cancel_futures=True)
