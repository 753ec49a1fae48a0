"""Steps that the devices of a mesh take together, on JAX under `keras.distribution.DataParallel`.

The weights are on every device. Of each batch every process reads its part, and every device
computes the gradient of its part; their mean is that of the batch. The noise is drawn for the
batch as a whole, so it is that of a single device.
"""

import functools

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

from sda.distribution import processes
from sda.training import feed
from sda.training import jax as single
from sda.training.feed import map_leaves


class Driver(single.Driver):
    """The driver of a model whose variables are on every device of the mesh."""

    def __init__(self, model):
        self.mesh = mesh_of(model)
        super().__init__(model)

    def _compiled(self, function):
        return jax.jit(function, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def _rows(self, data, batches, i):
        return jax.tree.map(lambda a: a[i], data)


class Feed(feed.Feed):
    """Brings to every device its part of each batch, which its process reads."""

    def _may_reside(self):
        return False

    def _read(self, part):
        """Return what this process reads of a piece, as arrays of `(steps, rows, ...)`."""
        batches, steps = part
        width = batches.shape[1]
        # A batch that the devices cannot divide is read, and computed, by all of them.
        if self._divides(width):
            width //= processes.count()
            batches = batches[:, processes.rank() * width :][:, :width]
        arrays = super()._read((batches, steps))
        return map_leaves(lambda a: a.reshape(-1, width, *a.shape[1:]), arrays)

    def _sent(self, arrays, width):
        mesh = self.driver.mesh
        spec = PartitionSpec(None, mesh.axis_names[0] if self._divides(width) else None)
        sharding = NamedSharding(mesh, spec)
        put = functools.partial(jax.make_array_from_process_local_data, sharding)
        return map_leaves(put, arrays), None

    def _divides(self, width):
        return width % self.driver.mesh.size == 0


def mesh_of(model):
    """Return JAX's mesh of the distribution; raise `ValueError` unless the model can be trained."""
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.DataParallel):
        raise ValueError(
            "Expected keras.distribution.DataParallel: dAs are small, and every device holds all "
            f"weights. Received: {distribution!r}"
        )
    mesh = distribution.device_mesh.backend_mesh
    if mesh.devices.ndim != 1:
        raise ValueError(
            f"Expected a mesh of one axis, that of the batch. Received: {mesh.axis_names}"
        )
    devices = set(mesh.devices.flat)
    for variable in (*model.variables, *model.optimizer.variables):
        if variable.value.sharding.device_set != devices:
            raise ValueError(
                "Expected keras.distribution.set_distribution before the model was made, so that "
                f"all {len(devices)} devices have its weights. Received: {variable.path!r} on "
                f"{sorted(map(str, variable.value.sharding.device_set))}"
            )
    return mesh
