"""Vector code inside Numba kernels: a small layer over the LLVM builder that Numba hands to an intrinsic.

Numba vectorises loops by itself, but not the register blocking that a convolution lives from: a block of
accumulators that stays in registers over all taps. So the innermost block of each kernel is an intrinsic
whose Python code *emits* vector instructions; Python loops over filters, rows and taps unroll it. The loops
around the block are ordinary Numba.

One vector is as wide as the registers of the target (target.py): `WIDTH` bytes.
"""

import platform
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, config

from groupconv_worker.cpu.kernels.target import X86, target

llvmlite.binding.initialize_native_asmparser()
WIDTH = target().vector_bytes
"""Bytes of one vector in the kernels: 16, 32 or 64."""
ACCUMULATORS = target().accumulators
"""Vectors that may stay in registers beside the operands: of 32 registers (AVX-512, NEON), of 16 (AVX2)."""
MASKS = WIDTH == 64
"""Whether a store of some lanes is as fast as one of all. AVX2's takes a dozen cycles on AMD, NEON has none."""
MASKED_LOADS = WIDTH > 16
"""Whether one instruction loads some lanes. NEON has none: LLVM tests and loads lane by lane, some 20 instructions for
a vector, so kernels branch once to code that knows its vectors are whole."""
if target().cpu is not None:  # Numba reads these when it first compiles, and makes them part of its cache's key
    config.CPU_NAME, config.CPU_FEATURES = target().cpu, target().features

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


def lanes(itemsize: int) -> int:
    """Elements of `itemsize` bytes in one vector.

    Example:
        >>> lanes(4) * 4 == WIDTH
        True
    """
    return WIDTH // itemsize


def i64(value: int) -> Any:
    """The constant `value` as a 64-bit integer."""
    return ir.Constant(I64, value)


def pointer(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """The address of the first element of a Numba array."""
    return context.make_array(array_type)(context, builder, array).data


class Simd:
    """Emits operations on vectors of one element type: float, double or int32.

    Args:
        builder: where the instructions go.
        element: LLVM type of a lane.
        count: lanes, by default as many as a register holds; LLVM splits vectors of more.
    """

    def __init__(self, builder: Any, element: Any, count: int | None = None) -> None:
        self.builder, self.element = builder, element
        self.is_integer = isinstance(element, ir.IntType)
        self.itemsize = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = count or lanes(self.itemsize)
        self.type = ir.VectorType(element, self.lanes)
        self.mask_type = ir.VectorType(I1, self.lanes)
        self.index_type = ir.VectorType(I32, self.lanes)
        self.zero = ir.Constant(self.type, [0 if self.is_integer else 0.0] * self.lanes)
        self.undefined = ir.Constant(self.type, ir.Undefined)
        letter = "i32" if self.is_integer else "f64" if self.itemsize == 8 else "f32"
        self.suffix = f"v{self.lanes}{letter}"

    def _call(self, name: str, result: Any, *arguments: Any) -> Any:
        signature = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.{name}")
        return self.builder.call(function, arguments)

    def _vector(self, address: Any) -> Any:
        return self.builder.bitcast(address, self.type.as_pointer())

    def load(self, address: Any) -> Any:
        """The vector at `address`, which needs no alignment but the element's."""
        return self.builder.load(self._vector(address), align=self.itemsize)

    def prefetch(self, address: Any) -> None:
        """Bring the line at an address, which need not be there, into the first cache."""
        place = self.builder.bitcast(address, I8.as_pointer())
        hints = [ir.Constant(I32, hint) for hint in (0, 3, 1)]  # to read, all levels, data
        self._call("prefetch.p0", ir.VoidType(), place, *hints)

    def load_masked(self, address: Any, mask: Any) -> Any:
        """The vector at `address`; lanes outside the mask are zero and not read."""
        align = ir.Constant(I32, self.itemsize)
        name = f"masked.load.{self.suffix}.p0"
        return self._call(name, self.type, self._vector(address), align, mask, self.zero)

    def store(self, vector: Any, address: Any) -> None:
        """Write a whole vector."""
        self.builder.store(vector, self._vector(address), align=self.itemsize)

    def store_first(self, vector: Any, address: Any, count: Any) -> None:
        """Write the first `count` lanes (i64: all of them if it is larger), touch no other byte."""
        b = self.builder
        if MASKS:
            self._store_masked(vector, address, self.inside(i64(0), count))
            return
        with b.if_else(b.icmp_signed(">=", count, i64(self.lanes))) as (all_of_them, otherwise):
            with all_of_them:
                self.store(vector, address)
            with otherwise:
                self._store_parts(vector, address, count, self.lanes // 2)

    def _store_parts(self, vector: Any, address: Any, count: Any, half: int) -> None:
        """Write the first `count` of 2·half lanes: of each size half, half/2, … 1 one part or none."""
        b = self.builder
        rest, start = cgutils.alloca_once_value(b, vector), cgutils.alloca_once_value(b, address)
        while half:
            with b.if_then(
                b.and_(b.icmp_signed(">", count, i64(0)), b.icmp_signed("!=", b.and_(count, i64(half)), i64(0)))
            ):
                self._store_part(b.load(rest), b.load(start), half)
                b.store(self.shift(b.load(rest), half), rest)
                b.store(b.gep(b.load(start), [i64(half)]), start)
            half //= 2

    def shift(self, vector: Any, by: int) -> Any:
        """Lanes from `by` on, moved to the front."""
        order = [min(lane + by, self.lanes - 1) for lane in range(self.lanes)]
        return self.builder.shuffle_vector(vector, self.undefined, self._constants(order))

    def _store_part(self, vector: Any, address: Any, count: int) -> None:
        """Write the first `count` lanes, a power of two."""
        b, kind = self.builder, ir.VectorType(self.element, count)
        part = b.shuffle_vector(vector, self.undefined, ir.Constant(ir.VectorType(I32, count), list(range(count))))
        b.store(part, b.bitcast(address, kind.as_pointer()), align=self.itemsize)

    def store_every(self, vector: Any, address: Any, step: int, count: int) -> None:
        """Write the first `count` lanes `step` elements apart, touch no other byte."""
        b = self.builder
        if step == 1:
            self._store_few(vector, address, count)
        elif not MASKS:
            for lane in range(count):
                b.store(b.extract_element(vector, ir.Constant(I32, lane)), b.gep(address, [i64(lane * step)]))
        else:
            self._scatter(vector, address, step, count)

    def _store_few(self, vector: Any, address: Any, count: int) -> None:
        """Write the first `count` lanes."""
        if count == self.lanes:
            self.store(vector, address)
        elif MASKS:
            self.store_first(vector, address, i64(count))
        else:
            for size in (n for n in (8, 4, 2, 1) if n < self.lanes and n & count):
                self._store_part(vector, address, size)
                vector, address = self.shift(vector, size), self.builder.gep(address, [i64(size)])

    def _scatter(self, vector: Any, address: Any, step: int, count: int) -> None:
        """Write the first `count` lanes `step` elements apart by masked stores."""
        for start in range(0, step * (count - 1) + 1, self.lanes):
            cells = range(start, start + self.lanes)
            there = [cell % step == 0 and cell // step < count for cell in cells]
            pick = [cell // step if mine else 0 for cell, mine in zip(cells, there, strict=True)]
            part = self.builder.shuffle_vector(vector, vector, self._constants(pick))
            self._store_masked(part, self.builder.gep(address, [i64(start)]), ir.Constant(self.mask_type, there))

    def _store_masked(self, vector: Any, address: Any, mask: Any) -> None:
        align = ir.Constant(I32, self.itemsize)
        self._call(f"masked.store.{self.suffix}.p0", ir.VoidType(), vector, self._vector(address), align, mask)

    def _constants(self, values: list[int]) -> Any:
        return ir.Constant(self.index_type, values)

    def splat(self, scalar: Any) -> Any:
        """The scalar in every lane."""
        kind = ir.VectorType(scalar.type, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(self.index_type, [0] * self.lanes))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a·b + c: fused for floats, modulo 2³² for integers."""
        if self.is_integer:
            return self.builder.add(self.builder.mul(a, b), c)
        return self._call(f"fma.{self.suffix}", self.type, a, b, c)

    def relu(self, vector: Any, wanted: Any) -> Any:
        """max(0, vector) where `wanted` (i1) is true; a NaN stays a NaN, as in PyTorch."""
        b = self.builder
        compare = b.icmp_signed if self.is_integer else b.fcmp_ordered
        negative = b.and_(compare("<", vector, self.zero), self.splat(wanted))
        return b.select(negative, self.zero, vector)

    def inside(self, start: Any, extent: Any) -> Any:
        """Mask of the lanes l with 0 <= start + l < extent (i64, below 2³¹)."""
        b = self.builder
        steps = ir.Constant(self.index_type, list(range(self.lanes)))
        index = b.add(self.splat(b.trunc(start, I32)), steps)
        return b.icmp_unsigned("<", index, self.splat(b.trunc(extent, I32)))  # a negative index is a large one

    def every(self, step: int, parts: list[Any]) -> Any:
        """Lanes 0, step, 2·step, … of the `step` vectors in `parts`, laid end to end."""
        vector = parts[0]
        taken = [step * lane for lane in range(self.lanes)]
        for number, part in enumerate(parts):
            low = number * self.lanes
            pick = [
                lane if source < low or not low <= source < low + self.lanes else self.lanes + source - low
                for lane, source in enumerate(taken)
            ]
            vector = self.builder.shuffle_vector(vector, part, ir.Constant(self.index_type, pick))
        return vector

    def slide(self, left: Any, right: Any, by: int) -> Any:
        """Lanes `by` … `by` + lanes - 1 of two vectors laid end to end. AVX-512 alone.

        LLVM would permute by an index, which takes a register more and a copy.
        """
        if by in (0, self.lanes):
            return right if by else left
        name = "valignd" if self.itemsize == 4 else "valignq"
        kind = ir.FunctionType(self.type, [self.type] * 2)
        return self.builder.asm(kind, f"{name} $${by}, $1, $2, $0", "=v,v,v", [left, right], side_effect=False)

    def broadcast(self, address: Any, offset: int, number: int) -> Any:
        """The element `offset` behind `address` in every lane, loaded anew for each `number`. AVX-512 alone.

        LLVM would load all weights of a kernel at once, and keep those it has no registers for in memory, as vectors.
        """
        name = "vbroadcastss" if self.itemsize == 4 else "vbroadcastsd"
        kind = ir.FunctionType(self.type, [address.type])
        code = f"{name} {offset * self.itemsize}($1), $0 # {number}"
        return self.builder.asm(kind, code, "=v,r", [address], side_effect=False)

    def permute(self, vector: Any, order: Any) -> Any:
        """Lane l of the result is lane order[l] of a vector of floats."""
        name = {64: "x86.avx512.permvar.sf.512", 32: "x86.avx2.permps", 16: "x86.avx.vpermilvar.ps"}[WIDTH]
        if platform.machine() in X86:
            return self._call(name, self.type, vector, order)
        b, moved = self.builder, self.undefined
        for lane in range(self.lanes):
            element = b.extract_element(vector, b.extract_element(order, ir.Constant(I32, lane)))
            moved = b.insert_element(moved, element, ir.Constant(I32, lane))
        return moved

    def load_rows(self, address: Any, distance: Any, count: Any, mask: Any) -> list[Any]:
        """A vector at each of `lanes` addresses, `distance` elements apart; from `count` on zeros, not read."""
        b = self.builder
        places = [b.gep(address, [b.mul(distance, i64(lane))]) for lane in range(self.lanes)]

        def load_each() -> list[Any]:
            there = [self.splat(b.icmp_signed("<", i64(lane), count)) for lane in range(self.lanes)]
            return [self.load_masked(p, b.and_(mask, t)) for p, t in zip(places, there, strict=True)]

        if MASKED_LOADS:
            return load_each()
        found = [cgutils.alloca_once(b, self.type) for _ in places]
        with b.if_else(b.and_(self._full(mask), b.icmp_signed(">=", count, i64(self.lanes)))) as (whole, part):
            with whole:
                for place, row in zip(places, found, strict=True):
                    b.store(self.load(place), row)
            with part:
                for vector, row in zip(load_each(), found, strict=True):
                    b.store(vector, row)
        return [b.load(row) for row in found]

    def _full(self, mask: Any) -> Any:
        """Whether every lane is in the mask (i1)."""
        bits = ir.IntType(self.lanes)
        return self.builder.icmp_unsigned("==", self.builder.bitcast(mask, bits), ir.Constant(bits, 2**self.lanes - 1))

    def transpose(self, vectors: list[Any]) -> list[Any]:
        """Up to `lanes` vectors as rows of a square matrix -> its columns (rows not given are undefined).

        log2(lanes) rounds of interleaving row i with row i + lanes/2 make each row a column.
        """
        n, half = self.lanes, self.lanes // 2
        low = ir.Constant(self.index_type, [k for i in range(half) for k in (i, n + i)])
        high = ir.Constant(self.index_type, [k for i in range(half, n) for k in (i, n + i)])
        rows = vectors + [self.undefined] * (n - len(vectors))
        for _ in range(n.bit_length() - 1):
            pairs = list(zip(rows[:half], rows[half:], strict=True))
            rows = [self.builder.shuffle_vector(a, b, order) for a, b in pairs for order in (low, high)]
        return rows
