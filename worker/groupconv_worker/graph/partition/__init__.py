"""Networks over several workers: which worker makes which box of each tensor, and which boxes travel.

A `Cut` says which box of a tensor each worker makes: all of it on every worker or on one; samples, rows, columns;
groups of channels (towers) or filters. Any tensor may be cut in any way. `partition` derives the rest:

- each worker's `Part`: a graph of its own. Convolutions have padding only at the true edges of the map, and the groups
  and weights of the filters that the worker makes. Nodes `Send` and `Receive` stand where boxes leave and arrive.
- every `Exchange`: the box of a tensor that one worker sends to another. Halos, the channels of the other tower and all
  that a Gemm needs are the same thing: boxes that are needed, without those that the worker makes itself.
- the boxes of the inputs that each worker is sent, and those of the outputs that it gives back.

All workers follow the order of the whole graph's nodes, and nobody waits to send. So what a worker waits for comes
from an earlier node, and they cannot wait for one another in a circle. An operator that cannot make a part of its
output alone makes more of it, and the rest is dropped; an unknown operator is computed whole. Sums over input channels
are not cut. So each element is computed from the same values in the same order as in the whole network, and
`run_partition` gives the same bits as the whole graph on the reference.

Example: a convolution of three taps, its map cut into rows.

    >>> import numpy as np
    >>> from groupconv_worker.graph.graph import Graph, Node, Tensor
    >>> from groupconv_worker.graph.partition.cut import Cut, even
    >>> from groupconv_worker.graph.partition.partition import partition
    >>> from groupconv_worker.graph.partition.reference import run_partition
    >>> f32, rng = np.dtype("float32"), np.random.default_rng(0)
    >>> shapes = {"x": (1, 4, 8, 8), "w": (4, 4, 3, 3), "c": (1, 4, 8, 8), "v": (4, 4, 3, 3), "y": (1, 4, 8, 8)}
    >>> attributes = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1,) * 4, "group": 1}
    >>> nodes = (Node("Conv", ("x", "w"), ("c",), attributes), Node("Conv", ("c", "v"), ("y",), attributes))
    >>> constants = {name: rng.standard_normal(shapes[name]).astype(f32) for name in "wv"}
    >>> tensors = {name: Tensor(name, f32, shape) for name, shape in shapes.items()}
    >>> graph = Graph(("x",), ("y",), nodes, tensors, constants)
    >>> cuts = {name: Cut.along(shapes[name], 2, even(8, 2)) for name in "cy"}
    >>> made = partition(graph, cuts, workers=2)
    >>> [node.op for node in made.parts[0].graph.nodes]
    ['Conv', 'Send', 'Receive', 'Conv']
    >>> made.parts[0].graph.nodes[0].attributes["pads"], made.parts[0].inputs["x"].ranges[2]
    ((1, 1, 0, 1), Range(start=0, stop=5))
    >>> [(e.tensor, e.sender, e.receiver, e.box.ranges[2], e.nbytes) for e in made.exchanges]
    [('c', 1, 0, Range(start=4, stop=5), 128), ('c', 0, 1, Range(start=3, stop=4), 128)]
    >>> x = rng.standard_normal(shapes["x"]).astype(f32)
    >>> from groupconv_worker.graph.operators.matrices import ordered_product
    >>> from groupconv_worker.graph.operators.table import run_reference
    >>> bool((run_partition(made, {"x": x})["y"] == run_reference(graph, {"x": x}, ordered_product)["y"]).all())
    True
"""
