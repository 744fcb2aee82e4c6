/**
 * Padding rules resolved to a [low, high] pair per axis.
 *
 * Source: the ONNX operators Conv and ConvTranspose for SAME_UPPER and SAME_LOWER.
 */

import { InvalidArgumentError } from "../errors.js";
import { shown } from "../text.js";
import { paddingPairs, type ConvSpec, type Pair, type PaddingMode } from "./spec.js";

/** Elements from the first to the last tap of a dilated kernel: d·(K-1) + 1. */
export function effectiveExtent(kernel: number, dilation: number): number {
  return dilation * (kernel - 1) + 1;
}

/** Padding after which a convolution has ceil(extent / stride) outputs; `reach` is the kernel's effective extent. */
function samePadding(extent: number, reach: number, stride: number, lower: boolean): Pair {
  return split(Math.max(0, (Math.ceil(extent / stride) - 1) * stride + reach - extent), lower);
}

/**
 * Padding of each axis.
 *
 * @param reach effective extent of the kernel, per axis.
 * @throws InvalidArgumentError if a transposed convolution cannot satisfy the rule.
 */
export function resolvePadding(
  spec: ConvSpec,
  extents: readonly number[],
  reach: readonly number[],
  stride: readonly number[],
  outPad: readonly number[],
): Pair[] {
  if (typeof spec.padding !== "string") return paddingPairs(spec.padding, extents.length);
  if (spec.padding === "valid") return extents.map((): Pair => [0, 0]);
  const lower = spec.padding === "same_lower";
  if (!spec.transposed) return extents.map((h, i) => samePadding(h, reach[i]!, stride[i]!, lower));
  return extents.map((_, i) => {
    const [e, s, r] = [reach[i]!, stride[i]!, outPad[i]!];
    const total = e + r - s; // leaves H·s outputs
    if (total < 0) {
      const rule = `padding=${shown(spec.padding)}`;
      const expected = `a kernel that spans the stride (${s}), or output_padding=${s - e}, for ${rule}`;
      throw InvalidArgumentError.of("padding", expected, `kernel extent ${e}`);
    }
    return split(total, lower);
  });
}

/** @throws InvalidArgumentError if a padding mode cannot fill the padding of an axis from the input. */
export function checkPaddingMode(mode: PaddingMode, extents: readonly number[], padding: readonly Pair[]): void {
  if (mode !== "reflect" && mode !== "circular") return;
  extents.forEach((h, axis) => {
    const most = mode === "reflect" ? h - 1 : h;
    const pair = padding[axis]!;
    if (Math.max(...pair) > most) {
      throw InvalidArgumentError.of(`padding[${axis}]`, `at most ${most} for padding_mode=${shown(mode)}`, pair);
    }
  });
}

function split(total: number, lower: boolean): Pair {
  const less = Math.floor(total / 2);
  return lower ? [total - less, less] : [less, total - less];
}
