/**
 * What one output of a stack of convolutions depends on: its receptive field and its stride.
 *
 * Going back from the last layer, n neighboring outputs of a convolution read (n-1)·s + d·(K-1) + 1 inputs in a row, and
 * those of a transposed one at most ⌊(n-1 + d·(K-1)) / s⌋ + 1.
 *
 * Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill (2019).
 */

import { InvalidArgumentError } from "../errors.js";
import { Words } from "../text.js";

/** The window of one convolution, with one value per axis. */
export interface Window {
  readonly kernel: readonly number[];
  readonly stride: readonly number[];
  readonly dilation: readonly number[];
  readonly transposed: boolean;
}

/** What has windows: a geometry, a plan, the plan of a step, a layer. */
export interface HasWindows {
  readonly windows: readonly Window[];
}

/**
 * Input elements per axis, from the first to the last, that one output of a stack depends on; [] without convolutions.
 *
 * @throws InvalidArgumentError if they have different numbers of axes.
 */
export function receptiveField(layers: HasWindows | Iterable<HasWindows>): number[] {
  const windows = "windows" in layers ? layers.windows : [...layers].flatMap((layer) => layer.windows);
  const ranks = windows.map((w) => w.kernel.length);
  if (new Set(ranks).size > 1) {
    throw InvalidArgumentError.of("layers", "convolutions of one rank", new Words(`ranks [${ranks.join(", ")}]`));
  }
  return Array.from({ length: ranks[0] ?? 0 }, (_, axis) =>
    windows.reduceRight((field, window) => {
      const [k, s, d] = [window.kernel[axis]!, window.stride[axis]!, window.dilation[axis]!];
      const reach = d * (k - 1);
      return window.transposed ? Math.floor((field - 1 + reach) / s) + 1 : (field - 1) * s + reach + 1;
    }, 1),
  );
}

/** Input elements per axis between two neighboring outputs of a stack; less than 1 where outputs are denser than inputs. */
export function strideOf(windows: readonly Window[]): number[] {
  return Array.from({ length: windows[0]?.kernel.length ?? 0 }, (_, axis) =>
    windows.reduce((product, w) => (w.transposed ? product / w.stride[axis]! : product * w.stride[axis]!), 1),
  );
}
