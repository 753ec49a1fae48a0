"""What comes next is made while what is there is used."""

import collections
import concurrent.futures


def ahead(function, items):
    """Yield `function(item)` of each item; a thread makes the next one while one is in use.

    Never more than two of them exist at a time. What `function` raises is raised where its result
    would have come. When the generator is closed or deleted, the thread has ended.
    """
    with concurrent.futures.ThreadPoolExecutor(1, "sda-reader") as reader:
        results = collections.deque()
        for item in items:
            results.append(reader.submit(function, item))
            if len(results) == 2:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
