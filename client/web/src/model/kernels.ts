/** Kernels by name: filters of an image, pairs of factors, and mixtures of colors. */

/** A square kernel: `size` rows of `size` cells. */
export interface Kernel {
  readonly size: number;
  readonly cells: readonly number[];
}

const square = (...cells: number[]): Kernel => ({ size: Math.sqrt(cells.length), cells });
const scaled = (factor: number, kernel: Kernel): Kernel => ({
  size: kernel.size,
  cells: kernel.cells.map((v) => v * factor),
});

export const KERNELS: Readonly<Record<string, Kernel>> = {
  identity: square(0, 0, 0, 0, 1, 0, 0, 0, 0),
  "box blur": scaled(1 / 9, square(1, 1, 1, 1, 1, 1, 1, 1, 1)),
  gaussian: scaled(1 / 256, square(1, 4, 6, 4, 1, 4, 16, 24, 16, 4, 6, 24, 36, 24, 6, 4, 16, 24, 16, 4, 1, 4, 6, 4, 1)),
  sharpen: square(0, -1, 0, -1, 5, -1, 0, -1, 0),
  "sobel x": square(-1, 0, 1, -2, 0, 2, -1, 0, 1),
  "sobel y": square(-1, -2, -1, 0, 0, 0, 1, 2, 1),
  laplacian: square(0, 1, 0, 1, -4, 1, 0, 1, 0),
  emboss: square(-2, -1, 0, -1, 1, 1, 0, 1, 2),
  bilinear: scaled(1 / 16, square(1, 3, 3, 1, 3, 9, 9, 3, 3, 9, 9, 3, 1, 3, 3, 1)),
};

/** Column and row of a kernel of rank 1. */
export interface Factors {
  readonly column: readonly number[];
  readonly row: readonly number[];
}

const binomial = [1, 4, 6, 4, 1].map((v) => v / 16);
export const FACTORS: Readonly<Record<string, Factors>> = {
  gaussian: { column: binomial, row: binomial },
  "box blur": { column: [1, 1, 1].map((v) => v / 3), row: [1, 1, 1].map((v) => v / 3) },
  "sobel x": { column: [1, 2, 1], row: [-1, 0, 1] },
  "sobel y": { column: [-1, 0, 1], row: [1, 2, 1] },
};

/** Rows of weights, one for each output channel, over red, green and blue. */
export const MIXES: Readonly<Record<string, readonly (readonly number[])[]>> = {
  "swap red and blue": [
    [0, 0, 1],
    [0, 1, 0],
    [1, 0, 0],
  ],
  gray: [[0.299, 0.587, 0.114]],
  sepia: [
    [0.393, 0.769, 0.189],
    [0.349, 0.686, 0.168],
    [0.272, 0.534, 0.131],
  ],
  "red minus green": [[1, -1, 0]],
};

/** The kernel after quarter turns, counterclockwise. */
export function turned(kernel: Kernel, turns: number): Kernel {
  let { cells } = kernel;
  const n = kernel.size;
  for (let t = 0; t < turns % 4; t++) {
    cells = cells.map((_, i) => cells[(i % n) * n + (n - 1 - Math.floor(i / n))]!);
  }
  return { size: n, cells };
}

/** The kernel with another size: cells are cut off or added as zeros, around its center. */
export function resized(kernel: Kernel, size: number): Kernel {
  const offset = Math.floor(kernel.size / 2) - Math.floor(size / 2);
  const cells = Array.from({ length: size * size }, (_, i) => {
    const [y, x] = [Math.floor(i / size) + offset, (i % size) + offset];
    const inside = y >= 0 && x >= 0 && y < kernel.size && x < kernel.size;
    return inside ? kernel.cells[y * kernel.size + x]! : 0;
  });
  return { size, cells };
}

/** The kernel of two factors. */
export function product({ column, row }: Factors): number[] {
  return column.flatMap((a) => row.map((b) => a * b));
}
