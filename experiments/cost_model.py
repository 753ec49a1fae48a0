"""What a training step costs, alone and together: FLOPs, bytes, messages, and seconds from these.

A step of a network of dense layers on b examples takes 6 FLOPs a weight and example: 2 forward, 2
for the gradient of the weights, 2 for that of the layer's input, which the first layer does
without. A tied dA has two products forward and three backward, 10 FLOPs. What moves through memory
is some multiple of the weights, whatever b is; what moves between P devices that share a batch is
a ring's 2 (P - 1)/P gradients a device, in 2 (P - 1) messages, or a tree's in 2 log₂ P of them
for each array, or for all arrays together
(Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH", 2005).
"""

import dataclasses
import itertools
import math

# Times that the weights pass through memory in a step of plain SGD: read by three products, their
# gradient written and read, themselves read and written.
WEIGHT_PASSES = 7
BYTES = 4


@dataclasses.dataclass(frozen=True)
class Network:
    """A dA or a classifier.

    Args:
        weights: Number of those in kernels.
        flops_a_weight: Of the products of a step, for each example.
        arrays: Sizes of what a step adds up over the devices: gradients and the loss.
    """

    weights: int
    flops_a_weight: float
    arrays: tuple

    @classmethod
    def dA(cls, visible, hidden):
        return cls(visible * hidden, 10.0, (visible * hidden, hidden, visible, 1))

    @classmethod
    def classifier(cls, sizes):
        """Of dense layers between `sizes`, as in (784, 1000, 10)."""
        products = [a * b for a, b in itertools.pairwise(sizes)]
        # The first layer's input needs no gradient.
        flops = (6 * sum(products) - 2 * products[0]) / sum(products)
        return cls(sum(products), flops, (*products, *sizes[1:], 1))


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices and what is between them.

    Args:
        flops: FLOP a second that products reach.
        memory: Bytes a second.
        overhead: Seconds of a step in which nothing is computed: launches, the loop.
        link: Bytes a second that a device sends to its neighbour.
        latency: Seconds of a message, however small.
        a_host: Devices in a host; more of them talk by `network` bytes a second.
        network: As `link`, between hosts.
        together: Whether the arrays of a step travel in one message, as between GPUs. Between
            CPUs, XLA sends one after the other.
    """

    flops: float
    memory: float
    overhead: float
    link: float
    latency: float
    a_host: int = 8
    network: float | None = None
    together: bool = True


# NVIDIA's data sheet of the H100 SXM: 495 TFLOP/s in TF32, 3.35 TB/s, NVLink of 450 GB/s in each
# direction; a 400 Gbit/s network adapter a GPU. That products reach half of it, and what a message
# costs at least, are assumptions; what a step costs was measured (`experiments/one_gpu.py`).
H100 = Machine(
    flops=0.5 * 495e12,
    memory=3.35e12,
    overhead=50e-6,
    link=450e9,
    latency=5e-6,
    network=50e9,
)


def compute_seconds(network, batch, machine):
    """Return the seconds of a step on one device: what takes longer, products or memory."""
    products = network.flops_a_weight * network.weights * batch / machine.flops
    memory = WEIGHT_PASSES * BYTES * network.weights / machine.memory
    return machine.overhead + max(products, memory)


def messages(devices):
    """Return how many messages follow each other in a sum, by the better of ring and tree."""
    return 0 if devices == 1 else 2 * min(devices - 1, math.ceil(math.log2(devices)))


def allreduce_seconds(arrays, devices, machine):
    """Return the seconds in which `devices` add up their float32 `arrays` of these sizes."""
    if devices == 1:
        return 0.0
    link = machine.link if devices <= machine.a_host else machine.network
    sums = 1 if machine.together else len(arrays)
    sent = 2 * (devices - 1) / devices * BYTES * sum(arrays)
    return sums * messages(devices) * machine.latency + sent / link


def step_seconds(network, batch, devices, machine):
    """Return the seconds of a step in which `devices` share a `batch`."""
    alone = compute_seconds(network, batch / devices, machine)
    return alone + allreduce_seconds(network.arrays, devices, machine)


def local_seconds(network, batch, devices, machine, every):
    """Return the seconds of a step on `batch` examples a device, with an average `every` steps."""
    average = allreduce_seconds(network.arrays, devices, machine)
    return compute_seconds(network, batch, machine) + average / every


def speedup(network, batch, devices, machine):
    """Return how many times as fast `devices` that share a batch are as one that has it all."""
    return step_seconds(network, batch, 1, machine) / step_seconds(network, batch, devices, machine)


def most_useful(network, batch, machine, efficiency=0.5, most=1024):
    """Return up to how many devices, a power of two, each has `efficiency` of one's speed alone."""
    fits = [
        devices
        for devices in (2**k for k in range(int(math.log2(most)) + 1))
        if devices <= batch and speedup(network, batch, devices, machine) >= efficiency * devices
    ]
    return max(fits)
