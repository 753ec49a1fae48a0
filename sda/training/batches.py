"""Batches that are asked for anew in each epoch: of datasets, generators and loaders."""

import collections.abc
import contextlib
import itertools

import keras
import numpy as np
from keras import tree
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from sda.rows.arrays import arrays_of_lists, in_place
from sda.rows.iterated import batch_at, is_loader, is_tf, length, warn_of_end
from sda.rows.read_ahead import ahead

# What a pass yields after its last batch.
END = object()
# Of a generator Keras takes so many batches to see what they are, and gives them back.
SEEN = 2


class Batches:
    """A source of batches, of which every epoch asks for its own, as `keras.Model.fit` does.

    An epoch of `steps` batches goes on where the one before it has left the source, and a new pass
    begins where a pass has ended.

    Args:
        source: What yields batches, see `sda.rows.iterated.is_iterated`.
        name: What to call it in errors.
        steps: Integer, the batches of an epoch, or None for all that come.
        check: Function that returns a batch, or the rows of several, as a step takes them.
    """

    def __init__(self, source, name, steps, check):
        self.source = source
        self.name = name
        self.steps = steps
        self.check = check
        self.passes_once = isinstance(source, collections.abc.Iterator)
        self._seen = list(itertools.islice(source, SEEN)) if self.passes_once else []
        self.example = None  # a batch, once `first` was called
        self._pass = None  # what is left of the one that is under way
        self._held = None  # a batch that comes before that
        self._warned = False

    def length(self):
        """Return how many batches an epoch has, or None where that is not known."""
        return self.steps or length(self.source)

    def first(self):
        """Take a first batch as the `example`, to be checked and to build a model by.

        A pass yields it too. It is taken as Keras takes one, so that what is shuffled by a seed of
        its own is in every epoch in the order that it has under Keras.
        """
        if keras.backend.backend() == "tensorflow":
            batch = self._looked_at()
        else:
            self._hook("on_epoch_begin")
            with contextlib.closing(self._new_pass()) as batches:
                batch = next(batches)
        self._hook("on_epoch_end")
        if batch is END:
            raise self._nothing()
        self.example = self.check(batch)

    def _looked_at(self):
        """Return a batch without a pass of its own, where that is possible."""
        source = self.source
        if isinstance(source, keras.utils.PyDataset):
            batches = [batch_at(source, i, self.name) for i in range(min(SEEN, length(source)))]
        elif hasattr(source, "element_spec"):
            shapes = [spec.shape for spec in tree.flatten(source.element_spec)]
            if all(shape.rank and None not in shape[1:].as_list() for shape in shapes):
                batches = [tree.map_structure(_zeros, source.element_spec)]
            else:
                batches = itertools.islice(source.as_numpy_iterator(), 1)
        else:
            batches = self._seen or list(itertools.islice(source, SEEN))
        return self._arrays(next(iter(batches), END))

    def more(self):
        """Return whether another epoch has batches; a source that passes once may have none."""
        if not self.passes_once:
            return True
        if self._pass is None:
            self._pass = self._new_pass()
        self._held = self._next()
        if self._held is END and not self._warned:
            warn_of_end(self.name, 0, self.steps)
        return self._held is not END

    def dispatches(self, steps_of, order=None):
        """Yield (rows, number of batches, most of them) for the dispatches of an epoch.

        Args:
            steps_of: Function from a batch to how many like it may share a dispatch.
            order: Function from the number of batches to their order, where a source can be asked
                for them in any.
        """
        group, kind, most = [], None, 1
        self._hook("on_epoch_begin")
        with contextlib.closing(self._epoch(steps_of, order)) as batches:
            for batch in batches:
                if group and _kind(batch) != kind:
                    yield self.check(_joined(group)), len(group), most
                    group = []
                if not group:
                    kind, most = _kind(batch), steps_of(batch)
                group.append(batch)
                if len(group) == most:
                    yield self.check(_joined(group)), len(group), most
                    group = []
            if group:
                yield self.check(_joined(group)), len(group), most
        # When all have been trained on.
        self._hook("on_epoch_end")

    def _epoch(self, steps_of, order):
        """Yield the batches of an epoch, each (x, y, sample_weight) in arrays of its own."""
        begun = self._pass is not None
        if not begun:
            self._pass = self._new_pass(order)
        first, done = self._next(), 0
        if first is END and begun and not self.passes_once:
            # The epoch before this one has left nothing of its pass.
            self._pass = self._new_pass(order)
            first = self._next()
        if first is END:
            raise self._nothing()
        wanted = itertools.count() if self.steps is None else range(self.steps - 1)
        # So many are read while as many are trained on.
        rest = ahead(self._next, wanted, max(2, steps_of(first)))
        with contextlib.closing(rest):
            for batch in itertools.chain([first], rest):
                if batch is END:
                    break
                yield batch
                done += 1
        if self.steps is not None and done < self.steps:
            warn_of_end(self.name, done, self.steps)
            self._warned = True
        if not self.passes_once and done != self.steps:
            self._pass = None
            if self.steps is None and length(self.source) is not None:
                self._ask_for_nothing()

    def restart(self):
        """Let the next epoch begin a new pass, as Keras does before each evaluation."""
        self.close()
        self._hook("on_epoch_end")

    def close(self):
        """Leave the pass that is under way, and with it the processes that may serve it."""
        if self._pass is not None:
            self._pass.close()
        self._pass = None

    def settings(self):
        """Return what tells this source from another, as far as that can be told."""
        leaves = [leaf for leaf in tree.flatten(self.example) if leaf is not None]
        kinds = [f"{leaf.dtype} {leaf.shape[1:]}" for leaf in leaves]
        return [type(self.source).__name__, str(self.length()), *kinds]

    def _ask_for_nothing(self):
        """Ask for a pass that nobody takes, where Keras does: it may draw an order."""
        asked = {"tensorflow": is_tf, "torch": is_loader}.get(keras.backend.backend())
        if asked is not None and asked(self.source):
            iter(self.source)

    def _next(self, _=None):
        held, self._held = self._held, None
        return next(self._pass) if held is None else held

    def _new_pass(self, order=None):
        """Yield all batches, and then `END` for ever."""
        source = self.source
        if self.passes_once:
            # A second pass would have these two and what nobody has taken; so has Keras's.
            batches = itertools.chain(self._seen, source)
        elif isinstance(source, keras.utils.PyDataset):
            batches = _pass_of(_InOrder(source, order, self.name))
        elif is_tf(source):
            batches = source.as_numpy_iterator()
        else:
            batches = iter(source)
        try:
            for batch in batches:
                yield self._arrays(batch)
            while True:
                yield END
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def _arrays(self, batch):
        if batch is END:
            return END
        try:
            parts = keras.utils.unpack_x_y_sample_weight(batch)
        except ValueError as error:
            raise ValueError(
                f"Expected `{self.name}` to yield x, (x, y) or (x, y, sample_weight). "
                f"Received: a tuple of {len(batch)}"
            ) from error
        # Copies: the source may use its buffers again.
        return tuple(
            tree.map_structure(
                lambda a: None if a is None else np.array(in_place(a, self.name)),
                arrays_of_lists(part, self.name),
            )
            for part in parts
        )

    def _hook(self, name):
        if isinstance(self.source, keras.utils.PyDataset):
            getattr(self.source, name)()

    def _nothing(self):
        return ValueError(f"Expected `{self.name}` to yield batches. Received: none")


class _InOrder(keras.utils.PyDataset):
    """The batches of another dataset in another order; it hears of passes, the other of epochs."""

    def __init__(self, dataset, order, name):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self.dataset = dataset
        self.name = name
        self.places = None
        if order is not None and dataset.num_batches is not None:
            self.places = order(dataset.num_batches)

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def __getitem__(self, i):
        return batch_at(self.dataset, i if self.places is None else int(self.places[i]), self.name)


def _pass_of(dataset):
    adapter = PyDatasetAdapter(dataset)
    # With these, workers begin and end.
    adapter.on_epoch_begin()
    try:
        yield from adapter.get_numpy_iterator()
    finally:
        adapter.on_epoch_end()


def _zeros(spec):
    return np.zeros([1, *spec.shape[1:]], spec.dtype.as_numpy_dtype)


def _kind(batch):
    return tree.map_structure(lambda a: None if a is None else (a.shape, a.dtype.str), batch)


def _joined(batches):
    """Return the rows of several batches, one after the other."""
    return tree.map_structure(
        lambda *parts: None if parts[0] is None else np.concatenate(parts), *batches
    )
